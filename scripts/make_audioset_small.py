"""Make `src/psla/weights/packaged/audioset-small.safetensors` from EfficientAT's mn04_as, by psla's own commands.

    python scripts/make_audioset_small.py mn04_as_mAP_432.pt ESC-10 --work runs/small --shares 0.5 --settle --out FILE

ESC-10 stands for a folder in ESC-50's layout. The teacher is mn04_as with a bounded gain for quiet recordings and a
rule for short ones in its front end. Training starts from it and takes its probabilities of whole clean clips as
targets, while the student hears those clips cut, noisy, clipped, far away: recordings of ESC-10, mixtures of them,
synthesised soundscapes, and plain signals (silence, noise, hum, tones, clicks). The student is then averaged with the
teacher, `--shares` of it the student's. With `--settle` the rows of the last layer that name plain signals otherwise
than silence, noise, hum and tones are fitted anew.

`--leave-out dog,rain` keeps classes of ESC-10 out of the training: scored on their recordings, shares can be compared;
`--kept-out-classes` puts the scores of such a call into the card. `--fold` is the fold that is kept out in any case.
Each step prints its command; those whose output is there are left out, so that a call goes on where an earlier one
ended. Scores are printed, and written into the folder of the work as scores.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psla.corpora.esc50 import AUDIOSET_CLASS
from psla.data.clips import Clips
from psla.data.ontology import Ontology
from psla.data.source import open_source
from psla.model.file import Model, load_model, save_model
from psla.model.inference import tag_waveforms
from psla.weights.packaged import MOST_BYTES
from psla.weights.published import CATALOGUE

PLAIN = (
    "Silence", "White noise", "Pink noise", "Noise", "Environmental noise", "Static", "Hum", "Mains hum", "Sine wave",
    "Chirp tone",
)  # fmt: skip
# What is settled: classes above FOUND for a plain signal, to CAP there; NEAR weighs how near the rows stay.
FOUND, CAP, NEAR = 0.3, 0.05, 1e-4
RECIPE = {
    "backbone.options.width": 0.4,
    "backbone.batch_norm": "frozen",
    "sampling.balanced": False,
    "front_end.peak_dbfs": -3.0,
    "front_end.most_gain_db": 40.0,
    "front_end.shortest_frames": 200,
    "front_end.repeat_frames": 50,
    "waveform.crop_frames": 500,
    "waveform.crop_by": "energy",
    "mixup.rate": 0.2,
    "masking.frequency": 12,
    "masking.time": 40,
    "masking.fill": "mean",
    "distillation.weight": 1.0,
    "optimizer.learning_rate": 2e-4,
    "optimizer.batch_size": 16,
    "optimizer.epochs": 6,
    "optimizer.warmup_steps": 50,
    "optimizer.schedule": "cosine",
    "optimizer.precision": "float32",
    "averaging.first_epoch": 4,
    "conditions.excerpt": 0.7,
    "conditions.excerpt_by": "energy",
    "conditions.room": 0.15,
    "conditions.noise": 0.3,
    "conditions.noise_db": [10, 40],
    "conditions.clipping": 0.1,
    "conditions.band": 0.2,
    "conditions.codec": 0.1,
    "conditions.level": 0.4,
}


COMMANDS: list[str] = []
"""What was called, for the card."""


def call(out: Path, *words: str | Path) -> None:
    """Run a psla command unless its output is there."""
    COMMANDS.append(f"psla {shlex.join(str(word) for word in words)}")
    print(COMMANDS[-1], flush=True)
    if not out.exists():
        subprocess.run([sys.executable, "-m", "psla", *map(str, words)], check=True)


def training_clips(work: Path, esc10: Path, fold: int, left_out: Sequence[str]) -> Path:
    """The pack that is trained on."""
    recordings, kept = work / "esc10.parquet", work / "recordings.parquet"
    call(recordings, "corpus", "esc50", esc10, "--esc10", "--evaluation-fold", str(fold), "--out", recordings)
    clips = Clips.read(recordings).split("train")
    heard = [row["clip_id"] for row in clips.frame.to_dicts() if row["labels"][0] not in left_out]
    if not kept.exists():
        clips.select(heard).write(kept)
    parts = {name: work / f"{name}.parquet" for name in ("mixtures", "soundscapes", "signals")}
    for name, words in (
        ("mixtures", ("--events", kept, "--clips", "1200")),
        ("soundscapes", ("--seed", "10", "--clips", "300")),
    ):
        fixed = ("--seconds", "5", "--evaluation-clips", "0", "--out", parts[name])
        call(parts[name], "corpus", "soundscape", *words, *fixed)
    call(parts["signals"], "corpus", "signals", "--count", "660", "--out", parts["signals"])
    merged, pack = work / "clips.parquet", work / "pack"
    maps = [
        word for old, new in AUDIOSET_CLASS.items() if old in clips.vocabulary for word in ("--map", f"{old}={new}")
    ]
    call(merged, "corpus", "merge", kept, *parts.values(), "--vocabulary", "audioset", *maps, "--out", merged)
    call(pack / "pack.json", "pack", merged, pack, "--sample-rate", "32000")
    return pack


def targets(work: Path, teacher: Path, pack: Path) -> Path:
    """The teacher's probabilities of the clean clips."""
    out = work / "teacher-says.safetensors"
    call(out, "predict", teacher, pack, "--split", "train", "--out", out)
    return out


def train(work: Path, teacher: Path, pack: Path, said: Path, seed: int) -> Path:
    """The student: the run's averaged weights."""
    recipe = {**RECIPE, "init": teacher, "distillation.predictions": said, "seed": seed}
    changes = [word for key, value in recipe.items() for word in ("--set", f"{key}={json.dumps(value, default=str)}")]
    run = work / "run"
    begun = ("train", "mobilenet", "--clips", pack, "--out", run, *changes)
    made = run / "model.safetensors"
    call(made, *(("train", "--resume", run) if run.exists() and not made.exists() else begun))
    return made


def settle(work: Path, mixed: Path) -> Path:
    """Take back what the average gave plain signals of other names: the last layer's rows of those classes alone are
    fitted anew, as near to what they were as they can be, to plain signals (no such name) and to all clips of the
    training (what they were called). Why not the whole network: docs/LOG.md, "audioset-small"."""
    signals, pack, out = work / "last-signals.parquet", work / "last-signals", work / "settled.safetensors"
    call(signals, "corpus", "signals", "--count", "1320", "--seed", "1", "--out", signals)
    call(pack / "pack.json", "pack", signals, pack, "--sample-rate", "32000")
    model = load_model(mixed)
    head = model.network.pooling
    hidden, plain = [], []
    for each in (work / "pack", pack):
        source = open_source(Clips.read(each), model.network.sample_rate)
        for row, id in enumerate(source.clip_ids):
            features = tag_waveforms(model.network, [np.array(source.read(row))], model.network.sample_rate).features
            hidden.append(torch.nn.functional.hardswish(head.hidden(features[0].clone())).detach())
            plain.append(re.fullmatch(r"p\d+_\d+", id) is not None)
    inputs, is_plain = torch.stack(hidden), torch.tensor(plain)
    before = torch.sigmoid(head.output(inputs)).detach()
    allowed = torch.tensor([name in PLAIN for name in (each.name for each in model.vocabulary)])
    rows = (before[is_plain].amax(0) > FOUND).logical_and(~allowed).nonzero()[:, 0]
    target = torch.where(is_plain[:, None], before[:, rows].clamp(max=CAP), before[:, rows])
    weight, bias = (each[rows].detach().clone() for each in (head.output.weight, head.output.bias))
    change, shift = torch.zeros_like(weight, requires_grad=True), torch.zeros_like(bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([change, shift], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = inputs @ (weight + change).T + bias + shift
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        total = entropy.mean(0).sum() + NEAR * (change.square().sum() + shift.square().sum())
        total.backward()
        return total

    optimizer.step(loss)
    with torch.no_grad():
        head.output.weight[rows] += change
        head.output.bias[rows] += shift
    names = [model.vocabulary[int(row)].name for row in rows]
    print(f"settled: {len(names)} classes: {', '.join(names)}", flush=True)
    card = replace(model.card, provenance={**model.card.provenance, "settled_classes": names})
    return save_model(out, model.network, model.vocabulary, card)


def excerpt(wave: np.ndarray, seconds: float, rate: int) -> np.ndarray:
    """The loudest part of so many seconds."""
    length = round(seconds * rate)
    energy = np.concatenate([[0], np.cumsum(np.square(wave, dtype=np.float64))])
    begin = int((energy[length:] - energy[:-length]).argmax()) if len(wave) > length else 0
    return wave[begin : begin + length]


def scores(model: Model, clips: Clips) -> dict[str, float]:
    """Of recordings of ESC-10: whether a right name, or one below it, is among the first five."""
    vocabulary, ontology, rate = model.vocabulary, Ontology.audioset(), model.network.sample_rate
    source = open_source(clips, rate)
    right, related = [], []
    for row in clips.frame.to_dicts():
        id = AUDIOSET_CLASS.get(row["labels"][0], row["labels"][0])
        # Crowing is a sound of a rooster, and crackling one of fire: the parent names the recording as well.
        near = {id, *ontology.descendants(id), *(each for each in ontology.parents(id) if each in vocabulary)}
        right.append({vocabulary.index_of(each) for each in near if each in vocabulary})
        related.append(right[-1] | {vocabulary.index_of(each) for each in ontology.ancestors(id) if each in vocabulary})
    waves = [np.array(source.read(row)) for row in range(len(clips))]
    quiet = [np.round(wave * 0.01).astype(np.int16) for wave in waves]
    cases = {"as_recorded": waves, "at_-40_dB": quiet}
    cases |= {f"loudest_{seconds:g}_s": [excerpt(wave, seconds, rate) for wave in waves] for seconds in (1.0, 0.3)}
    found = {}
    for name, heard in cases.items():
        said = [tag_waveforms(model.network, [wave], rate).clip_probabilities[0].numpy() for wave in heard]
        top = [set(np.argsort(-each)[:5].tolist()) for each in said]
        found[f"right_in_five_{name}"] = float(np.mean([bool(a & b) for a, b in zip(top, right, strict=True)]))
        if name == "as_recorded":
            wrong = [each.max() > 0.5 and int(each.argmax()) not in b for each, b in zip(said, related, strict=True)]
            found["wrong_above_half"] = float(np.mean(wrong))
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="mn04_as_mAP_432.pt")
    parser.add_argument("esc10", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--fold", type=int, default=5)
    parser.add_argument("--leave-out", default="", help="classes of ESC-10, with commas")
    parser.add_argument("--shares", default="0.5", help="of the student in the average, with commas")
    parser.add_argument(
        "--settle", action="store_true", help="fit the last layer anew where plain signals have other names"
    )
    parser.add_argument(
        "--kept-out-classes", type=Path, help="scores.json of a call with --leave-out, which go into the card"
    )
    parser.add_argument("--out", type=Path, help="write the model of the last share, in half precision, with its card")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    work, left_out = given.work, [name for name in given.leave_out.split(",") if name]
    work.mkdir(parents=True, exist_ok=True)
    teacher = work / "teacher.safetensors"
    said = {name: RECIPE[f"front_end.{name}"] for name in ("peak_dbfs", "most_gain_db", "shortest_frames")}
    changes = [word for key, value in said.items() for word in ("--set", f"{key}={value}")]
    call(teacher, "import", given.weights, "--out", teacher, *changes)
    pack = training_clips(work, given.esc10, given.fold, left_out)
    student = train(work, teacher, pack, targets(work, teacher, pack), given.seed)
    recordings = Clips.read(work / "esc10.parquet")
    kept_out = recordings.split("evaluation")
    if left_out:
        rows = recordings.frame.to_dicts()
        kept_out = recordings.select([row["clip_id"] for row in rows if row["labels"][0] in left_out])
    measured: dict[str, Any] = {"kept_out": {}, "clips": len(kept_out), "shares": {}}
    published = work / "published.safetensors"
    call(published, "import", given.weights, "--out", published, "--set", "shortest_frames=0")
    measured["teacher_as_published"] = scores(load_model(published), kept_out)
    print("published", measured["teacher_as_published"], flush=True)
    for share in map(float, given.shares.split(",")):
        mixed = work / f"share-{share:g}.safetensors"
        call(mixed, "average", teacher, student, "--share", f"{share:g}", "--out", mixed)
        measured["shares"][f"{share:g}"] = scores(load_model(mixed), kept_out)
        print(f"share {share:g}", measured["shares"][f"{share:g}"], flush=True)
    if given.settle:
        mixed = settle(work, mixed)
    measured["kept_out"] = scores(load_model(mixed), kept_out)
    print("the model", measured["kept_out"], flush=True)
    (work / "scores.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    if given.kept_out_classes is not None:
        measured["kept_out_classes"] = json.loads(given.kept_out_classes.read_text(encoding="utf-8"))
    if given.out is not None:
        print(write(mixed, given, measured))


def write(path: Path, given: argparse.Namespace, measured: dict[str, Any]) -> str:
    """The packaged model: half precision, with a whole card."""
    model, entry = load_model(path), CATALOGUE["mn04_as"]
    heard = f"ESC-10 (K. J. Piczak, CC BY 3.0; fold {given.fold} kept out), also mixed; its labels were no targets"
    own = f"{heard}; synthesised soundscapes and plain signals"
    card = replace(
        model.card,
        licence="MIT (of mn04_as, EfficientAT, (c) 2022 Florian Schmid, from which it was made; see NOTICE)",
        training_data=f"mn04_as: {entry.family.training_data['audioset']}. Adapted on: {own}",
        scores=measured,
        provenance={
            **model.card.provenance,
            "made_by": "scripts/make_audioset_small.py",
            "commands": [_without_places(command, given) for command in COMMANDS],
            "teacher": {"name": entry.name, "url": entry.url, "sha256": entry.sha256, "paper": entry.family.paper},
            "stored_as": "float16",
            "not_good_at": "rare classes (the teacher's AudioSet mAP is 0.432), several sounds at once, onsets: it was "
            "trained on labels of whole clips; adapted on few recordings",
        },
    )
    save_model(given.out, model.network, model.vocabulary, card, dtype="float16")
    given.out.chmod(0o644)
    size = given.out.stat().st_size
    if size > MOST_BYTES:
        sys.exit(f"{given.out} has {size} bytes; a packaged model has at most {MOST_BYTES}")
    return f"{given.out}: {size} bytes"


def _without_places(command: str, given: argparse.Namespace) -> str:
    """A command as it reads in the folder of the work."""
    places = {f"{given.work}/": "", str(given.esc10): "ESC-10", str(given.weights): given.weights.name}
    for place, word in places.items():
        command = command.replace(place, word)
    return command


if __name__ == "__main__":
    main()
