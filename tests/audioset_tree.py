"""Tiny trees of AudioSet for the tests: segment lists, and sound files that are named after their clips."""

import numpy as np
import soundfile

from psla.corpora import audioset

SPEECH, MUSIC = "/m/09x0r", "/m/04rlf"
HEAD = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=3, num_segs={}\n# YTID, start_seconds\n"


def write_list(folder, lines, name="balanced_train_segments.csv"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(HEAD.format(len(lines)) + "".join(f"{line}\n" for line in lines))
    return folder


def sound(path, seconds=0.5, rate=8000, channels=1, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).standard_normal((int(seconds * rate), channels)) * 0.1
    soundfile.write(path, samples, rate, **options)
    return path


def scan(root, files, lines, **options):
    """Read clips listed by `lines` with the sound files `files`: path -> options of `sound`."""
    for name, given in files.items():
        sound(root / "audio" / name, **given)
    write_list(root / "lists", lines)
    return audioset.scan(root / "lists", [root / "audio"], ["balanced"], **options)
