"""Compare the routes of `make_references.py` with what the original implementation computed, and write `facts.json`.

    python scripts/check_references.py

needs `../shared/data` (the original's outputs, the published lists of AudioSet and FSD50K, the list of ESC-10) and
`../shared/paper/results.yaml`. It prints the differences, which tests/references/README.md restates. `facts.json` has
ids, counts and checksums only, with which the tests hold the package to the published lists where those are not there.
"""

import csv
import gzip
import hashlib
import json
import math
import runpy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

MADE = runpy.run_path(str(Path(__file__).with_name("make_references.py")))
SHARED = MADE["ROOT"].parent / "shared"
DATA = SHARED / "data"


def checksum(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def read_list(name: str) -> list[tuple[str, list[str]]]:
    """(video id, class ids) of a published segment list."""
    path = DATA / "audioset" / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if not row[0].startswith("#")]
    return [(row[0], row[3].split(",")) for row in rows]


def check_kaldi() -> None:
    """The front end, on four recorded waves."""
    with np.load(DATA / "released/kaldi_fbank.npz") as data:
        for window in MADE["WINDOWS"]:
            for number in range(4):
                known = data[f"{window}_{number}"]
                difference = np.abs(MADE["kaldi_fbank"](data[f"wave_{number}"], window) - known)
                loud = difference[known > -12].max()
                print(f"fbank {window} {number}: at most {loud:.1e} above -12, {difference.mean():.1e} in the mean")


def check_networks() -> None:
    """The library's network with the pooling written down here, on the original's three checkpoints."""
    import torch

    for name, heads in (("4head", 4), ("1head", 1), ("mean", 0)):
        path = DATA / f"released/effnet_b0_{name}_16class.pth"
        state = torch.load(path, weights_only=True, map_location="cpu")
        tensors = {place.removeprefix("module."): value.numpy() for place, value in state.items()}
        network = MADE["trunk"]("b0")
        shapes = {place: list(value.shape) for place, value in tensors.items() if "._fc." not in place}
        assert shapes == MADE["shapes_of"](network, heads, 16), f"{path} has other tensors"
        with np.load(path.with_suffix(".npz")) as known:
            features = MADE["features_of"](network, tensors, known["log_mel"])
            difference = np.abs(MADE["pooled"](features, tensors, heads) - known["probabilities"]).max()
        print(f"network {name}: at most {difference:.1e}")


def check_enhancement() -> None:
    """Label enhancement, on 2,000 clips of the balanced list."""
    sets = dict(read_list("balanced_train_segments.csv"))
    with np.load(DATA / "released/label_enhancement_2000.npz") as known:
        labels = MADE["matrix"]([(id, sets[id]) for id in known["clip_ids"].tolist()])
        for row, threshold in enumerate(["mean", "median", 5, 10, 25]):
            found = MADE["thresholds"](labels, known["predictions"], threshold)
            difference = np.nanmax(np.abs(found - known["thresholds"][row]))
            same = np.array_equal(np.isnan(found), np.isnan(known["thresholds"][row]))
            print(f"thresholds {threshold}: at most {difference:.1e}, the same classes have one: {same}")
            for kind, number in (("I", 1), ("II", 2)) if threshold in MADE["THRESHOLDS"] else ():
                after = np.packbits(MADE["enhanced"](labels, known["predictions"], kind, threshold), axis=1)
                changed = np.unpackbits(after ^ known[f"type{number}_{threshold}"]).sum()
                print(f"enhancement, type {kind}, {threshold}: {changed} labels differ")


def audioset_facts() -> dict:
    """Checksums of the class list and the graph; counts of the lists; the full set's clip weights in narrow groups."""
    with (DATA / "audioset/class_labels_indices.csv").open(encoding="utf-8", newline="") as file:
        classes = [f"{row['index']} {row['mid']} {row['display_name']}" for row in csv.DictReader(file)]
    nodes = json.loads((DATA / "audioset/ontology.json").read_text(encoding="utf-8"))
    edges = {node["id"]: [] for node in nodes}
    for node in nodes:
        for child in node["child_ids"]:
            edges[child].append(node["id"])
    graph = [f"{node['id']} {sorted(edges[node['id']])} {sorted(node['restrictions'])}" for node in nodes]
    balanced = [own for _, own in read_list("balanced_train_segments.csv")]
    full = balanced + [own for _, own in read_list("unbalanced_train_segments.csv.gz")]
    counts = {}
    for name, sets in (("balanced", balanced), ("full", full)):
        speech, *children = (sum(id in own for own in sets) for id in (MADE["SPEECH"], *MADE["CHILDREN"]))
        lacking = sum(MADE["SPEECH"] not in own and any(id in own for id in MADE["CHILDREN"]) for own in sets)
        counts[name] = {"clips": len(sets), "labels": sum(map(len, sets)), "speech": speech, "children": children}
        counts[name]["child_without_speech"] = lacking
    groups: dict[int, list[float]] = {}
    for weight in MADE["weights_of"](full):
        groups.setdefault(math.floor(100 * math.log(weight)), []).append(weight)
    return {
        "class_list": checksum(classes),
        "graph": checksum(sorted(graph)),
        "lists": counts,
        "full_weights": [[float(f"{math.fsum(g) / len(g):.9g}"), len(g)] for _, g in sorted(groups.items())],
    }


def facts() -> dict:
    """All of `facts.json`."""
    with (DATA / "fsd50k/class_labels_indices.csv").open(encoding="utf-8", newline="") as file:
        fsd50k = [f"{row['index']} {row['mid']} {row['display_name']}" for row in csv.DictReader(file)]
    with (DATA / "esc10/meta/esc50.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [f"{row['fold']}-{row['src_file']}-{row['take']}-{row['target']}" for row in rows]
    assert clips == [Path(row["filename"]).stem for row in rows], "a name of ESC-10 does not tell fold and recording"
    paper = yaml.safe_load((SHARED / "paper/results.yaml").read_text(encoding="utf-8"))
    return {
        "audioset": audioset_facts(),
        "fsd50k": {"class_list": checksum(fsd50k)},
        "esc10": {"categories": {row["target"]: row["category"] for row in rows}, "clips": clips},
        "paper": {key: value for key, value in paper.items() if key.startswith(("table_", "figure_"))},
    }


def main() -> None:
    check_kaldi()
    check_networks()
    check_enhancement()
    path = MADE["REFERENCES"] / "facts.json"
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in facts().items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
