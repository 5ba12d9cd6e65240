"""How each long job of the package is interrupted: tiny inputs, a scenario a job; the law is in `test_interruption.py`.

A scenario is a function `call(subject, out, tell)`, made known by `@scenario`: it does the job in the folder `out`,
telling `tell`, and returns what must be the same however often it was interrupted. It is called again as it was called.
They are in `interruption_training.py`, `interruption_files.py` and `interruption_lab.py`.
"""

from __future__ import annotations

import interruption_files
import interruption_lab
import interruption_training

__all__ = ["EXEMPT", "interruption_files", "interruption_lab", "interruption_training"]

# What the rules find and no scenario interrupts, each with the reason.
EXEMPT = {
    "psla.audio.worker_handle.WorkerHandle.messages": "a worker that does not come to its end is replaced: DecodePool",
    "psla.tagging.batch.FileStream.blocks": "what one reader takes out of a queue, once: tag_groups makes another",
    "psla.tagging.batch.WindowTagger.windows": "what a Tagger is to batches; the Tagger's own is `cut_windows`",
    "psla.metrics.resampling.drawn_precisions": "in memory: `compare` and the lab's verdicts write what it gives",
    "psla.training.logistic.regress": "in memory; `fit` writes what it gives",
    "psla.training.cross_fit.Task.head": "in memory; `fit` writes what it gives",
    "psla.training.cross_fit.cross_validate": "in memory; `fit` writes what it gives",
    "psla.training.cross_fit.measured": "in memory; `fit` writes what it gives",
    "psla.corpora.audioset.corpus.read": "`scan`, and no more",
    "psla.tagging.tagger.load": "`load_any`, and no more",
    "psla.techniques.pretraining.load_imagenet": "`weights_file`, then in memory",
    "psla.training.session.build_network": "`load_imagenet`, then in memory",
    "psla.training.session.Session.predict": "a step of `train` and `resume`, which are interrupted within it",
    "psla.lab.tables.plan.measure": "measures time, and nothing else comes out",
    "psla.data.pack.remote.pack_remote": "writes objects, not files; `test_remote.py` breaks it off",
    "psla.remote.fetched": "one object, whole or not; told once, at the end",
    "psla.spread.in_turn": "hands out what tasks give; the jobs that are spread are interrupted",
    "psla.lab.experiment.train_apart": "`trained` in tasks; `cross_validate` calls it",
    "psla.lab.experiment.train_task": "`trained`, and no more",
    "psla.lab.tables.runner.Trainings.train": "`train` or `resume`, and no more; `carry_out` calls it",
    "psla.tagging.apart.tag_apart": "`TagJob.rows` in tasks, with its journal; `test_spread.py` breaks it off",
    "psla.training.trackers.contract.Trackers": "told of trackers that fail, which is no progress",
    "psla.weights.hub.fetched": "what `huggingface_hub` fetches, who goes on by itself; told once, at the end",
    "psla.lab.experiment.trained": "`train` or `resume`, and no more; `teach` and `cross_validate` call it",
    "psla.lab.folds.cross_validation.train_singles": "what `cross_validate` begins with, and no more",
    "psla.lab.folds.cross_validation.train_students": "what `cross_validate` goes on with, and no more",
    "psla.lab.folds.selection.train_candidates": "what `select` begins with, and no more",
    "psla.lab.tables.report.report_parts": "in memory; `write_report` writes what it gives",
    "psla.lab.tables.report_figures.figures": "in memory; `write_report` writes what it gives",
    "psla.lab.tables.results.row_result": "in memory but for `sweep`; `carry_out` writes what it gives",
}
