"""The released recipe as its code trains it, and psla, on the same clips: mAP and time side by side, as Markdown.

    python benchmarks/original.py [--clips 500] [--seconds 2.56] [--epochs 8] [--batch 10]

The left side is written from the paper (https://arxiv.org/abs/2102.01243) and from what is known of its code: every
clip is read from its file each time it is heard, its mean removed, mixed, and its log-mel made alone (as torchaudio's
Kaldi module does, window and filters made anew for each clip), masked with 0 and normalised, in the worker processes of
a DataLoader; the targets are filled label by label from text; `efficientnet_pytorch` in float32, eager, with its
memory-efficient swish; the warm-up moves in steps of a twentieth; the averaged weights count the first checkpoint
twice. Adam, loss, schedule, sampling and augmentation are the recipe's on both sides.

Fitted to a run of a few hundred steps, alike on both sides: rate 1e-3, warm-up over an eighth of the steps, halving
after a third of the epochs, BatchNorm's momentum 0.1 (0.01 would not have forgotten its start), time masks of the same
share of a clip. Both sides run in processes of their own, one after the other; psla in float32, from the same sound
files. mAP is scored by one function, against what really sounds. soundfile reads for torchaudio, which is not there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import soundfile
import torch
from efficientnet_pytorch import EfficientNet
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from machine import machine
from psla.data.clips import Clips
from psla.data.source import open_source
from psla.metrics.predictions import Predictions
from psla.metrics.scores import score
from psla.synth.config import SoundscapeConfig
from psla.synth.corpus import make
from psla.training.devices import Runtime
from psla.training.recipe import Recipe
from psla.training.session import train
from psla.training.trainer import PARTS, Profile

RATE, SIDES = 16000, ("original", "psla")
LAST = 5  # epochs whose mean is reported


def recipe_of(clips: int, seconds: float, epochs: int, batch: int) -> Recipe:
    """The full set's recipe, its schedule and its time masks in proportion to a small run."""
    steps, frames = epochs * -(-clips // batch), round(seconds * 100)
    changes = {
        "front_end.frames": frames,
        "backbone": {"name": "efficientnet_b0", "pretraining": "none", "batch_norm_momentum": 0.1},
        "masking.time": round(192 * frames / 1056),
        "optimizer.learning_rate": 1e-3,
        "optimizer.batch_size": batch,
        "optimizer.epochs": epochs,
        "optimizer.warmup_steps": min(1000, steps // 8),
        "optimizer.halve_after": max(1, round(epochs / 3)),
        "optimizer.halve_every": max(1, round(epochs / 6)),
        "optimizer.precision": "float32",
        "averaging.first_epoch": epochs // 2 + 1,
    }
    return Recipe.load("audioset-full", changes)


def log_mel_of(wave: Tensor, bins: int = 128) -> Tensor:
    """(samples,) in [-1, 1] -> (frames, bins): one clip's, as Kaldi's `compute-fbank-feats` makes it."""
    frames = wave.unfold(0, 400, 160)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], 1)
    frames = (frames - 0.97 * before) * torch.hann_window(400, periodic=False)
    power = torch.fft.rfft(nn.functional.pad(frames, (0, 112))).abs().pow(2.0)
    low, high = (1127 * math.log(1 + hertz / 700) for hertz in (20.0, RATE / 2))
    edges = low + (high - low) / (bins + 1) * torch.arange(bins + 2)
    mel = 1127 * torch.log(1 + torch.arange(256) * (RATE / 512) / 700)
    rising = (mel - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - mel) / (edges[2:] - edges[1:-1])[:, None]
    filters = nn.functional.pad(torch.minimum(rising, falling).clamp(min=0), (0, 1))  # half the rate: none
    return (power @ filters.T).clamp(min=torch.finfo(torch.float32).eps).log()


def masked(log_mel: Tensor, axis: int, longest: int) -> Tensor:
    """One mask of up to `longest` along an axis, filled with 0."""
    width = random.random() * longest
    start = int(random.random() * (log_mel.shape[axis] - width))
    log_mel.narrow(axis, start, int(width)).zero_()
    return log_mel


class FilesOneByOne(Dataset[tuple[Tensor, Tensor]]):
    """Clips as (normalised log-mel (frames, bins), target (classes,)), each made when it is asked for."""

    def __init__(self, clips: Clips, recipe: Recipe, training: bool) -> None:
        self.paths = clips.frame["path"].to_list()
        self.labels = [",".join(labels) for labels in clips.frame["labels"].to_list()]
        self.index = {id: row for row, id in enumerate(clips.vocabulary.ids)}
        self.recipe, self.training = recipe, training

    def __len__(self) -> int:
        return len(self.paths)

    def wave(self, row: int) -> Tensor:
        """(samples,) without its mean."""
        found = torch.from_numpy(soundfile.read(self.paths[row], dtype="float32")[0])
        return found - found.mean()

    def add(self, target: Tensor, row: int, share: float) -> None:
        """The labels of a clip, one by one, with a share."""
        for label in self.labels[row].split(","):
            target[self.index[label]] += share

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        mixup, masking, front = self.recipe.mixup, self.recipe.masking, self.recipe.front_end
        target, wave = torch.zeros(len(self.index)), self.wave(row)
        if self.training and random.random() < mixup.rate:
            other = random.randrange(len(self))
            second, share = self.wave(other), random.betavariate(mixup.alpha, mixup.alpha)
            second = nn.functional.pad(second[: len(wave)], (0, max(0, len(wave) - len(second))))
            mixed = share * wave + (1 - share) * second
            wave = mixed - mixed.mean()
            self.add(target, row, share)
            self.add(target, other, 1 - share)
        else:
            self.add(target, row, 1.0)
        log_mel = log_mel_of(wave, front.mel_bins)[: front.frames]
        log_mel = nn.functional.pad(log_mel, (0, 0, 0, front.frames - len(log_mel)))
        if self.training:
            log_mel = masked(masked(log_mel, 1, masking.frequency), 0, masking.time)
        return (log_mel - front.mean) / front.std, target


class Original(nn.Module):
    """`efficientnet_pytorch` under attention pooling, a pair of 1 x 1 convolutions a head; (batch, classes)."""

    def __init__(self, classes: int, heads: int, momentum: float) -> None:
        super().__init__()
        self.features = EfficientNet.from_name("efficientnet-b0", in_channels=1)
        channels = self.features._conv_head.out_channels
        self.attention, self.classification = (
            nn.ModuleList(nn.Conv2d(channels, classes, 1) for _ in range(heads)) for _ in range(2)
        )
        self.head_weight = nn.Parameter(torch.full((heads,), 1.0 / heads))
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = momentum

    def forward(self, log_mel: Tensor) -> Tensor:
        steps = self.features.extract_features(log_mel.unsqueeze(1).transpose(2, 3)).mean(2, keepdim=True)
        heads = []
        for attention, classification in zip(self.attention, self.classification, strict=True):
            share = attention(steps).sigmoid().squeeze(2).clamp(1e-7, 1 - 1e-7)
            share = share / share.sum(2, keepdim=True)
            heads.append((share * classification(steps).sigmoid().squeeze(2)).sum(2))
        return sum(weight * head for weight, head in zip(self.head_weight, heads, strict=True))


def sampling_weights(clips: Clips) -> list[float]:
    """Of each clip, label by label: the sum of 1000 / (clips of the class + 0.01)."""
    labels, counts = clips.frame["labels"].to_list(), dict.fromkeys(clips.vocabulary.ids, 0)
    for own in labels:
        for label in own:
            counts[label] += 1
    return [sum(1000 / (counts[label] + 0.01) for label in own) for own in labels]


def learning_rate(recipe: Recipe, step: int, epoch: int) -> float:
    """Warm-up that moves twenty times (of 1,000 steps: every 50), then halved as in the paper."""
    plan = recipe.optimizer
    if step < plan.warmup_steps:
        every = max(1, plan.warmup_steps // 20)
        return plan.learning_rate * (step // every * every) / plan.warmup_steps
    return plan.learning_rate * 0.5 ** max(0, (epoch - plan.halve_after) // plan.halve_every + 1)


@torch.no_grad()
def predict(network: nn.Module, batches: DataLoader, clips: Clips) -> Predictions:
    """The clips' probabilities, a batch at a time."""
    network.eval()
    found = torch.cat([network(log_mel) for log_mel, _ in batches]).numpy()
    return Predictions(found.astype(np.float32), clips.clip_ids, clips.vocabulary, "evaluation")


def averaged(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Equal average, but that the first counts twice; whole numbers are the first's."""
    states = [states[0], *states]
    mean = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    return {name: mean[name] if tensor.is_floating_point() else tensor for name, tensor in states[0].items()}


def train_original(clips: Clips, recipe: Recipe, workers: int) -> dict[str, Any]:
    """Train, evaluate after each epoch, average; what `measured` says of it."""
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    own, held, plan = clips.split("train"), clips.split("evaluation"), recipe.optimizer
    sampler = WeightedRandomSampler(sampling_weights(own), len(own), replacement=True)
    heard = DataLoader(FilesOneByOne(own, recipe, True), plan.batch_size, sampler=sampler, num_workers=workers)
    tested = DataLoader(FilesOneByOne(held, recipe, False), 2 * plan.batch_size, num_workers=workers)
    network = Original(len(clips.vocabulary), recipe.pooling.heads, recipe.backbone.batch_norm_momentum)
    betas = (plan.beta1, plan.beta2)
    adam = torch.optim.Adam(network.parameters(), plan.learning_rate, betas, weight_decay=plan.weight_decay)
    profile, scores, states, step, evaluation = Profile(torch.device("cpu")), [], [], 0, 0.0
    truth = held.labels("true_labels")
    for epoch in range(plan.epochs):
        network.train()
        batches = iter(heard)
        while True:
            with profile.part("data wait"):
                batch = next(batches, None)
            if batch is None:
                break
            for group in adam.param_groups:
                group["lr"] = learning_rate(recipe, step, epoch)
            with profile.part("forward"):
                loss = nn.functional.binary_cross_entropy(network(batch[0]).clamp(1e-7, 1 - 1e-7), batch[1])
            with profile.part("backward"):
                adam.zero_grad()
                loss.backward()
            with profile.part("optimizer"):
                adam.step()
            step, profile.clips = step + 1, profile.clips + len(batch[0])
        began = time.perf_counter()
        scores.append(score(predict(network, tested, held), truth).mean_average_precision)
        states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        evaluation += time.perf_counter() - began
    began = time.perf_counter()
    network.load_state_dict(averaged(states[recipe.averaging.first_epoch - 1 :]))
    mean = score(predict(network, tested, held), truth).mean_average_precision
    evaluation += time.perf_counter() - began
    found = {"last_five": float(np.mean(scores[-LAST:])), "averaged": mean}
    return {**found, "seconds": {**profile.seconds, "evaluation": evaluation}}


def train_psla(clips: Clips, recipe: Recipe, workers: int, out: Path) -> dict[str, Any]:
    """The same by psla."""
    run = train(recipe, clips, out, runtime=Runtime(accelerator="cpu", workers=workers), profile=True)
    held = clips.split("evaluation")
    truth, files = (
        held.labels("true_labels"),
        [run.prediction_files(v, "evaluation") for v in ("last_five", "averaged")],
    )
    last, mean = ([score(Predictions.read(p), truth).mean_average_precision for p in paths] for paths in files)
    heard = recipe.optimizer.epochs * len(clips.split("train"))
    parts = {name: float(each) * heard / 1000 for name, each, _ in run.profile if name in PARTS}
    times = pl.read_csv(run.folder / "timing.csv")
    parts["evaluation"] = float((times["total_s"] - times["training_s"]).sum())
    return {"last_five": float(np.mean(last)), "averaged": mean[0], "seconds": parts}


def cpu_s() -> float:
    """Seconds of all processors, of this process and of those that it has ended."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


def measured(side: str, folder: Path, recipe: Recipe, workers: int) -> dict[str, Any]:
    """mAP, seconds and processor seconds of one side, and its seconds by part, without the start of the program."""
    clips, began, began_cpu = Clips.read(folder / "clips.parquet"), time.perf_counter(), cpu_s()
    ours = side == "psla"
    found = train_psla(clips, recipe, workers, folder / "run") if ours else train_original(clips, recipe, workers)
    return {**found, "wall_s": time.perf_counter() - began, "cpu_s": cpu_s() - began_cpu}


def write_clips(folder: Path, clips: int, evaluation: int, seconds: float) -> Clips:
    """Soundscapes as sound files and a table of them, in a folder."""
    table = make(SoundscapeConfig(clips=clips, seconds=seconds, missing_children=0.5, missing_parents=0.3), evaluation)
    source, paths = open_source(table, RATE), []
    for row in range(len(source)):
        paths.append(str(folder / f"{row:05d}.wav"))
        soundfile.write(paths[-1], source.read(row), RATE, subtype="PCM_16")
    found = Clips(table.frame.with_columns(pl.Series("path", paths)), table.vocabulary, table.name)
    found.write(folder / "clips.parquet")
    return found


def report(found: dict[str, dict[str, Any]], title: str) -> str:
    """Both sides as Markdown: what came out, and where the time went."""
    rows = [("mAP, mean of the last epochs", "last_five", ".4f"), ("mAP, averaged weights", "averaged", ".4f")]
    rows += [("wall time, s", "wall_s", ".1f"), ("processor time, s", "cpu_s", ".1f")]
    lines = [title, "", "| | original | psla | original / psla |", "|---|---|---|---|"]
    for name, key, form in rows:
        theirs, ours = (found[side][key] for side in SIDES)
        lines.append(f"| {name} | {theirs:{form}} | {ours:{form}} | {theirs / ours:.2f} |")
    lines += ["", "| wall time by part, s | original | psla | share of psla's |", "|---|---|---|---|"]
    parts = {side: dict(found[side]["seconds"]) for side in SIDES}
    for side in SIDES:
        parts[side]["rest"] = found[side]["wall_s"] - sum(parts[side].values())
    for name in [*PARTS, "evaluation", "rest"]:
        theirs, ours = (parts[side].get(name, 0.0) for side in SIDES)
        lines.append(f"| {name} | {theirs:.1f} | {ours:.1f} | {ours / found['psla']['wall_s']:.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--evaluation", type=int, default=0, help="clips that are scored; 0: a third of --clips")
    parser.add_argument("--seconds", type=float, default=2.56)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    recipe = recipe_of(options.clips, options.seconds, options.epochs, options.batch)
    if options.side:
        found = measured(options.side, options.folder, recipe, options.workers)
        (options.folder / f"{options.side}.json").write_text(json.dumps(found))
        return
    evaluation = options.evaluation or max(1, options.clips // 3)
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        write_clips(folder, options.clips, evaluation, options.seconds)
        for side in SIDES:
            print(f"{side}: begun, {machine()}", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", name]
            subprocess.run(command, check=True)
            found[side] = json.loads((folder / f"{side}.json").read_text())
    what = f"{options.clips} + {evaluation} clips of {options.seconds} s, {options.epochs} epochs"
    how = f"batches of {options.batch}, float32, {torch.get_num_threads()} thread(s), {options.workers} for reading"
    print(report(found, f"EfficientNet-B0, 4 heads, random weights; {what}; {how}; {machine()}"))


if __name__ == "__main__":
    main()
