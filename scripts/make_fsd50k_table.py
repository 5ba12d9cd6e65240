"""Make `src/psla/data/tables/fsd50k_classes.csv` from the class list of FSD50K.

The table restates facts only: class ids and names in the order of the 200 outputs (the alphabet of the names).

    python scripts/make_fsd50k_table.py class_labels_indices.csv OUT.csv

with OUT.csv standing for `src/psla/data/tables/fsd50k_classes.csv`. The list has the columns index, mid, display_name;
`vocabulary.csv` in FSD50K.ground_truth (index, name, id, no head line) holds the same and is read, too.

Source: E. Fonseca et al., FSD50K, https://doi.org/10.5281/zenodo.4060432 (CC BY 4.0).
"""

import csv
import sys
from pathlib import Path


def table(class_list: Path) -> list[tuple[str, str]]:
    """(id, name) of each class, in the order of the index."""
    with class_list.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows[0] == ["index", "mid", "display_name"]:
        rows = [[index, name, id] for index, id, name in rows[1:]]
    assert [int(index) for index, _, _ in rows] == list(range(200)), f"{class_list} does not list 200 classes in order"
    return [(id, name) for _, name, id in rows]


def main() -> None:
    class_list, out = (Path(argument) for argument in sys.argv[1:3])
    rows = table(class_list)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "name"))
        writer.writerows(rows)
    print(f"{out}: {len(rows)} classes")


if __name__ == "__main__":
    main()
