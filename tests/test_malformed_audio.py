"""Laws of tagging what is broken: a status for each file, and no harm to any other file or to the process."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from malformed_audio import malformed_files
from psla.audio.pool import decode_pool
from psla.tagging.batch import FileResult, tag_files
from psla.tagging.tagger import Tagger
from tagging_models import noise, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

MOST_BYTES = 600 << 20


def resident_bytes() -> int:
    """What this process holds of the memory; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0


def tag_malformed(folder: Path, count: int, seed: int) -> list[FileResult]:
    """Tag so many malformed files, with a good one after each tenth, and hold the results to the laws."""
    tagger = Tagger(tiny_model(mel_bins=32))
    soundfile.write(folder / "good.wav", noise(3000), 16000)
    good, paths = str(folder / "good.wav"), []
    for i, (name, data) in enumerate(malformed_files(count, seed)):
        (folder / name).write_bytes(data)
        paths += [str(folder / name)] + [good] * (i % 10 == 9)
    alone = tagger.tag(good)
    before, longest, found = resident_bytes(), 0.0, []
    with decode_pool(2, timeout_s=10.0) as pool:
        began = time.monotonic()
        for file in tag_files(tagger, paths, pool):
            longest, began = max(longest, time.monotonic() - began), time.monotonic()
            found.append(file)
            assert resident_bytes() - before < MOST_BYTES
    assert [file.path for file in found] == paths
    for file in found:
        assert (file.result is None) == bool(file.reason)
        if file.path == good:
            assert file.result is not None
            assert np.array_equal(file.result.clip_probabilities, alone.clip_probabilities)
        elif file.result is not None:
            assert np.isfinite(file.result.clip_probabilities).all()
            assert file.result.duration_s < 60
    assert longest < 60  # ten seconds without a sign of life, and a machine that is busy with other things
    return [file for file in found if file.path != good]


def test_malformed_files_have_a_status_each(tmp_path: Path) -> None:
    """A hundred malformed files: most are refused, some still hold audio, the good ones among them are untouched."""
    found = tag_malformed(tmp_path, 100, seed=0)
    assert sum(file.result is None for file in found) > 40
    assert any(file.result is not None for file in found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_malformed_files_have_a_status_each(tmp_path: Path) -> None:
    """The same with a thousand."""
    assert len(tag_malformed(tmp_path, 1000, seed=1)) == 1000
