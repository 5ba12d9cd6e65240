"""Laws of published models by name: fetched once, whole, and the same ever after."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from psla.cli import app
from psla.data.vocabulary import Vocabulary
from psla.download import DownloadError, download
from psla.model.backbones.efficientnet import foreign_name
from psla.model.file import load_model
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.weights import catalogue as published
from psla.weights.catalogue import CATALOGUE, PublishedError, load_any, resolve

NAME = "fsd50k-b2"


def checkpoint_bytes(path: Path, seed: int = 0) -> bytes:
    """A checkpoint in the published format, of a small variant: 200 classes, mean pooling."""
    torch.manual_seed(seed)
    network = TaggingNetwork(NetworkConfig("efficientnet_b0", 200, heads=0))
    tensors = {f"module.effnet.{foreign_name(n)}": t for n, t in network.backbone.state_dict().items()}
    layer = network.pooling.classification
    tensors["module.attention.cla.weight"] = layer.weight[:, :, None, None].detach().clone()
    tensors["module.attention.cla.bias"] = layer.bias.detach().clone()
    torch.save(tensors, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return checkpoint_bytes(tmp_path_factory.mktemp("published") / "a.pth")


class Server(ThreadingHTTPServer):
    """Serves `content` with ranges, an entity tag and If-Range; can stop early."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = content, '"one"'
        self.honours_if_range = True
        self.stops_after: int | None = None
        self.asked: list[tuple[str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/mdl.pth?dl=1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.asked.append((asked, condition))
        content = self.server.content
        same = condition in (None, self.server.tag) or not self.server.honours_if_range
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same else 0
        self.send_response(206 if begin else 200)
        self.send_header("ETag", self.server.tag)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(content[begin:][: self.server.stops_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """The server, with a catalogue that points to it and an empty cache."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("PSLA_CACHE", str(tmp_path / "cache"))
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setitem(CATALOGUE, NAME, replace(CATALOGUE[NAME], url=server.url))
        yield server
        server.shutdown()
        thread.join()


def test_the_catalogue_states_the_published_facts() -> None:
    """The paper's eight: AudioSet has 527 classes and 1056 frames, FSD50K 200 and 3000; four are single files."""
    paper = {name: entry for name, entry in CATALOGUE.items() if entry.family.name == "psla"}
    assert list(paper) == list(CATALOGUE)[:8]
    for name, entry in paper.items():
        audioset = name.startswith("audioset")
        assert (len(entry.vocabulary), entry.given["frames"]) == ((527, 1056) if audioset else (200, 3000))
        assert entry.url.startswith("https://www.dropbox.com/s")
        assert (entry.models == 1) == ("/s/" in entry.url)
    assert CATALOGUE["audioset-b2-averaged"].mean_average_precision == 0.444
    assert CATALOGUE["fsd50k-b2-averaged"].mean_average_precision == 0.562


def test_a_name_is_fetched_once(server: Server, tmp_path: Path) -> None:
    """The first use fetches, imports and remembers; the next one asks nobody."""
    seen: list[tuple[int, int | None]] = []
    model = load_any(NAME, lambda received, total: seen.append((received, total)))
    assert seen[-1] == (len(server.content), len(server.content))
    assert model.vocabulary == Vocabulary.fsd50k()
    assert model.network.config.front_end.frames == 3000
    assert model.card.provenance["published"] == NAME
    assert model.card.scores == {"published": {"mean_average_precision": 0.559}}
    assert "FSD50K" in model.card.training_data
    load_any(NAME)
    assert len(server.asked) == 1
    names = sorted(path.name for path in (tmp_path / "cache/published").iterdir())
    assert names == [f"{NAME}.json", f"{NAME}.pth", f"{NAME}.safetensors"]


def test_a_broken_fetch_resumes(server: Server, tmp_path: Path) -> None:
    """After a broken connection only the rest is asked for, on the condition that the file is still the same."""
    server.stops_after = 200_000
    with pytest.raises(DownloadError, match="200000 of"):
        resolve(NAME)
    server.stops_after = None
    load_model(resolve(NAME))
    assert server.asked == [(None, None), ("bytes=200000-", '"one"')]


@pytest.mark.parametrize("honours", [True, False])
def test_parts_of_two_files_are_not_joined(server: Server, tmp_path: Path, honours: bool) -> None:
    """If the file has changed in between, all of it is fetched anew, whether the server knows If-Range or not."""
    server.honours_if_range = honours
    server.content, server.stops_after = b"first" * 1000, 2000
    with pytest.raises(DownloadError):
        download(server.url, tmp_path / "a.bin")
    server.content, server.tag, server.stops_after = b"other" * 1000, '"two"', None
    assert download(server.url, tmp_path / "a.bin").read_bytes() == server.content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin"]


def test_a_file_that_changes_is_refused(server: Server, tmp_path: Path) -> None:
    """A model file changed in the cache, or another file at the same address, is refused with the mend."""
    made = resolve(NAME)
    with open(made, "r+b") as file:
        file.seek(-10, 2)
        file.write(b"x")
    with pytest.raises(PublishedError, match=r"not what was fetched first .*delete"):
        resolve(NAME)
    made.unlink()
    resolve(NAME)  # made again of the checkpoint that is still there
    assert len(server.asked) == 1
    made.unlink()
    made.with_suffix(".pth").unlink()
    server.content = checkpoint_bytes(tmp_path / "b.pth", seed=1)
    with pytest.raises(PublishedError, match="has a new file"):
        resolve(NAME)


def test_an_error_page_is_not_kept(server: Server) -> None:
    """What is no checkpoint is refused, and the next call fetches again."""
    right, server.content = server.content, b"<html>This link is temporarily disabled</html>"
    with pytest.raises(PublishedError, match="not the published model") as refusal:
        resolve(NAME)
    assert server.url in str(refusal.value)
    server.content = right
    load_model(resolve(NAME))


def test_offline_says_what_to_put_where(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the sentence names URL and place, and a file put there by hand is taken."""
    dead = "http://127.0.0.1:9/mdl.pth"
    monkeypatch.setitem(CATALOGUE, NAME, replace(CATALOGUE[NAME], url=dead))
    place = CATALOGUE[NAME].checkpoint
    with pytest.raises(DownloadError, match="by hand") as refusal:
        resolve(NAME)
    assert dead in str(refusal.value)
    assert str(refusal.value).endswith(f"put the file at {place}")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    assert load_any(NAME).network.config.classes == 200


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("audioset-b3", "near it are audioset-b2"),
        ("fsd50k", "near it are fsd50k-b2"),
        ("qqq", "there are audioset-b2, audioset-b2-averaged"),
        ("absent.safetensors", r"absent\.safetensors: there is no such model file"),
        ("some/where", "some/where: there is no such model file"),
        ("audioset-b2-seeds", r"folder of 3 models, which is fetched by hand: get https://www.dropbox.com/sh/"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    """What is neither a file nor a name is refused with the names that come near; folders are not fetched."""
    with pytest.raises(PublishedError, match=message) as refusal:
        resolve(name)
    assert "\n" not in str(refusal.value)


def test_paths_go_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is called like a published model is the file; folders and checkpoints are told what to do."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_text("")
    assert resolve(NAME) == Path(NAME)
    (tmp_path / "a.pth").write_text("")
    with pytest.raises(PublishedError, match=r"psla import a\.pth"):
        resolve("a.pth")
    with pytest.raises(PublishedError, match="is a folder"):
        resolve(tmp_path)


def test_models_command(server: Server) -> None:
    """`psla models` lists every entry with family, score, licence and whether it is here, in 100 columns; --json has
    the address and all else."""
    resolve(NAME)
    said = CliRunner().invoke(app, ["models"]).stdout.splitlines()
    assert max(map(len, said)) <= 100
    for name, entry in published.CATALOGUE.items():
        line = next(line for line in said if line.startswith(f"{name} "))
        assert f"{entry.mean_average_precision:.3f}" in line
        assert f" {entry.family.name} " in line
        assert entry.family.licence.split()[0] in line
        assert (" cached " in line) == (name == NAME)
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    listed = [entry for entry in listed if not entry["packaged"]]
    assert [entry["url"] for entry in listed] == [entry.url for entry in published.CATALOGUE.values()]
    assert all(entry[key] for entry in listed for key in ("licence", "page", "paper", "sample_rate", "given"))
    assert [entry["name"] for entry in listed if entry["cached"]] == [NAME]
    assert next(entry for entry in listed if entry["cached"])["bytes"] == len(server.content)
