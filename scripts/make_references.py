"""Make `tests/references/`: small numbers that the tests compare the package with, by routes that use none of its code.

    python scripts/make_references.py

writes kaldi.npz, network.npz, enhancement.npz and sampling.npz. `check_references.py` compares these routes with the
outputs of the original implementation, where they are beside the checkout, and writes facts.json.

The inputs are made by formula from the raw numbers of PCG64, whose streams NumPy guarantees, so a test makes them anew
and only what was computed from them is stored. Only `efficientnet_pytorch` (a test dependency) runs a network here.
tests/references/README.md says what each file holds.
"""

import base64
import csv
import hashlib
import json
import math
import zlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
REFERENCES = ROOT / "tests/references"
RATE = 16000
WINDOWS = {"hanning": (0.5, 0.5), "hamming": (0.54, 0.46)}  # a - b cos
NETWORKS = {  # name -> variant of EfficientNet, heads (0: mean pooling), classes
    "b0_4head": ("b0", 4, 5),
    "b0_1head": ("b0", 1, 5),
    "b0_mean": ("b0", 0, 5),
    "b2_4head": ("b2", 4, 7),
}
THRESHOLDS = ("mean", "median", 25)
SPEECH, CHILDREN = "/m/09x0r", ("/m/05zppz", "/m/02zsn", "/m/0ytgt")  # and male, female, child speech
EPOCHS, MIXUP_RATES = 5, (0.0, 0.5)
PLANS = {"weighted": (3, 7), "traversal": (4, 1)}  # (seed, epoch), at mixup rate 0.5 and alpha 10


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Numbers in [0, 1), the same wherever NumPy runs."""
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


# The front end


def waves() -> list[np.ndarray]:
    """Tones, a chirp, noise with an offset, a click in silence: int16 at 16 kHz, of four lengths."""
    seconds = np.arange(12000) / RATE
    tones = sum(0.2 * np.sin(2 * np.pi * hertz * seconds[:11200]) for hertz in (440, 1000, 3000, 7000))
    tones += 0.01 * (uniform(1, 11200) - 0.5)
    sweep = math.log(7900 / 50) / 0.75  # from 50 Hz up to 7900 Hz in 0.75 s, by the same factor in equal times
    chirp = 0.7 * np.sin(2 * np.pi * 50 * np.expm1(sweep * seconds) / sweep) + 0.01 * (uniform(2, 12000) - 0.5)
    noise = 0.8 * (uniform(3, 8123) - 0.5) + 0.1
    click = np.zeros(6400)
    click[3000] = 0.9
    return [np.round(32768 * wave).astype(np.int16) for wave in (tones, chirp, noise, click)]


def kaldi_fbank(wave: np.ndarray, window: str) -> np.ndarray:
    """Kaldi's compute-fbank-feats of an int16 wave / 32768 without its mean: (frames, 128), float64.

    25 ms frames every 10 ms, none past the end; of each frame, in this order: its mean is removed, x[i] - 0.97 x[i - 1]
    with the first sample as its own predecessor, the symmetric window, zeros up to 512 samples, the power spectrum by
    the sum that defines it, 128 triangles that are linear in mel from 20 Hz to 8 kHz over the bins below 8 kHz, the
    natural logarithm of at least float32's epsilon.
    """
    samples = wave / 32768.0
    samples -= samples.mean()
    n, k = np.arange(512), np.arange(256)
    transform = np.exp(-2j * np.pi * np.outer(n, k) / 512)
    a, b = WINDOWS[window]
    shape = a - b * np.cos(2 * np.pi * np.arange(400) / 399)

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    step = (mel(8000) - mel(20)) / 129
    weights = np.zeros((128, 256))
    for band in range(128):
        left, centre, right = (mel(20) + (band + i) * step for i in range(3))
        for i in range(256):
            place = mel(i * RATE / 512)
            if left < place < right:
                up, down = (place - left) / (centre - left), (right - place) / (right - centre)
                weights[band, i] = up if place <= centre else down
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400] - samples[start : start + 400].mean()
        frame = np.append(frame[0] - 0.97 * frame[0], frame[1:] - 0.97 * frame[:-1])
        power = np.abs((frame * shape) @ transform[:400]) ** 2
        rows.append(np.log(np.maximum(weights @ power, float(np.finfo(np.float32).eps))))
    return np.array(rows)


# The network


def log_mel() -> np.ndarray:
    """(2, 96, 128) normalised log-mels: noise around a slope over frequency, the second louder towards its end."""
    slope = np.linspace(1, -1, 128) + np.array([0, 1])[:, None, None] * np.linspace(-1, 1, 96)[:, None]
    return (slope + 2 * uniform(5, 2, 96, 128) - 1).astype(np.float32)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """What the checkpoint holds under a name of the published format, float32; activations stay near 1 with it."""

    def between(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * uniform(zlib.crc32(name.encode()), *shape)).astype(np.float32)

    module, leaf = name.split(".")[-2:]
    if leaf == "num_batches_tracked":
        return np.array(1000)
    if name == "attention.head_weight":
        return between(0.2, 0.4)
    if module.startswith("_bn"):
        return between(
            *{"weight": (0.8, 1.2), "bias": (-0.3, 0.3), "running_mean": (-0.2, 0.2), "running_var": (0.5, 1.5)}[leaf]
        )
    if leaf == "bias":
        return between(-0.5, 0.5) if name.startswith("attention.") else between(-0.1, 0.1)
    gains = {"_conv_stem": 1.0, "_expand_conv": 0.7, "_depthwise_conv": 1.7, "_project_conv": 2.5}
    gain = 4.0 if name.startswith("attention.") else gains.get(module, 1.0)
    spread = gain * math.sqrt(3 / math.prod(shape[1:]))
    return between(-spread, spread)


def pooled(features: np.ndarray, tensors: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """The published pooling of (batch, channels, rows, steps), float64: for each head the classification's mean over
    time, weighted by the attention, and over heads the weighted sum."""

    def at_each_step(kind: str, head: int) -> np.ndarray:
        place = f"attention.{kind}.{head}" if heads > 1 else f"attention.{kind}"
        weight, bias = tensors[f"{place}.weight"][:, :, 0, 0], tensors[f"{place}.bias"]
        values = np.einsum("kc,bct->bkt", weight.astype(np.float64), features.mean(axis=2)) + bias[:, None]
        return 1 / (1 + np.exp(-values))  # (batch, classes, steps)

    if heads == 0:
        return at_each_step("cla", 0).mean(axis=2)
    total = np.zeros(())
    for head in range(heads):
        share = at_each_step("att", head).clip(1e-7, 1 - 1e-7)
        share /= share.sum(axis=2, keepdims=True)
        weight = float(tensors["attention.head_weight"][head]) if heads > 1 else 1.0
        total = total + weight * (share * at_each_step("cla", head)).sum(axis=2)
    return total


def trunk(variant: str):
    """The library's network for one channel, float64, in evaluation mode."""
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name(f"efficientnet-{variant}", in_channels=1).double().eval()


def features_of(network, tensors: dict[str, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """(batch, channels, rows, steps), float64, with the tensors whose names begin with `effnet.`."""
    import torch

    own = {name.removeprefix("effnet."): torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}
    network.load_state_dict({name: own.get(name, old) for name, old in network.state_dict().items()})
    with torch.no_grad():
        return network.extract_features(torch.from_numpy(inputs).double().transpose(1, 2)[:, None]).numpy()


def shapes_of(network, heads: int, classes: int) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a published checkpoint, without the prefix `module.`."""
    state = {f"effnet.{name}": list(value.shape) for name, value in network.state_dict().items() if "_fc" not in name}
    channels = network._conv_head.out_channels
    for kind in ("att", "cla") if heads else ("cla",):
        for place in [f"attention.{kind}.{head}" for head in range(heads)] if heads > 1 else [f"attention.{kind}"]:
            state |= {f"{place}.weight": [classes, channels, 1, 1], f"{place}.bias": [classes]}
    return state | ({"attention.head_weight": [heads]} if heads > 1 else {})


def network_reference() -> dict[str, np.ndarray]:
    """For each network its tensors' names and shapes, the clip probabilities and every 40th channel of the features."""
    found = {}
    for name, (variant, heads, classes) in NETWORKS.items():
        network = trunk(variant)
        shapes = shapes_of(network, heads, classes)
        tensors = {place: tensor(place, tuple(shape)) for place, shape in shapes.items()}
        features = features_of(network, tensors, log_mel())
        found[f"{name}_tensors"] = np.array(json.dumps(shapes))
        found[f"{name}_probabilities"] = pooled(features, tensors, heads).astype(np.float32)
        found[f"{name}_features"] = features[:, ::40].astype(np.float32)
    return found


# Labels


def classes() -> list[dict[str, str]]:
    """The rows of the package's table of AudioSet's graph: id, index (empty outside the 527), parents, restrictions."""
    [path] = (ROOT / "src/psla").rglob("audioset_classes.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def segments(count: int, seed: int) -> list[tuple[str, list[str]]]:
    """(video id, class ids) of made-up clips: a few classes of very unequal frequency, now and then with a parent."""
    rows = classes()
    ids = [row["id"] for row in sorted((row for row in rows if row["index"]), key=lambda row: int(row["index"]))]
    parents = {row["id"]: [id for id in row["parents"].split() if id in ids] for row in rows}
    draws, found = uniform(seed, count, 8), []
    for number, draw in enumerate(draws):
        video = base64.urlsafe_b64encode(hashlib.sha256(f"{seed} {number}".encode()).digest())[:11].decode()
        own = [ids[int(527 * value**4)] for value in draw[: 1 + int(3 * draw[3])]]
        if draw[4] < 0.5:
            own += parents[own[0]]
        found.append((video, list(dict.fromkeys(own))))
    return found


def teacher(count: int) -> np.ndarray:
    """(count, 527) float16 probabilities in the place of a teacher's: 32 levels, so that many equal their threshold."""
    return (np.floor(32 * uniform(17, count, 527) ** 3) / 32).astype(np.float16)


def enhanced(labels: np.ndarray, probabilities: np.ndarray, kind: str, threshold: str | int) -> np.ndarray:
    """Algorithm 2 of the paper (section V-A), clip by clip and label by label; (clips, 527) bool in and out.

    Type I proposes the children of a label, type II all that is above it; a class whose restrictions are exactly
    `abstract` is no class at all, others outside the 527 are walked through. Greater than the threshold is added.
    """
    rows = [row for row in classes() if row["restrictions"] != "abstract"]
    index = {row["id"]: int(row["index"]) for row in rows if row["index"]}
    names = {number: id for id, number in index.items()}
    above = {row["id"]: row["parents"].split() for row in rows}

    def ancestors(id: str) -> set[str]:
        direct = [parent for parent in above[id] if parent in above]
        return set(direct).union(*map(ancestors, direct))

    proposed = {}
    for id in index:
        near = {other for other in above if id in above[other]} if kind == "I" else ancestors(id)
        proposed[id] = sorted(index[other] for other in near if other in index)
    limits = thresholds(labels, probabilities, threshold)
    after = labels.copy()
    for clip in range(len(labels)):
        for label in np.flatnonzero(labels[clip]):
            for other in proposed.get(names.get(int(label), ""), []):
                if float(probabilities[clip, other]) > limits[other]:
                    after[clip, other] = True
    return after


def thresholds(labels: np.ndarray, probabilities: np.ndarray, threshold: str | int) -> np.ndarray:
    """(527,) float64: of the teacher's probabilities of a class over the clips with its label; NaN without such."""
    found = np.full(labels.shape[1], np.nan)
    for c in range(labels.shape[1]):
        values = sorted(float(p) for p in probabilities[labels[:, c], c])
        if values and threshold == "mean":
            found[c] = math.fsum(values) / len(values)
        elif values:
            place = (len(values) - 1) * (0.5 if threshold == "median" else threshold / 100)
            low, share = int(place), place - int(place)
            found[c] = values[low] + share * (values[min(low + 1, len(values) - 1)] - values[low])
    return found


def matrix(sets: list[tuple[str, list[str]]]) -> np.ndarray:
    """(clips, 527) bool."""
    index = {row["id"]: int(row["index"]) for row in classes() if row["index"]}
    found = np.zeros((len(sets), 527), bool)
    for clip, (_, own) in enumerate(sets):
        found[clip, [index[id] for id in own]] = True
    return found


def enhancement_reference(count: int = 600) -> dict[str, np.ndarray]:
    """Thresholds, and the enhanced labels as packed bits, for each threshold and type."""
    labels, probabilities, found = matrix(segments(count, 11)), teacher(count), {}
    for threshold in THRESHOLDS:
        found[f"thresholds_{threshold}"] = thresholds(labels, probabilities, threshold)
        for kind in ("I", "II"):
            after = enhanced(labels, probabilities, kind, threshold)
            found[f"type_{kind}_{threshold}"] = np.packbits(after, axis=1)
    return found


# Sampling


def weights_of(sets: list[list[str]]) -> list[float]:
    """The sum over a clip's classes of 1 / (clips that carry the class)."""
    counts: dict[str, int] = {}
    for own in sets:
        for id in own:
            counts[id] = counts.get(id, 0) + 1
    return [math.fsum(1 / counts[id] for id in own) for own in sets]


def plan(weights: list[float], balanced: bool, seed: int, epoch: int) -> tuple[list[int], list[int], list[float]]:
    """First, second (-1: none) and share of every position, drawn as Algorithm 1 says: one number, one look-up."""
    generator, count = np.random.default_rng([seed, epoch, 0]), len(weights)
    edges = list(accumulate(weights))
    if balanced:
        first = [bisect_right(edges, draw * edges[-1]) for draw in generator.random(count).tolist()]
    else:
        first = generator.permutation(count).tolist()
    mixed = [draw < 0.5 for draw in generator.random(count).tolist()]
    others = generator.integers(0, count, size=count).tolist()
    shares = iter(generator.beta(10.0, 10.0, size=sum(mixed)).tolist())
    second = [other if mix else -1 for other, mix in zip(others, mixed, strict=True)]
    return first, second, [next(shares) if mix else 1.0 for mix in mixed]


def sampling_reference(count: int = 1500) -> dict[str, np.ndarray]:
    """Of a made-up list: clips a class, weights, label errors of speech, unheard shares, and plans of an epoch."""
    sets = [own for _, own in segments(count, 13)]
    weights, found = weights_of(sets), {"counts": matrix(segments(count, 13)).sum(axis=0)}
    orphans = sum(SPEECH not in own and any(id in own for id in CHILDREN) for own in sets)
    speech = [sum(id in own for own in sets) for id in (SPEECH, *CHILDREN)]
    found |= {"weights": np.array(weights), "speech": np.array([*speech, orphans])}
    total = math.fsum(weights)
    for rate in MIXUP_RATES:
        missed = [(1 - weight / total) * (1 - rate / count) for weight in weights]
        unheard = [math.fsum(p ** (count * epoch) for p in missed) / count for epoch in range(1, EPOCHS + 1)]
        found[f"unheard_{rate}"] = np.array(unheard)
    for name, (seed, epoch) in PLANS.items():
        first, second, share = plan(weights, name == "weighted", seed, epoch)
        found |= {f"{name}_first": np.array(first, np.int16), f"{name}_second": np.array(second, np.int16)}
        found[f"{name}_share"] = np.array(share, np.float32)
    return found


def kaldi_reference() -> dict[str, np.ndarray]:
    """The waves, and the log-mels of each with both windows."""
    found = {}
    for number, wave in enumerate(waves()):
        found[f"wave_{number}"] = wave
        found |= {f"{window}_{number}": kaldi_fbank(wave, window).astype(np.float32) for window in WINDOWS}
    return found


def main() -> None:
    REFERENCES.mkdir(exist_ok=True)
    for make in (kaldi_reference, network_reference, enhancement_reference, sampling_reference):
        path = REFERENCES / f"{make.__name__.removesuffix('_reference')}.npz"
        np.savez_compressed(path, **make())
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
