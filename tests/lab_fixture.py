"""A small lab made by hand: predictions, not trainings, in the folder that `psla lab run` leaves."""

import json
from pathlib import Path

import numpy as np

from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.metrics.predictions import Predictions, average
from psla.metrics.scores import score

CLASSES = 8
SHARES = np.array([0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06])
# How far above the others a row puts the probabilities of positives, and where it stands.
ROWS = {
    "baseline": ("no pretraining", "III", 0.6),
    "pretraining": ("with pretraining", "III", 1.6),
    "sampling": ("+ balanced sampling", "IV", 1.6),
    "masking": ("+ masking", "IV", 1.0),
    "mixup": ("+ mixup", "IV", 2.4),
    "share_10_none": ("10 %, no pretraining", "Figure 3", 0.2),
    "share_10_imagenet": ("10 %, pretraining", "Figure 3", 1.0),
    "pooling_4": ("attention pooling, 4 heads", "pooling", 2.4),
}


def make_clips(held_out: int, train: int = 120) -> Clips:
    """Clips whose labels are drawn; their true labels have a few more."""
    rng = np.random.default_rng(0)
    vocabulary = Vocabulary([f"/m/{i}" for i in range(CLASSES)], [f"Sound no. {i} <&>" for i in range(CLASSES)])
    rows = []
    for split, count in (("train", train), ("evaluation", held_out)):
        labels = rng.random((count, CLASSES)) < SHARES
        true = labels | (rng.random((count, CLASSES)) < 0.03)
        for i in range(count):
            ids = [[vocabulary[int(c)].id for c in np.flatnonzero(each[i])] for each in (labels, true)]
            row = {"clip_id": f"{split}{i}", "source": f"{split}{i}", "path": f"{split}{i}.wav", "split": split}
            rows.append({**row, "labels": ids[0], "true_labels": ids[1]})
    return Clips.from_rows(rows, vocabulary, name="hand-made & <small>")


def write_lab(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), held_out: int = 160, files: int = 2) -> Path:
    """LAB with the rows of `ROWS`, an ensemble of seeds, one of rows, one row not run."""
    clips = make_clips(held_out)
    (folder / "results").mkdir(parents=True)
    clips.write(folder / "clips.parquet")
    part = clips.split("evaluation")
    truth = part.labels("true_labels")
    rng = np.random.default_rng(1)
    common = rng.normal(size=(held_out, CLASSES))
    last: dict[str, dict[int, str]] = {}
    for name, (title, table, gain) in ROWS.items():
        entries, last[name] = [], {}
        for seed in seeds:
            run = f"runs/{name}-{seed}-0123456789ab"
            paths, found = [], []
            luck = 0.1 * rng.normal()
            for epoch in range(1, files + 1):
                noise = 0.5 * rng.normal(size=common.shape)
                values = truth.matrix() * (gain + luck) + common + noise - 1.5
                each = Predictions((1 / (1 + np.exp(-values))).astype(np.float32), part.clip_ids, clips.vocabulary)
                paths.append(f"{run}/predictions/evaluation/epoch_{epoch:03d}.safetensors")
                each.save(folder / paths[-1])
                found.append(score(each, truth))
            _write_log(folder / run, [each.mean_average_precision for each in found])
            last[name][seed] = paths[-1]
            means = {m: float(np.mean([getattr(each, m) for each in found])) for m in METRICS}
            entries.append(_entry(seed, [run], paths, "mean_of_scores", means))
        _write_row(folder, name, title, table, "last_five", entries, recipe={"mixup.rate": 0.5})
    pooled = [last["mixup"][seed] for seed in seeds]
    for name, groups in {
        "ensemble_seeds": [(None, pooled)],
        "ensemble_pretraining": [(s, [last[n][s] for n in ("baseline", "pretraining")]) for s in seeds],
    }.items():
        entries = []
        members: list[list[float]] = []
        for seed, paths in groups:
            each = [Predictions.read(folder / path) for path in paths]
            found = score(average(each), truth)
            members.append([score(one, truth).mean_average_precision for one in each])
            scores = {m: getattr(found, m) for m in METRICS}
            entries.append(
                _entry(seed, [p.split("/predictions")[0] for p in paths], paths, "mean_of_probabilities", scores)
            )
        details = {
            "members": len(members[0]),
            "average": float(np.mean(members)),
            "best": float(np.mean([max(each) for each in members])),
            "ensemble": float(np.mean([each["scores"]["mean_average_precision"] for each in entries])),
        }
        _write_row(folder, name, name.replace("_", " "), "X", "ensemble", entries, details)
    missing = {"row": "resnet50", "title": "ResNet-50", "table": "II", "status": "not run", "take": "last_five"}
    reason = "its ImageNet weights are not on this machine"
    _write(folder / "results/resnet50.json", {**missing, "reason": reason, "seeds": [], "mean": {}, "deviation": {}})
    sweep = {"first_epoch": [1, 2], "weights": [0.5, 0.6], "predictions": [0.6, 0.62], "alone": [0.4, 0.5]}
    mixup = json.loads((folder / "results/mixup.json").read_text())
    _write(folder / "results/start_sweep.json", {**mixup, "row": "start_sweep", "table": "Figure 7", "details": sweep})
    counts = clips.counts()
    lab = {
        "version": 1,
        "clips": {"name": clips.name, "file": "clips.parquet", "splits": counts, "classes": CLASSES},
        "recipe": "demo",
        "overrides": {"optimizer.epochs": files},
        "seeds": list(seeds),
        "rows": [*ROWS, "ensemble_seeds", "ensemble_pretraining", "resnet50", "start_sweep"],
        "truth": "true_labels",
        "split": "evaluation",
        "machine": "2 cores",
        "date": "2026-01-02",
        "command": "psla lab run clips.parquet --rows core --seeds 0,1,2 --out LAB",
    }
    _write(folder / "lab.json", lab)
    return folder


METRICS = ("mean_average_precision", "mean_auc", "d_prime")


def _entry(seed: int | None, runs: list[str], paths: list[str], combine: str, scores: dict) -> dict:
    return {
        "seed": seed,
        "runs": runs,
        "predictions": paths,
        "combine": combine,
        "scores": scores,
        "command": "psla train recipe.yaml --clips clips.parquet --out run",
        "hours": 0.01,
    }


def _write_row(folder, name, title, table, take, entries, details=None, recipe=None) -> None:
    columns = {m: [e["scores"][m] for e in entries] for m in METRICS}
    known = {m: values for m, values in columns.items() if None not in values}
    several = len(entries) > 1
    row = {
        "row": name,
        "title": title,
        "table": table,
        "status": "done",
        "reason": None,
        "take": take,
        "seeds": entries,
        "mean": {m: float(np.mean(known[m])) if m in known else None for m in METRICS},
        "deviation": {m: float(np.std(known[m], ddof=1)) if several and m in known else None for m in METRICS},
        "parameters": 1234567,
        "clips_per_second": 12.5,
        "details": details or {},
        "recipe": recipe or {},
        "fingerprint": "0",
    }
    _write(folder / f"results/{name}.json", row)


def _write_log(run: Path, maps: list[float]) -> None:
    lines = ["epoch,steps,clips,rejected,learning_rate,loss,validation_map,evaluation_map"]
    lines += [f"{i},4,100,0,0.001,{1 / i},,{value}" for i, value in enumerate(maps, start=1)]
    (run / "log.csv").write_text("\n".join(lines) + "\n")


def _write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, allow_nan=False))
