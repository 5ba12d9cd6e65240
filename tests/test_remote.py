"""Laws of storage that is no local path: a pack there is a local one byte for byte, complete by what is written last.

fsspec's memory, and a server of S3's interface on this machine (moto).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from typer.testing import CliRunner

from psla import remote
from psla.audio.decode import AudioError
from psla.cli import app
from psla.data.clips import Clips
from psla.data.pack.format import PackError
from psla.data.pack.remote import _rate as pack_rates
from psla.data.pack.remote import pack_remote, read_address
from psla.data.pack.write import pack
from psla.data.source import open_source
from psla.model.inference import predict
from psla.remote import RemoteError
from psla.weights.catalogue import load_any, resolve
from test_spread import MODEL, RATE, Broken, contents, sounds, table

fsspec = pytest.importorskip("fsspec", reason="needs the extra remote")
__all__ = ["sounds"]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a server of this machine; where it is and who asks stands in the environment, as for a user."""
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    import s3fs

    started = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        remote._system.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()
        # Its buckets are those of the process: another server of it may have made some.
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    remote._system.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    started.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address below which nothing is."""
    base = "memory://base" if request.param == "memory" else request.getfixturevalue("s3")
    address = f"{base}/{request.node.name.partition('[')[0]}"
    yield address
    remote.remove(address)


def there(address: str) -> dict[str, bytes]:
    """All objects below an address, by their names there."""
    system, path = fsspec.core.url_to_fs(address)
    system.invalidate_cache()
    return {name.partition(path)[2].strip("/"): system.cat_file(name) for name in sorted(system.find(path))}


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_pack_there_is_a_local_one(broken: int, place: str, sounds: Path, tmp_path: Path) -> None:
    """Killed between any two shards and begun again, the objects are the files of a local pack, and no more."""
    clips = table(sounds)
    pack(clips, tmp_path / "local", RATE, workers=1, shard_clips=2)
    with pytest.raises(KeyboardInterrupt):
        pack_remote(clips, place, RATE, workers=1, shard_clips=2, spread=Broken(broken))
    assert "pack.json" not in there(place)
    with pytest.raises(PackError, match=r"is a pack that is not finished: run the same `psla pack` again"):
        Clips.read(place)
    with pytest.raises(PackError, match="was begun at 16000 Hz, not 8000 Hz"):
        pack_remote(clips, place, 8000, workers=1, shard_clips=2)
    states: list[Any] = []
    info = pack_remote(clips, place, RATE, workers=1, shard_clips=2, progress=states.append)
    assert (states[0].resumed, states[-1].done) == (2 * broken, 6)
    assert there(place) == contents(tmp_path / "local")
    assert pack_remote(clips, place, RATE, workers=1, shard_clips=2) == info


def test_it_is_read_by_parts(place: str, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of a pack there, whole and in part, and what a model says of them, are those of a local one; of a shard
    only the bytes of the clip are read."""
    local = pack(table(sounds), tmp_path / "local", RATE, workers=1, shard_clips=4)
    assert local is not None
    pack_remote(table(sounds), place, RATE, workers=1, shard_clips=4)
    clips = Clips.read(Path(place))  # which has lost a slash
    assert clips.clip_ids == local.clips.clip_ids
    asked: list[int] = []
    original = remote.read

    def read(address: str, start: int | None = None, end: int | None = None) -> bytes:
        found = original(address, start, end)
        asked.append(len(found) if address.endswith(".npy") else 0)
        return found

    monkeypatch.setattr(remote, "read", read)
    source, expected = open_source(clips, RATE), open_source(local.clips, RATE)
    for number in range(len(clips)):
        assert np.array_equal(source.read(number), expected.read(number))
    assert max(asked) == 2 * len(expected.read(0))
    part, same = (read_address(each["path"][3], RATE, 0.1, 0.3) for each in (clips.frame, clips.frame))
    assert np.array_equal(part, expected.read(3)[1600:4800])
    assert np.array_equal(part, same)
    with pytest.raises(AudioError, match="the pack holds 16000 Hz, the front end hears 32000 Hz"):
        read_address(clips.frame["path"][0], 32000)
    model = load_any(MODEL)
    one, two = (predict(model.network, each, model.vocabulary).predictions for each in (source, expected))
    assert np.array_equal(one.probabilities, two.probabilities)


def test_models_and_tables_are_read_from_there(
    place: str, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model file and a table of clips at an address are what lies there now, not what lay there before."""
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    model = resolve(MODEL)
    remote.write(f"{place}/m.safetensors", model)
    assert resolve(f"{place}/m.safetensors").read_bytes() == model.read_bytes()
    assert resolve(Path(f"{place}/m.safetensors")) == resolve(f"{place}/m.safetensors")
    assert len(load_any(f"{place}/m.safetensors").vocabulary) == 10
    table(sounds).write(tmp_path / "c.parquet")
    remote.write(f"{place}/c.parquet", tmp_path / "c.parquet")
    assert Clips.read(f"{place}/c.parquet").frame.equals(table(sounds).frame)
    remote.write(f"{place}/a.wav", sounds / "a.wav")
    assert np.array_equal(read_address(f"{place}/a.wav", RATE), open_source(table(sounds), RATE).read(0))


def test_the_command_packs_to_an_address(s3: str, sounds: Path, tmp_path: Path) -> None:
    """`psla pack CLIPS s3://...`, and `psla predict` of the pack there, come to what a local pack comes to."""
    table(sounds).write(tmp_path / "c.parquet")
    for out in (f"{s3}/command", str(tmp_path / "local")):
        done = CliRunner().invoke(app, ["pack", str(tmp_path / "c.parquet"), out, "--workers", "1"])
        assert done.exit_code == 0, done.output
        assert f"{out}: 5 clips (evaluation 5)" in done.output
        name = tmp_path / f"{len(out)}.safetensors"
        done = CliRunner().invoke(app, ["predict", MODEL, out, "--out", str(name)])
        assert done.exit_code == 0, done.output
    one, two = sorted(tmp_path.glob("*.safetensors"))
    assert one.read_bytes() == two.read_bytes()
    refused = CliRunner().invoke(app, ["pack", str(tmp_path / "c.parquet"), f"{s3}/other", "--shard", "1/2"])
    assert "--shard needs a folder with locks" in refused.output


def test_storage_that_fails_is_one_sentence(place: str, sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that vanished, a reading cut short, refused access, a storm of 503s: one sentence; then it goes on."""
    clips = table(sounds)
    pack_remote(clips, place, RATE, workers=1, shard_clips=4)
    read = Clips.read(place)
    system, path = fsspec.core.url_to_fs(place)
    original = system.cat_file

    with monkeypatch.context() as patch:
        patch.setattr(system, "cat_file", lambda *a, **k: original(*a, **k)[:-9])
        with pytest.raises(PackError, match=r"pack\.json is damaged"):
            Clips.read(place)
        pack_rates.cache_clear()
        with pytest.raises(AudioError, match=r"pack\.json is damaged"):
            read_address(read.frame["path"][0], RATE)
    read_address(read.frame["path"][0], RATE)
    with monkeypatch.context() as patch:
        patch.setattr(system, "cat_file", lambda *a, **k: original(*a, **k)[:-2])
        with pytest.raises(AudioError, match=r"bytes came of .* it is cut short, or the reading was"):
            read_address(read.frame["path"][0], RATE)
    for error, sentence in (
        (PermissionError("Forbidden"), "access is refused .Forbidden.; check the credentials and the bucket"),
        (OSError(16, "Please reduce your request rate"), "the storage fails .* what is finished is kept, try again"),
        (TimeoutError(), "the storage fails .TimeoutError."),
    ):
        with monkeypatch.context() as patch:

            def fail(*arguments: Any, error: Exception = error, **more: Any) -> Any:
                raise error

            patch.setattr(system, "cat_file", fail)
            with pytest.raises(RemoteError, match=sentence):
                Clips.read(place)
    system.rm(f"{path}/waveforms/00000.npy")
    system.invalidate_cache()
    with pytest.raises(AudioError, match=r"00000\.npy: there is no such object; was it moved"):
        read_address(read.frame["path"][0], RATE)


def test_wrong_credentials(s3: str, sounds: Path) -> None:
    """A bucket that is not there, or not ours, is one sentence that names the address; nothing else is said."""
    with pytest.raises(
        RemoteError, match=r"s3://not-there/pack/.*: (there is no such object|access is refused|the stor)"
    ):
        pack_remote(table(sounds), "s3://not-there/pack", RATE, workers=1)


def test_a_scheme_without_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheme whose module is not installed names what to install."""
    remote._system.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(RemoteError, match=r"gs://bucket/pack/pack.json: .*gcsfs"):
        Clips.read("gs://bucket/pack")


def test_no_storage_is_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: with PSLA_OFFLINE no address is opened; memory is none."""
    monkeypatch.setenv("PSLA_OFFLINE", "1")
    for address in ("s3://bucket/a", "https://127.0.0.1/a"):
        with pytest.raises(remote.RemoteError, match="PSLA_OFFLINE"):
            remote.read(address)
    remote.write("memory://offline/a", b"a")
    assert remote.read("memory://offline/a") == b"a"
