"""Laws of work across two hosts: network namespaces, with addresses of their own and a cable between them.

Needs root's rights over the network (iproute2's `ip netns`). The hosts share their disk, as machines of a cluster do.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from distributed_worker import tiny
from psla.data.clips import Clips
from psla.metrics.predictions import Predictions
from psla.spread import Link
from psla.synth.scene import SoundscapeConfig, table, vocabulary
from psla.training.run import Run
from test_spread import MODEL, contents, sounds
from test_spread import table as table_of

pytestmark = pytest.mark.soak
__all__ = ["sounds"]
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 6379
TESTS = Path(__file__).parent


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")


class Host:
    """A network namespace with an address."""

    def __init__(self, number: int) -> None:
        self.address, self.link = ADDRESSES[number], f"psla{os.getpid() % 100000}{'ab'[number]}"
        self.name = f"{self.link}-host"

    def begin(self, command: Sequence[str], folder: Path, log: Path, **more: str) -> subprocess.Popen[bytes]:
        """Start a Python command there; what it says goes into a file."""
        with log.open("wb") as file:
            words = ["ip", "netns", "exec", self.name, sys.executable, *command]
            return subprocess.Popen(words, cwd=folder, stdout=file, stderr=file, env=self.environment() | more)

    def environment(self) -> dict[str, str]:
        source = str(Path(sys.modules["psla"].__file__ or "").parents[1])
        # gloo asks for the interface of the host's name, which is not of this network.
        more = {"GLOO_SOCKET_IFNAME": self.link, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        more |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "NO_PROXY": "*"}
        return {**os.environ, **more, "PYTHONPATH": os.pathsep.join([source, str(TESTS)])}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    if shutil.which("ip") is None or not hasattr(os, "geteuid") or os.geteuid():
        pytest.skip("two hosts need iproute2 and root")
    pair = Host(0), Host(1)
    with contextlib.ExitStack() as stack:
        for host in pair:
            ip("netns", "add", host.name)
            stack.callback(subprocess.run, ["ip", "netns", "del", host.name], check=True)
        one, other = pair
        ip("link", "add", one.link, "netns", one.name, "type", "veth", "peer", "name", other.link, "netns", other.name)
        for host in pair:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.link)
            for link in ("lo", host.link):
                ip("-n", host.name, "link", "set", link, "up")
        yield pair


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(processes):
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def ray(hosts: tuple[Host, Host]) -> Iterator[str]:
    """A head on one host and a machine on the other, a core each; the address of the cluster."""
    pytest.importorskip("ray", reason="needs the extra cluster")
    head, other = hosts
    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp", ignore_cleanup_errors=True) as name:  # sockets: short
        folder = Path(name)
        start = ["-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1"]
        start += ["--object-store-memory", str(80 << 20), "--disable-usage-stats"]
        of_head = ["--head", "--port", str(PORT), "--include-dashboard", "false", "--temp-dir", name]
        log = folder / "head.log"
        first = head.begin([*start, *of_head, "--node-ip-address", head.address], folder, log)
        with ended(first):
            until("Ray runtime started", log, first)
            log = folder / "other.log"
            join = ["--address", f"{head.address}:{PORT}", "--node-ip-address", other.address]
            second = other.begin([*start, *join], folder, log)
            with ended(second):
                until("Ray runtime started", log, second)
                yield f"ray://{head.address}:{PORT}"


def until(text: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 120
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < ends, log.read_text(errors="replace")
        time.sleep(0.2)


def on(host: Host, command: Sequence[str], folder: Path) -> str:
    """What a Python command says there; it must succeed."""
    log = folder / "said.log"
    code = host.begin(command, folder, log).wait(300)
    assert code == 0, log.read_text(errors="replace")
    return log.read_text(errors="replace")


def where(link: Link) -> str:
    """The address of the machine that does this task, which takes long enough for another one to take the next."""
    time.sleep(1.0)
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


WHERE = """
import sys
from psla.cluster.ray_tasks import ray_cluster
from psla.spread import Task, in_turn
from test_two_hosts import where
with ray_cluster(sys.argv[1]) as spread:
    print("on", *sorted({found for _, found in in_turn(spread, [Task(str(n), where) for n in range(8)])}))
"""


def test_ray_across_two_hosts(hosts: tuple[Host, Host], ray: str, sounds: Path, tmp_path: Path) -> None:
    """Tasks are done on both hosts; pack and predictions of the command there are those of one process, to the byte."""
    assert f"on {' '.join(ADDRESSES)}\n" in on(hosts[0], ["-c", WHERE, ray], tmp_path)
    table_of(sounds).write(tmp_path / "c.parquet")
    pack = ["-m", "psla", "pack", "c.parquet", "--workers", "1", "--shard-clips", "1"]
    predict = ["-m", "psla", "predict", MODEL, "c.parquet", "--out"]
    on(hosts[0], [*pack, "one"], tmp_path)
    on(hosts[0], [*pack, "many", "--cluster", ray], tmp_path)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    on(hosts[0], [*predict, "one.safetensors"], tmp_path)
    on(hosts[0], [*predict, "many.safetensors", "--cluster", ray], tmp_path)
    assert (tmp_path / "many.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_a_token_that_is_missing_is_a_sentence(hosts: tuple[Host, Host], ray: str, tmp_path: Path) -> None:
    """Ray that is protected by a token, asked without one: a sentence that says what to set."""
    log = tmp_path / "said.log"
    driver = hosts[0].begin(["-c", WHERE, ray], tmp_path, log, RAY_AUTH_MODE="disabled", RAY_AUTH_TOKEN="")
    assert driver.wait(180) != 0
    said = log.read_text(errors="replace")
    assert "ClusterError: no Ray answers at" in said
    assert "RAY_AUTH_MODE=token" in said


def test_torchrun_across_two_hosts(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """torchrun on both hosts trains one run: a log, a model, and each of an odd number of clips predicted once."""
    (tmp_path / "recipe.yaml").write_text(tiny(7, epochs=2).to_yaml())
    rows = table(SoundscapeConfig(seconds=0.3, clips=20), "train")
    rows += table(SoundscapeConfig(seconds=0.3, clips=5, seed=1), "evaluation")
    Clips.from_rows(rows, vocabulary()).write(tmp_path / "clips.parquet")
    command = ["-m", "psla", "train", "recipe.yaml", "--clips", "clips.parquet", "--out", "run", "--accelerator", "cpu"]
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "hosts"]
    rendezvous += ["--rdzv-endpoint", f"{hosts[0].address}:29500"]
    logs = [tmp_path / f"{rank}.log" for rank in (0, 1)]
    nodes = []
    for host, log, first in zip(hosts, logs, ("true", "false"), strict=True):
        # The endpoint is on the first; torchrun would ask the host's name, and a namespace has none of its own.
        words = ["torch.distributed.run", *rendezvous, "--rdzv-conf", f"is_host={first}", "--local-addr", host.address]
        nodes.append(host.begin(["-m", *words, *command], tmp_path, log))
    with ended(*nodes):
        codes = [node.wait(240) for node in nodes]
    assert codes == [0, 0], "\n".join(log.read_text(errors="replace") for log in logs)
    run = Run(tmp_path / "run")
    assert [(row["epoch"], row["clips"]) for row in run.read_log()] == [(1, 20), (2, 20)]
    assert run.model_file.exists()
    for path in (run.predictions / "evaluation").iterdir():
        assert len(Predictions.read(path)) == 5
