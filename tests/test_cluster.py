"""Laws of Ray as what does tasks: on several nodes the same bytes come, whatever is killed meanwhile."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

import test_lab_run as lab_tests
from psla.audio.pool import decode_pool
from psla.cluster.ray_tasks import ClusterError, RaySpread, ray_cluster
from psla.data.pack.write import pack
from psla.files import sha256_of
from psla.model.file import load_model
from psla.spread import Link, Task, Watch, in_turn
from psla.tagging.job import TagJob, TagTask, tag_apart
from psla.tagging.output import RowSettings
from psla.tagging.predicting import PredictJob
from psla.tagging.tagger import load
from psla.training.fit import fit
from psla.weights.catalogue import resolve
from test_fit import sound
from test_spread import MODEL, RATE, contents, sounds, table

pytest.importorskip("ray", reason="needs the extra cluster")
__all__ = ["sounds"]
STORE = 80 << 20
TESTS = Path(__file__).parent
KILLS = [("worker", 0), ("node", 1), ("driver", 2)]
MORE_KILLS = [(what, seed) for seed in range(3, 7) for what in ("worker", "node", "driver")][:10]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and a node, a core each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # What Ray starts has this environment: the package under test, and decoders that stand beside the tests.
        source = str(Path(sys.modules["psla"].__file__ or "").parents[1])
        patch.setenv("PYTHONPATH", os.pathsep.join([source, str(TESTS)]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        options = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=options)
        made.add_node(num_cpus=1, object_store_memory=STORE)
        yield made
        made.shutdown()


@pytest.fixture
def spread(cluster: Any) -> Iterator[RaySpread]:
    with ray_cluster(f"ray://{cluster.address}") as connected:
        yield connected


def test_the_same_bytes(spread: RaySpread, sounds: Path, tmp_path: Path) -> None:
    """Pack, predictions and tags of a cluster are those of one process, to the byte."""
    clips = table(sounds)
    pack(clips, tmp_path / "one", RATE, workers=1, shard_clips=2)
    pack(clips, tmp_path / "many", RATE, workers=1, shard_clips=2, spread=spread)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")

    digest, done = sha256_of(resolve(MODEL)), []
    job = PredictJob(MODEL, digest, clips, tmp_path / "p.safetensors", "evaluation")
    found = job.predict(spread, done.append, part_clips=2)
    PredictJob(MODEL, digest, clips, tmp_path / "q.safetensors", "evaluation").predict(_here(), part_clips=6)
    assert (tmp_path / "p.safetensors").read_bytes() == (tmp_path / "q.safetensors").read_bytes()
    assert (list(found.rejected), sum(done)) == (["f"], 6)

    paths = [str(path) for path in sorted(sounds.glob("*.wav"))]
    mine = TagJob(load(MODEL), digest, RowSettings(top=3))
    with decode_pool(1) as pool:
        expected = list(mine.rows(paths, pool))
    assert list(tag_apart(mine, TagTask.of(mine, MODEL, None, "float32", None, 1), paths, spread)) == expected
    assert load_model(resolve(MODEL)).vocabulary


def _here() -> Any:
    from psla.spread import Here

    return Here()


@pytest.mark.soak
def test_a_lab_on_a_cluster(spread: RaySpread, tmp_path: Path) -> None:
    """A lab on a cluster comes to the results and the bytes of predictions of one process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lab_tests.do(tmp_path / "one", ["labels_12"])
        found = lab_tests.do(tmp_path / "many", ["labels_12"], spread=spread)
    finally:
        torch.set_num_threads(before)
    assert found.done[-1] == "labels_12"
    assert lab_tests.results(tmp_path / "many") == lab_tests.results(tmp_path / "one")
    assert lab_tests.predictions(tmp_path / "many") == lab_tests.predictions(tmp_path / "one")


@pytest.mark.soak
def test_a_fit_on_a_cluster(spread: RaySpread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `psla fit` keeps of clips heard on a cluster, its model and its report are those of one process."""
    monkeypatch.setattr("psla.training.features.SHARD", 4)
    monkeypatch.setattr("psla.training.features.GROUP", 3)
    monkeypatch.setattr("psla.training.fit.SIGNALS", 1)
    for number, kind in enumerate(["beep", "hiss"] * 5):
        path = tmp_path / "sounds" / kind / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, sound(kind, number), RATE)
    (tmp_path / "sounds/hiss/0.wav").write_bytes(b"nothing")
    given = {"one": None, "many": spread}
    for name, does in given.items():
        cache = tmp_path / name / "cache"
        fit(tmp_path / "sounds", tmp_path / name / "my.safetensors", MODEL, cache=cache, workers=1, spread=does)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def raises(number: int, link: Link) -> int:
    raise FileNotFoundError(2, "No such file or directory", f"{number}.wav")


def waits(link: Link) -> str:
    """Until it is told to stop."""
    link.say("waiting")
    for count in range(600):
        if link.stop():
            return "stopped"
        link.tell(count)
        time.sleep(0.1)
    return "never told"


def test_errors_news_and_stopping(spread: RaySpread) -> None:
    """An error comes as it was raised; a task tells, says and learns that it is to stop; too much is refused."""
    with pytest.raises(FileNotFoundError, match=r"7\.wav"):
        list(in_turn(spread, [Task("a", raises, (7,))]))
    said: list[tuple[str, str]] = []
    told: list[int] = []
    watch = Watch(
        lambda name, done: told.append(done), lambda name, text: said.append((name, text)), lambda: len(told) > 1
    )
    assert [found for _, found in in_turn(spread, [Task("b", waits)], watch)] == ["stopped"]
    assert said == [("b", "waiting")]
    with pytest.raises(ClusterError, match="c needs 64 CPUs, and no machine of the cluster has more than 1"):
        spread.begin(Task("c", waits, cpus=64))
    with pytest.raises(ClusterError, match="d needs 1 GPUs, and no machine"):
        spread.begin(Task("d", waits, gpus=1))


@pytest.mark.parametrize("address", ["slurm", "ray:", "ray:/x", "ray://"])
def test_addresses_that_are_none(address: str) -> None:
    """What is no address of a cluster is refused before anything is started."""
    with (
        pytest.raises(ClusterError, match="--cluster is ray, ray://HOST:PORT or ray://auto, not"),
        ray_cluster(address),
    ):
        pass


def slow_clips() -> Any:
    from psla.data.clips import Clips
    from psla.data.vocabulary import Vocabulary

    names = ["slow:3", "refuse", "good:9", "slow:2", "many:1", "slow:3", "good:4", "slow:2"]
    row = {"split": "train", "labels": ["dog"]}
    rows = [{**row, "clip_id": f"{i}", "source": f"{i}", "path": name} for i, name in enumerate(names)]
    return Clips.from_rows(rows, Vocabulary(["dog"]), "mine")


DRIVER = """
import sys
from psla.cluster.ray_tasks import ray_cluster
from psla.data.clips import Clips
from psla.data.pack.write import pack
with ray_cluster(sys.argv[1]) as spread:
    print("ready", flush=True)
    pack(Clips.read(sys.argv[2]), sys.argv[3], 16000, workers=1, shard_clips=2, decoder="fake_decoder:decode",
         spread=spread, progress=lambda state: None)
"""


def kill_a_worker() -> None:
    """One that is at a task, or idle."""
    import psutil

    running = [
        p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or ()).startswith("ray::_work")
    ]
    if running:
        running[0].send_signal(signal.SIGKILL)


def broken(what: str, seed: int, cluster: Any, tmp_path: Path) -> None:
    clips, generator = slow_clips(), random.Random(seed)
    pack(clips, tmp_path / "one", RATE, workers=1, shard_clips=2, decoder="fake_decoder:decode")
    clips.write(tmp_path / "c.parquet")
    address, out = f"ray://{cluster.address}", tmp_path / "many"
    after = generator.uniform(0.2, 4.0)
    if what == "driver":
        command = [sys.executable, "-c", DRIVER, address, str(tmp_path / "c.parquet"), str(out)]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=TESTS)
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        time.sleep(after)
        driver.kill()
        driver.wait()
        subprocess.run(command, check=True, cwd=TESTS, stdout=subprocess.DEVNULL)
    else:
        with ray_cluster(address) as spread:
            nodes = list(cluster.worker_nodes)
            act = kill_a_worker if what == "worker" else lambda: cluster.remove_node(nodes[0], allow_graceful=False)
            timer = threading.Timer(after, act)
            timer.start()
            pack(clips, out, RATE, workers=1, shard_clips=2, decoder="fake_decoder:decode", spread=spread)
            timer.join()
        if what == "node":
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
    assert contents(out) == contents(tmp_path / "one")


@pytest.mark.parametrize(("what", "seed"), KILLS)
def test_killed_at_a_random_moment(what: str, seed: int, cluster: Any, tmp_path: Path) -> None:
    """A worker killed, a node removed, the driver killed and begun again: nothing is lost, nothing is there twice."""
    broken(what, seed, cluster, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize(("what", "seed"), MORE_KILLS)
def test_killed_at_more_moments(what: str, seed: int, cluster: Any, tmp_path: Path) -> None:
    """As above."""
    broken(what, seed, cluster, tmp_path)
