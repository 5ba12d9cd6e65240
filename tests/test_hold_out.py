"""Which sources are held out: the fast choice is the plain greedy one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psla.data.labels import choose_sources


def plain_choice(source, label, share, generator):
    """The algorithm as it is written: rarest class first, its sources in random order, each of them looked at."""
    clips = {}  # (source, class) -> clips
    for pair in zip(source.tolist(), label.tolist(), strict=True):
        clips[pair] = clips.get(pair, 0) + 1
    classes_of = {s: sorted(c for s2, c in clips if s2 == s) for s in set(source.tolist())}
    rank = generator.permutation(int(source.max()) + 1)
    total = {c: int((label == c).sum()) for c in set(label.tolist())}
    held, chosen, decided = dict.fromkeys(total, 0), set(), set()

    def spare(s):
        left = {c: sum(c in classes_of[t] for t in classes_of if t not in chosen) for c in classes_of[s]}
        return all(count > 1 for count in left.values())

    def take(s):
        chosen.add(s)
        for c in classes_of[s]:
            held[c] += clips[s, c]

    for c in sorted(total, key=lambda c: (total[c], c)):
        of_class = sorted((s for s in classes_of if c in classes_of[s]), key=lambda s: rank[s])
        free = [s for s in of_class if s not in decided]
        for s in free:
            nearer = abs(held[c] + clips[s, c] - share * total[c]) <= abs(share * total[c] - held[c])
            if nearer and spare(s):
                take(s)
        if not held[c]:
            smallest = min((s for s in free if spare(s)), key=lambda s: clips[s, c], default=None)
            if smallest is not None:
                take(smallest)
        decided.update(of_class)
    return np.array([s in chosen for s in range(len(rank))])


@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 5)), min_size=1, max_size=80),
    st.sampled_from([0.05, 0.1, 0.25, 0.4]),
    st.integers(0, 3),
)
def test_the_fast_choice_is_the_plain_one(entries, share, seed):
    """What is left out for speed (sources that cannot bring a class nearer to its share) changes no choice."""
    source, label = np.array(entries).T
    fast = choose_sources(source, label, share, np.random.default_rng(seed))
    assert fast.tolist() == plain_choice(source, label, share, np.random.default_rng(seed)).tolist()
