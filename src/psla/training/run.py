"""Run: the folder that a training leaves behind: recipe, environment, log, checkpoints, predictions, scores, models."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.vocabulary import Vocabulary
from psla.files import remove_leftovers, sha256_of, write_json_atomic, write_text_atomic
from psla.metrics.predictions import Predictions, average
from psla.metrics.scores import Scores, score
from psla.model.clip_ids import hashed
from psla.model.file import ModelCard, load_tensors, read_tensors, save_model
from psla.model.inference import Inference
from psla.model.network import TaggingNetwork
from psla.model.tensor_file import write_sealed
from psla.report.figures import learning_curve, sorted_average_precision
from psla.sealed import is_sealed, read_json, seal_text, write_json
from psla.techniques.aggregation import average_weights
from psla.techniques.pretraining import InitReport, PretrainingReport
from psla.training.recipe import Recipe, RecipeError
from psla.training.run_tables import LOG_COLUMNS as LOG_COLUMNS
from psla.training.run_tables import RunError as RunError
from psla.training.run_tables import read_rows, write_rows

_LAST_KEY = re.compile(r"^seed: \d+\n\Z", re.MULTILINE)


class Run:
    """A run folder.

    Attributes:
        folder: where it is. model_file: what a user loads (the averaged weights). predictions: the folder of prediction
        files, `SPLIT/NAME.safetensors`. teacher: the one with what a live teacher says of the training clips. scores:
        what scores.json holds, {split: {variant: scores}}.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.model_file = self.folder / "model.safetensors"
        self.predictions = self.folder / "predictions"
        self.teacher = self.predictions / "train" / "teacher.safetensors"
        self.checkpoints = self.folder / "checkpoints"
        self.averaged = self.checkpoints / "averaged.safetensors"

    def refuse_existing(self) -> None:
        """Raises FileExistsError where the folder holds a run."""
        if self.exists:
            raise FileExistsError(
                f"{self.folder} already holds a run; choose another folder, delete it, or go on with it: --resume"
            )

    @staticmethod
    def create(folder: str | Path, recipe: Recipe, clips: Clips) -> Run:
        """A new run folder with its recipe, its clips and its environment.

        Raises:
            FileExistsError: there is a run in it already.
        """
        run = Run(folder)
        run.refuse_existing()
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        packages = ("psla", "torch", "lightning-fabric", "numpy", "soundfile", "soxr", "polars")
        environment = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "packages": {name: version(name) for name in packages},
            "clips": {"name": clips.name, "splits": clips.counts(), "classes": len(clips.vocabulary)},
        }
        write_json(run.folder / "environment.json", environment)
        clips.write(run.folder / "clips.parquet")
        # Last: with it the folder holds a run.
        write_text_atomic(run.folder / "recipe.yaml", seal_text(recipe.to_yaml()))
        return run

    @staticmethod
    def open(folder: str | Path) -> Run:
        """A run that exists, finished or not.

        Raises:
            FileNotFoundError: there is no run in the folder.
        """
        run = Run(folder)
        if not run.exists:
            raise FileNotFoundError(f"{folder} holds no run: it has no recipe.yaml")
        return run

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return (self.folder / "recipe.yaml").is_file()

    @property
    def seconds(self) -> float:
        """Clock time of all epochs, predictions included, from timing.csv."""
        return sum(float(row["total_s"]) for row in self._rows("timing.csv"))

    @cached_property
    def identity(self) -> str:
        """A hash of the recipe and the clips: what a stored state belongs to."""
        return "-".join(sha256_of(self.folder / name)[:16] for name in ("recipe.yaml", "clips.parquet"))

    @property
    def is_finished(self) -> bool:
        """Whether all is written: scores.json is the last thing."""
        return (self.folder / "scores.json").is_file()

    @property
    def clips(self) -> Clips:
        """The table of clips that the run was started with."""
        return Clips.read(self.folder / "clips.parquet")

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run.

        Raises:
            RecipeError: it is not what was written, or, of an earlier version, has been cut.
        """
        path = self.folder / "recipe.yaml"
        found = Recipe.load(path)
        text = path.read_text(encoding="utf-8")
        # Those without a checksum hold every key, `seed` last, and a line end after it.
        if not is_sealed(text) and not _LAST_KEY.search(text):
            raise RecipeError(f"{path} has been cut: it does not end with the recipe's last key, seed; restore it")
        return found

    @property
    def scores(self) -> dict[str, Any]:
        """What scores.json holds."""
        return self._json("scores.json")

    @property
    def environment(self) -> dict[str, Any]:
        """What environment.json holds."""
        return self._json("environment.json")

    def note_pretraining(self, report: PretrainingReport | InitReport | None) -> None:
        """Write pretraining.json: what was loaded, what was left out and why, what was left as initialised."""
        details = {"summary": "none: random weights (He uniform)"}
        if report is not None:
            details = {"summary": report.summary(), **asdict(report)}
        write_json(self.folder / "pretraining.json", details)

    @staticmethod
    def epoch_name(epoch: int) -> str:
        """What the files of an epoch (counted from 0) are called; the names count from 1.

        Example:
            >>> Run.epoch_name(0)
            'epoch_001'
        """
        return f"epoch_{epoch + 1:03d}"

    def checkpoint(self, epoch: int) -> Path:
        """Path of the weights after an epoch (counted from 0)."""
        return self.checkpoints / f"{self.epoch_name(epoch)}.safetensors"

    def keep(self, inference: Inference, labels: Labels, name: str) -> Scores:
        """Keep the predictions of a split under a name and score them; clips that could not be read are listed."""
        self.reject(inference.rejected, inference.predictions.clip_ids)
        return self._keep(inference.predictions, labels, name)

    def _keep(self, predictions: Predictions, labels: Labels, name: str) -> Scores:
        predictions.save(self._predicted(predictions.split, name))
        return score(predictions, labels)

    def _predicted(self, split: str, name: str) -> Path:
        return self.predictions / split / f"{name}.safetensors"

    def reject(self, reasons: Mapping[str, str], read: Collection[str] = ()) -> None:
        """Enter clips that could not be read into rejected.csv, each once; strike out those that were read since."""
        before = self.rejected
        known = {**reasons, **before}
        if before or reasons:
            known = {id: known[id] for id in sorted(known.keys() - (set(read) - reasons.keys()))}
        if known:
            if known != before:
                self._write_rows("rejected.csv", [{"clip_id": id, "reason": why} for id, why in known.items()])
        else:
            (self.folder / "rejected.csv").unlink(missing_ok=True)

    @property
    def rejected(self) -> dict[str, str]:
        """The clips that could not be read, with the reason."""
        return {row["clip_id"]: row["reason"] for row in self._rows_if_any("rejected.csv")}

    def log(self, row: Mapping[str, Any], training_s: float, total_s: float) -> None:
        """Add an epoch to log.csv, and its times to timing.csv."""
        self._append("log.csv", {column: row.get(column) for column in LOG_COLUMNS})
        times = {"epoch": row["epoch"], "training_s": round(training_s, 2), "total_s": round(total_s, 2)}
        self._append("timing.csv", times)

    def read_log(self) -> list[dict[str, float]]:
        """The rows of log.csv as numbers; what was not measured is left out."""
        return [{key: float(value) for key, value in row.items() if value} for row in self._rows("log.csv")]

    def rewind(self, epochs: int, steps: int) -> None:
        """Cut the logs back to the first `epochs` epochs and `steps` steps: what comes after them is done again."""
        for name, key, end in (
            ("log.csv", "epoch", epochs + 1),
            ("timing.csv", "epoch", epochs + 1),
            ("non_finite.csv", "step", steps),
        ):
            if kept := [row for row in self._rows_if_any(name) if int(row[key]) < end]:
                self._write_rows(name, kept)
            else:
                (self.folder / name).unlink(missing_ok=True)

    def note_non_finite(self, step: int, clip_ids: Sequence[str]) -> None:
        """Enter the clips of a step with a non-finite loss into non_finite.csv."""
        self._append("non_finite.csv", {"step": step, "clip_ids": " ".join(clip_ids)})

    def write_profile(self, rows: Sequence[Sequence[str]]) -> None:
        """Write profile.json: part, milliseconds a clip, share of the time."""
        write_json_atomic(self.folder / "profile.json", rows)

    @property
    def profile(self) -> list[list[str]]:
        """The rows of profile.json."""
        return json.loads((self.folder / "profile.json").read_text(encoding="utf-8"))

    def average_checkpoints(self, recipe: Recipe) -> None:
        """Write the average of the weights of `averaging.first_epoch` to the last."""
        epochs = range(recipe.averaging.first_epoch - 1, recipe.optimizer.epochs)
        write_sealed(self.averaged, average_weights([self.checkpoint(epoch) for epoch in epochs]))

    def finish(self, network: TaggingNetwork, vocabulary: Vocabulary, held_out: Mapping[str, Labels]) -> None:
        """Score the last epoch, the last five, the averaged weights and the averaged predictions; write the models.

        Args:
            network: takes the averaged weights, then those of the last epoch.
            held_out: the labels of each split that was predicted after every epoch and with the averaged weights.
        """
        epochs = self.recipe.optimizer.epochs
        scores: dict[str, dict[str, Any]] = {}
        for split, labels in held_out.items():
            each = [Predictions.read(self._predicted(split, self.epoch_name(epoch))) for epoch in range(epochs)]
            last = [score(predictions, labels) for predictions in each[-5:]]
            scores[split] = {
                "final": last[-1].to_dict(),
                "last_five": mean_scores(last),
                "averaged": score(Predictions.read(self._predicted(split, "averaged")), labels).to_dict(),
                "checkpoint_ensemble": self._keep(average(each), labels, "checkpoint_ensemble").to_dict(),
            }
        self._write_models(network, vocabulary, scores)
        self.draw(self.folder / "figures", scores)
        self.remove_leftovers()
        write_json(self.folder / "scores.json", {**scores, "rejected_clips": len(self.rejected)})

    def remove_leftovers(self) -> None:
        """Remove what processes that were killed left half written anywhere in the run's folder."""
        for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            remove_leftovers(folder)

    def _write_models(self, network: TaggingNetwork, vocabulary: Vocabulary, scores: Mapping[str, Any]) -> None:
        recipe, begun = self.recipe, self._json("pretraining.json")
        card = ModelCard(
            recipe=recipe.model_dump(),
            scores={s: {v: x["mean_average_precision"] for v, x in each.items()} for s, each in scores.items()},
            training_data=self.environment["clips"]["name"],
            provenance={
                "psla": version("psla"),
                "weights": begun["summary"],
                "variant": "averaged",
            },
            training_clips=hashed(self.clips.split("train").clip_ids, begun.get("training_clips", "")),
        )
        load_tensors(network, self.averaged)
        save_model(self.model_file, network, vocabulary, card)
        load_tensors(network, self.checkpoint(recipe.optimizer.epochs - 1))
        variant = {**card.provenance, "variant": "final"}
        save_model(self.folder / "model_final.safetensors", network, vocabulary, replace(card, provenance=variant))

    def draw(self, folder: Path, scores: Mapping[str, Any] | None = None) -> None:
        """Draw the learning curve and the averaged weights' sorted average precision, on what was held out last."""
        folder.mkdir(parents=True, exist_ok=True)
        scores = self.scores if scores is None else scores
        split = next((split for split in ("evaluation", "validation") if split in scores), None)
        rows = self.read_log()
        if split is not None:
            rows = [{**row, "mean_average_precision": row[f"{split}_map"]} for row in rows if f"{split}_map" in row]
            averaged = Scores.from_dict(scores[split]["averaged"])
            if averaged.classes_scored:
                sorted_average_precision(averaged, folder / "average_precision.png")
        learning_curve(rows or self.read_log(), folder / "learning_curve.png")

    def check(self, epochs: int, splits: Iterable[str]) -> None:
        """Read what the finished epochs left and the end will need: found damaged then, hours would be lost.

        Raises:
            ModelFileError, PredictionsError: weights or predictions that are not what was written.
        """
        for epoch in range(epochs):
            read_tensors(self.checkpoint(epoch))
            for split in splits:
                Predictions.read(self._predicted(split, self.epoch_name(epoch)))

    def _json(self, name: str) -> dict[str, Any]:
        return read_json(self.folder / name, RunError)

    def _rows(self, name: str) -> list[dict[str, str]]:
        return read_rows(self.folder / name)

    def _rows_if_any(self, name: str) -> list[dict[str, str]]:
        return self._rows(name) if (self.folder / name).exists() else []

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        self._write_rows(name, [*self._rows_if_any(name), row])

    def _write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        write_rows(self.folder / name, rows)

    def epoch_files(self, split: str) -> list[Path]:
        """The predictions of a split after each epoch, in their order."""
        folder, epochs = self.predictions / split, range(self.recipe.optimizer.epochs)
        return [folder / self.checkpoint(epoch).name for epoch in epochs]

    def prediction_files(self, variant: str, split: str) -> list[Path]:
        """The predictions that a variant is scored on: `final`, `last_five`, `averaged`, or, as a mean, all epochs'."""
        if variant == "averaged":
            return [self.predictions / split / "averaged.safetensors"]
        files = self.epoch_files(split)
        return {"final": files[-1:], "last_five": files[-5:], "checkpoint_ensemble": files}[variant]


def mean_scores(scores: list[Scores]) -> dict[str, float | None]:
    """Means over several epochs of the summary metrics: the paper reports the mean of the last five (section II-B).

    None where one of them is not known, or NaN since no clip has a label.
    """
    names = ("mean_average_precision", "mean_auc", "d_prime", "accuracy")
    columns = {name: [getattr(s, name) for s in scores] for name in names}
    known = {n: all(v is not None and math.isfinite(v) for v in values) for n, values in columns.items()}
    return {n: sum(values) / len(values) if known[n] else None for n, values in columns.items()}
