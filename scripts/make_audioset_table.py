"""Make `src/psla/data/tables/audioset_classes.csv` from AudioSet's published class list and ontology.

The table restates facts only (class ids, names, parent edges, restrictions, the order of the 527 classes); the
ontology's descriptions, examples and links are left out.

    python scripts/make_audioset_table.py class_labels_indices.csv ontology.json OUT.csv

with OUT.csv standing for `src/psla/data/tables/audioset_classes.csv`.

Both inputs are published at https://research.google.com/audioset/ (class list CC BY 4.0, ontology CC BY-SA 4.0).
"""

import csv
import json
import sys
from pathlib import Path


def table(class_list: Path, ontology: Path) -> list[dict[str, str]]:
    """One row a class of the ontology: id, index among the 527 (empty outside), name, parent ids, restrictions."""
    index = {row["mid"]: row["index"] for row in csv.DictReader(class_list.open(encoding="utf-8"))}
    nodes = json.loads(ontology.read_text(encoding="utf-8"))
    parents: dict[str, list[str]] = {node["id"]: [] for node in nodes}
    for node in nodes:
        for child in node["child_ids"]:
            parents[child].append(node["id"])
    return [
        {
            "id": node["id"],
            "index": index.get(node["id"], ""),
            "name": node["name"],
            "parents": " ".join(parents[node["id"]]),
            "restrictions": " ".join(node["restrictions"]),
        }
        for node in nodes
    ]


def main() -> None:
    class_list, ontology, out = (Path(argument) for argument in sys.argv[1:4])
    rows = table(class_list, ontology)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{out}: {len(rows)} classes, {sum(bool(row['index']) for row in rows)} in the vocabulary")


if __name__ == "__main__":
    main()
