"""Which sources to hold out: stratified over labels, never splitting a source."""

from __future__ import annotations

import numpy as np
import polars as pl


def choose_sources(source: np.ndarray, label: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Which sources to hold out so that each class loses `share` of its clips: (sources,) bool; rarest class first.

    Greedy, as in Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data (2011), but over sources.
    `source` and `label` are (entries,) ints: one entry for each label of each clip.
    """
    entries = pl.DataFrame({"source": source, "label": label}).group_by("source", "label").len()
    entries = entries.sort("source", "label")
    of_source: dict[int, list[tuple[int, int]]] = {}  # source -> [(class, clips)]
    for s, c, n in entries.iter_rows():
        of_source.setdefault(s, []).append((c, n))
    total = np.bincount(label)
    held, left = np.zeros(len(total)), np.bincount(entries["label"].to_numpy(), minlength=len(total))  # left: sources
    chosen = np.zeros(int(source.max()) + 1, dtype=bool)
    decided = np.zeros_like(chosen)
    rank = generator.permutation(len(chosen))
    entries = entries.with_columns(pl.Series("rank", rank[entries["source"].to_numpy()])).sort("label", "rank")
    by_class = {k[0]: part["source"].to_list() for k, part in entries.partition_by("label", as_dict=True).items()}

    def spare(s: int) -> bool:
        # A class must stay in train: a source that is the last of any class may not go.
        return all(left[c] > 1 for c, _ in of_source[s])

    def take(s: int) -> None:
        chosen[s] = True
        for c, n in of_source[s]:
            held[c] += n
            left[c] -= 1

    for c in sorted(by_class, key=lambda c: (total[c], c)):
        target = share * total[c]
        free = [s for s in by_class[c] if not decided[s]]
        size = {s: dict(of_source[s])[c] for s in free}
        for s in free:
            if held[c] + size[s] - target <= target - held[c] and spare(s):  # comes nearer to the target
                take(s)
        if not held[c]:
            smallest = min((s for s in free if spare(s)), key=size.__getitem__, default=None)
            if smallest is not None:
                take(smallest)
        decided[by_class[c]] = True
    return chosen
