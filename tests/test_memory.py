"""Memory does not grow with the number of steps; what is freed is kept where the allocator can be told so."""

import ctypes
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psla.model.host_memory import keep_freed_memory

# Steps of a tiny training in a process of its own; resident memory after step 100 and after step 400.
STEPS = """
import json, sys, torch
from psla.data.clips import Clips
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.data.source import open_source
from psla.model.backbones.efficientnet import VARIANTS, Variant
from psla.training.devices import Runtime, open_fabric
from psla.training.loader import Loader
from psla.training.recipe import Recipe
from psla.training.trainer import Trainer
from psla.training.session import build_network

torch.set_num_threads(1)

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

VARIANTS["efficientnet_lite0"] = Variant(width=0.25, depth=0.25, image_size=224, lite=True)  # fast steps
recipe = Recipe.from_dict({
    "front_end": {"frames": 64, "mel_bins": 32},
    "backbone": {"name": "efficientnet_lite0", "pretraining": "none"},
    "masking": {"frequency": 12, "time": 16},
    "optimizer": {"batch_size": 2, "epochs": 60, "warmup_steps": 0},
})
clips = Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=16), "train"), vocabulary())
fabric = open_fabric(Runtime(accelerator="cpu"), "float32")
network, _ = build_network(recipe, clips.vocabulary)
wrapped, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters()))
loader = Loader(open_source(clips, 16000, 2**20), network.config.front_end.window_samples)
trainer = Trainer(recipe, wrapped, optimizer, fabric, clips.labels(), loader)
seen = {}

def after_step():
    if trainer.position.step in (100, 400):
        seen[trainer.position.step] = resident()

while 400 not in seen:
    trainer.epoch(lambda clips: None, after_step)
    trainer.position = trainer.position.next_epoch()
print(json.dumps(seen))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_training_does_not_grow() -> None:
    """Resident memory after 400 steps is within 3 % of that after 100."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["400"] <= 1.03 * seen["100"], seen


# Features of soundscapes by a small network in a process of its own; resident memory on the way.
FEATURES = """
import json, sys, torch
from pathlib import Path
from psla.data.clips import Clips
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.model.backbones.efficientnet import VARIANTS, Variant
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.training import features

torch.set_num_threads(1)
torch.manual_seed(0)
VARIANTS["efficientnet_lite0"] = Variant(width=0.1, depth=0.1, image_size=224, lite=True)
features.SHARD = int(sys.argv[3])
front_end = FrontEndConfig(frames=32, mel_bins=32)
network = TaggingNetwork(NetworkConfig("efficientnet_lite0", 2, front_end=front_end)).eval()
clips = Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=int(sys.argv[2])), "train"), vocabulary())
done, seen = 0, []

def heard(more):
    global done
    done += more
    if done % 500 == 0:
        with open("/proc/self/status") as file:
            seen.append(next(int(line.split()[1]) for line in file if line.startswith("VmRSS")))

features.hear(network, clips, Path(sys.argv[1]), 1, heard)
print(json.dumps(seen))
"""


@pytest.mark.soak
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_features_do_not_grow(tmp_path: Path) -> None:
    """Resident memory after 3,000 clips is that after 500 and the numbers that they have; far below 800 MB."""
    words = [sys.executable, "-c", FEATURES, str(tmp_path), "3000", "128"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen[-1] - seen[0] <= 30_000, seen
    assert seen[-1] <= 800_000, seen


@pytest.mark.soak
def test_features_survive_a_kill(tmp_path: Path) -> None:
    """Killed without notice, twice, and begun again: the cache is the same, byte for byte, as one that was not."""

    def begin(folder: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", FEATURES, str(tmp_path / folder), "400", "10"]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL)

    def shards(folder: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / folder).glob("[!.]*")}

    assert begin("whole").wait(600) == 0
    for wanted in (3, 12):
        process = begin("killed")
        end = time.monotonic() + 600
        while len(shards("killed")) < wanted:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert begin("killed").wait(600) == 0
    assert len(shards("whole")) == 40
    assert shards("killed") == shards("whole")


# Predictions of 20,000 soundscapes by a small network in a process of its own; resident memory on the way.
PREDICTIONS = """
import json, torch
from psla.data.clips import Clips
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.data.source import open_source
from psla.model.frontends.kaldi import FrontEndConfig
from psla.model.host_memory import keep_freed_memory
from psla.model.inference import predict
from psla.model.network import NetworkConfig, TaggingNetwork

keep_freed_memory()
torch.set_num_threads(1)

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

clips = Clips.from_rows(table(SoundscapeConfig(seconds=0.3, clips=20000), "evaluation"), vocabulary())
front_end = FrontEndConfig(frames=32, mel_bins=32)
network = TaggingNetwork(NetworkConfig("efficientnet_lite0", len(clips.vocabulary), 1, front_end=front_end)).eval()
done, seen = 0, {}

def progress(count):
    global done
    done += count
    if done % 5000 == 0:
        seen[done] = resident()

source = open_source(clips, 16000)
predictions = predict(network, source, clips.vocabulary, batch_size=50, progress=progress).predictions
print(json.dumps({"seen": seen, "clips": len(predictions)}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_predicting_does_not_grow() -> None:
    """Over 20,000 soundscapes resident memory grows by no more than 3 % and the probabilities themselves."""
    done = subprocess.run(
        [sys.executable, "-c", PREDICTIONS], capture_output=True, text=True, timeout=1100, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["clips"] == 20000
    kept_kib = 15000 * 60 * 4 / 1024  # the probabilities of the last 15,000 clips
    assert found["seen"]["20000"] <= 1.03 * found["seen"]["5000"] + kept_kib, found


# 64 MiB allocated and freed, before and after the allocator is told; how much resident memory rose, and how much stays.
FREED = """
import json
import numpy as np
from psla.model.host_memory import keep_freed_memory

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

def risen():
    before = resident()
    block = np.ones(8 << 20)
    held = resident() - before
    del block
    return held, resident() - before

print(json.dumps({"before": risen(), "told": keep_freed_memory(), "after": [risen(), risen()]}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_freed_memory_is_kept_once_the_allocator_is_told() -> None:
    """64 MiB that are freed go back to the system at first; when `keep_freed_memory` has said True they stay, and the
    next 64 MiB take no more."""
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    seen, block = json.loads(done.stdout), 64 * 1024
    if not seen["told"]:
        pytest.skip("this allocator cannot be told to keep freed memory")
    held, stays = seen["before"]
    assert (held > 0.9 * block, stays < 0.1 * block) == (True, True), seen
    (held, stays), (again, _) = seen["after"]
    assert (held > 0.9 * block, stays > 0.9 * block, again < 0.1 * block) == (True, True, True), seen


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside Linux, and where the C library has no `mallopt`, the answer is False."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(ctypes, "CDLL", lambda name: object())
        assert keep_freed_memory.__wrapped__() is False
        elsewhere.setattr(ctypes, "CDLL", lambda name: pytest.fail("the C library was opened outside Linux"))
        elsewhere.setattr(sys, "platform", "darwin")
        assert keep_freed_memory.__wrapped__() is False
