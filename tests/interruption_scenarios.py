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
    "psla.audio.live.raw_pcm": "live: what has passed does not come again, and nothing is written",
    "psla.audio.live.container": "live, as raw_pcm",
    "psla.audio.live.again": "live, as raw_pcm",
    "psla.audio.live.microphone": "live, as raw_pcm",
    "psla.tagging.live.listen.listen": "live: what ends it closes its events; see test_listen",
    "psla.tagging.live.deliver.Delivery": "live: a queue in memory; `failed` is told what is lost",
    "psla.tagging.live.recorder.Recorder": "live: `failed` is told of a disk, not of how it gets on",
    "psla.tagging.tagger.Cutter.push": "in memory: what `cut_windows` is made of, which is interrupted",
    "psla.tagging.tagger.Cutter.close": "in memory, as Cutter.push",
    "psla.tagging.tracking.Track.push": "in memory: a few steps of one class",
    "psla.tagging.tracking.Track.close": "in memory, as Track.push",
    "psla.tagging.job.TagJob.fresh": "what `rows` is made of, which is interrupted",
    "psla.tagging.batch.FileStream.blocks": "what one reader takes out of a queue, once: tag_groups makes another",
    "psla.tagging.batch.WindowTagger.windows": "what a Tagger is to batches; the Tagger's own is `cut_windows`",
    "psla.serve.decoding.decode": "the decoder of a worker: what it gives goes to a client, and nothing is kept",
    "psla.serve.decoding.Decoded.blocks": "what one request takes out of a worker, once; another request has another",
    "psla.serve.answers.Outline.passed": "in memory; what one request shows",
    "psla.serve.answers.Outline.picture": "in memory; what one request shows",
    "psla.serve.engine.Engine": "a thread without an end; the laws of test_serve.py stop it and go away from it",
    "psla.serve.server.Server": "a service without an end; the laws of test_serve.py stop it under load",
    "psla.audio.lease.Lease.messages": "an attempt at a job of DecodePool, which is interrupted within it",
    "psla.report.view.draw": "in memory, then one picture, whole or not at all",
    "psla.report.view.hz_marks": "in memory",
    "psla.report.view.player": "in memory; `write_page` writes what it gives",
    "psla.tagging.fit_page.write_fit_page": "in memory, then one page, whole or not at all",
    "psla.tagging.view.Views.log_mel": "in memory; pictures and pages are written of it, whole or not at all",
    "psla.metrics.resampling.drawn_precisions": "in memory: `compare` and the lab's verdicts write what it gives",
    "psla.training.logistic.regress": "in memory; `fit` writes what it gives",
    "psla.training.cross_fit.Task.head": "in memory; `fit` writes what it gives",
    "psla.training.cross_fit.cross_validate": "in memory; `fit` writes what it gives",
    "psla.training.cross_fit.measured": "in memory; `fit` writes what it gives",
    "psla.training.calibrate.ask": "`predict`, and no more; `calibrate` writes what is made of it",
    "psla.training.review.suspects": "in memory; `fit` writes what it gives",
    "psla.training.similar.near_pairs": "in memory; `find` and `fit` give what it finds",
    "psla.training.tune.compared": "in memory; `fit` writes what it gives",
    "psla.training.tune.tune": "`train` or `resume`, then `predict`; `fit` writes what it gives",
    "psla.export.parity.compare": "in memory; `export` writes what it gives",
    "psla.export.write.export": "one file, written last and whole; what goes before it is in memory",
    "psla.export.write.labelled": "reads into memory; `export` takes what it gives",
    "psla.export.write.recordings": "reads into memory; `export` takes what it gives",
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
    "psla.tagging.job.tag_apart": "`TagJob.rows` in tasks, with its journal; `test_spread.py` breaks it off",
    "psla.training.trackers.contract.Trackers": "told of trackers that fail, which is no progress",
    "psla.weights.hub.fetched": "what `huggingface_hub` fetches, who goes on by itself; told once, at the end",
    "psla.lab.experiment.trained": "`train` or `resume`, and no more; `teach` and `cross_validate` call it",
    "psla.lab.folds.cross_validation.train_singles": "what `cross_validate` begins with, and no more",
    "psla.lab.folds.cross_validation.train_students": "what `cross_validate` goes on with, and no more",
    "psla.lab.folds.selection.train_candidates": "what `select` begins with, and no more",
    "psla.lab.tables.power.run_in_looks": "`carry_out`, then looks.json at once; test_power.py stops it between looks",
    "psla.lab.tables.report.report_parts": "in memory; `write_report` writes what it gives",
    "psla.lab.tables.report_figures.figures": "in memory; `write_report` writes what it gives",
    "psla.lab.tables.results.row_result": "in memory but for `sweep`; `carry_out` writes what it gives",
}
