"""Run: the folder that a training leaves behind: recipe, environment, log, checkpoints, predictions, scores, models."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from psla.data.clips import Clips
from psla.data.labels import Labels
from psla.data.source import ClipSource
from psla.data.vocabulary import Vocabulary
from psla.evaluation.figures import learning_curve, sorted_average_precision
from psla.evaluation.metrics import Scores, score
from psla.evaluation.predictions import Predictions, average
from psla.files import atomic_write, write_json_atomic, write_text_atomic
from psla.model.inference import predict
from psla.model.model_file import ModelCard, load_tensors, save_model
from psla.model.network import TaggingNetwork
from psla.recipe.aggregation import average_weights
from psla.recipe.pretraining import PretrainingReport
from psla.recipe.recipe import Recipe

LOG_COLUMNS = ("epoch", "steps", "clips", "rejected", "learning_rate", "loss", "validation_map", "evaluation_map")
HeldOut = Mapping[str, tuple[ClipSource, Labels]]


class Run:
    """A run folder.

    Attributes:
        folder: where it is. model_file: what a user loads (the averaged weights). predictions: the folder of prediction
        files, `SPLIT/NAME.safetensors`. scores: what scores.json holds, {split: {variant: scores}}.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.model_file = self.folder / "model.safetensors"
        self.predictions = self.folder / "predictions"
        self.checkpoints = self.folder / "checkpoints"

    @staticmethod
    def create(folder: str | Path, recipe: Recipe, clips: Clips) -> Run:
        """A new run folder with its recipe and environment.

        Raises:
            FileExistsError: there is a run in it already.
        """
        run = Run(folder)
        if (run.folder / "recipe.yaml").exists():
            raise FileExistsError(f"{folder} already holds a run; choose another folder or delete it")
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write_text_atomic(run.folder / "recipe.yaml", recipe.to_yaml())
        packages = ("psla", "torch", "lightning-fabric", "numpy", "soundfile", "soxr", "polars")
        environment = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "threads": torch.get_num_threads(),
            "packages": {name: version(name) for name in packages},
            "clips": {"name": clips.name, "splits": clips.counts(), "classes": len(clips.vocabulary)},
        }
        write_json_atomic(run.folder / "environment.json", environment)
        return run

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        return Recipe.load(self.folder / "recipe.yaml")

    @property
    def scores(self) -> dict[str, Any]:
        """What scores.json holds."""
        return json.loads((self.folder / "scores.json").read_text(encoding="utf-8"))

    def note_pretraining(self, report: PretrainingReport | None) -> None:
        """Write pretraining.json: what was loaded, what was left out and why, what was left as initialised."""
        details = {"summary": "none: random weights (He uniform)"}
        if report is not None:
            details = {"summary": report.summary(), **asdict(report)}
        write_json_atomic(self.folder / "pretraining.json", details)

    def save_checkpoint(self, epoch: int, state: Mapping[str, Tensor]) -> Path:
        """The network's weights after an epoch (counted from 0)."""
        path = self.checkpoint(epoch)
        with atomic_write(path) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
        return path

    def checkpoint(self, epoch: int) -> Path:
        """Path of the checkpoint after an epoch (counted from 0; the file name counts from 1)."""
        return self.checkpoints / f"epoch_{epoch + 1:03d}.safetensors"

    def predict(
        self,
        network: TaggingNetwork,
        source: ClipSource,
        labels: Labels,
        split: str,
        name: str,
        progress: Callable[[int], None] = lambda clips: None,
    ) -> Scores:
        """Predict a split, keep the predictions, score them."""
        device = next(network.parameters()).device
        inference = predict(network, source, labels.vocabulary, split=split, device=device, progress=progress)
        self.reject(inference.rejected)
        return self._keep(inference.predictions, labels, split, name)

    def _keep(self, predictions: Predictions, labels: Labels, split: str, name: str) -> Scores:
        path = self.predictions / split / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        predictions.save(path)
        return score(predictions, labels)

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Enter clips that could not be read into rejected.csv, each once."""
        path = self.folder / "rejected.csv"
        known: dict[str, str] = {}
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                known = {row["clip_id"]: row["reason"] for row in csv.DictReader(file)}
        if reasons.keys() - known.keys():
            known.update(reasons)
            self._write_rows(path, ("clip_id", "reason"), [{"clip_id": k, "reason": known[k]} for k in sorted(known)])

    @property
    def rejected(self) -> dict[str, str]:
        """The clips that could not be read, with the reason."""
        path = self.folder / "rejected.csv"
        if not path.exists():
            return {}
        with path.open(encoding="utf-8", newline="") as file:
            return {row["clip_id"]: row["reason"] for row in csv.DictReader(file)}

    def log(self, row: Mapping[str, Any], training_s: float, total_s: float) -> None:
        """Add an epoch to log.csv, and its times to timing.csv."""
        self._append("log.csv", LOG_COLUMNS, row)
        times = {"epoch": row["epoch"], "training_s": round(training_s, 2), "total_s": round(total_s, 2)}
        self._append("timing.csv", tuple(times), times)

    def read_log(self) -> list[dict[str, float]]:
        """The rows of log.csv as numbers; what was not measured is left out."""
        with (self.folder / "log.csv").open(encoding="utf-8", newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    def finish(self, network: TaggingNetwork, vocabulary: Vocabulary, held_out: HeldOut) -> None:
        """Aggregate: score the last epoch, the last five, the averaged weights and the averaged predictions."""
        recipe = self.recipe
        epochs = recipe.optimizer.epochs
        scores: dict[str, dict[str, Any]] = {}
        final = self.checkpoint(epochs - 1)
        averaged = average_weights([self.checkpoint(e) for e in range(recipe.averaging.first_epoch - 1, epochs)])
        network.load_state_dict(averaged)
        for split, (source, labels) in held_out.items():
            each = [
                Predictions.read(self.predictions / split / f"epoch_{e + 1:03d}.safetensors") for e in range(epochs)
            ]
            last = [score(p, labels) for p in each[-5:]]
            scores[split] = {
                "final": last[-1].to_dict(),
                "last_five": mean_scores(last),
                "averaged": self.predict(network, source, labels, split, "averaged").to_dict(),
                "checkpoint_ensemble": self._keep(average(each), labels, split, "checkpoint_ensemble").to_dict(),
            }
        rejected = self.rejected
        write_json_atomic(self.folder / "scores.json", {**scores, "rejected_clips": len(rejected)})
        origin = json.loads((self.folder / "pretraining.json").read_text(encoding="utf-8"))["summary"]
        card = ModelCard(
            recipe=recipe.model_dump(),
            scores={s: {v: x["mean_average_precision"] for v, x in each.items()} for s, each in scores.items()},
            training_data=json.loads((self.folder / "environment.json").read_text(encoding="utf-8"))["clips"]["name"],
            provenance={"psla": version("psla"), "weights": origin, "variant": "averaged"},
        )
        save_model(self.model_file, network, vocabulary, card)
        load_tensors(network, final)
        variant = {**card.provenance, "variant": "final"}
        save_model(self.folder / "model_final.safetensors", network, vocabulary, replace(card, provenance=variant))
        self.draw(self.folder / "figures")

    def draw(self, folder: Path) -> None:
        """Draw the learning curve and the averaged weights' sorted average precision, on what was held out last."""
        folder.mkdir(parents=True, exist_ok=True)
        splits = [split for split in ("validation", "evaluation") if split in self.scores]
        rows = [
            {**row, "mean_average_precision": row.get(f"{split}_map")}
            for row in self.read_log()
            for split in splits[-1:]
        ]
        learning_curve(rows or self.read_log(), folder / "learning_curve.png")
        for split in splits[-1:]:
            averaged = Scores.from_dict(self.scores[split]["averaged"])
            if averaged.classes_scored:
                sorted_average_precision(averaged, folder / "average_precision.png")

    def _append(self, name: str, columns: tuple[str, ...], row: Mapping[str, Any]) -> None:
        path = self.folder / name
        rows: list[Mapping[str, Any]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        self._write_rows(path, columns, [*rows, row])

    @staticmethod
    def _write_rows(path: Path, columns: tuple[str, ...], rows: list[Mapping[str, Any]]) -> None:
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def mean_scores(scores: list[Scores]) -> dict[str, float | None]:
    """Means over several epochs of the summary metrics: the paper reports the mean of the last five (section II-B)."""
    names = ("mean_average_precision", "mean_auc", "d_prime", "accuracy")
    columns = {name: [getattr(s, name) for s in scores] for name in names}
    return {n: None if any(v is None for v in values) else sum(values) / len(values) for n, values in columns.items()}
