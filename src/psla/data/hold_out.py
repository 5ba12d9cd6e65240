"""Which sources to hold out: stratified over labels, never splitting a source."""

from __future__ import annotations

import numpy as np
import polars as pl


def choose_sources(source: np.ndarray, label: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Which sources to hold out so that each class loses `share` of its clips: (sources,) bool; rarest class first.

    Greedy, as in Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data (2011), but over sources.
    `source` and `label` are (entries,) ints: one entry for each label of each clip. A class with two or more sources
    keeps one. Two million sources take seconds: only the sources that are looked at cost Python's time.
    """
    chosen = np.zeros(int(source.max()) + 1, dtype=bool)
    rank = generator.permutation(len(chosen))
    # One row a source and class that occur together: n clips.
    pairs = (
        pl.DataFrame({"source": source, "label": label}).group_by("source", "label").len("n").sort("source", "label")
    )
    pairs = pairs.with_columns(pl.Series("rank", rank[pairs["source"].to_numpy()]))
    owners, classes, sizes = (pairs[column].to_numpy() for column in ("source", "label", "n"))
    begins = np.searchsorted(owners, np.arange(len(chosen) + 1))  # source s has the rows begins[s] .. begins[s + 1]
    by_class = pairs.with_row_index("row").sort("label", "rank")["row"].to_numpy()
    total, left = np.bincount(label), np.bincount(classes, minlength=int(label.max()) + 1)  # clips; sources
    class_begins = np.concatenate([[0], np.cumsum(left)])
    held = np.zeros(len(total))
    decided = np.zeros_like(chosen)

    def spare(s: int) -> bool:
        # A class must stay in train: a source that is the last of any class may not go.
        return bool((left[classes[begins[s] : begins[s + 1]]] > 1).all())

    def take(s: int) -> None:
        chosen[s] = True
        of_source = slice(begins[s], begins[s + 1])
        held[classes[of_source]] += sizes[of_source]
        left[classes[of_source]] -= 1

    for c in sorted(np.flatnonzero(total), key=lambda c: (total[c], c)):
        target = share * total[c]
        rows = by_class[class_begins[c] : class_begins[c + 1]]
        rows = rows[~decided[owners[rows]]]
        for s, size in zip(owners[rows], sizes[rows], strict=True):
            if 2 * (target - held[c]) < 1:
                break  # not even a source of one clip comes nearer to the target
            if held[c] + size - target <= target - held[c] and spare(s):
                take(s)
        if not held[c]:
            for row in np.argsort(sizes[rows], kind="stable"):  # the smallest that may go
                if spare(s := owners[rows[row]]):
                    take(s)
                    break
        decided[owners[rows]] = True
    return chosen
