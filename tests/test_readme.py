"""README and the pages keep their word: the README is a first page, links lead somewhere, and every Python block runs
as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.main import get_command

import psla
from psla.cli import app
from psla.data.vocabulary import Vocabulary
from psla.model.frontends.stft import StftConfig
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.weights.packaged import PACKAGED
from psla.weights.readers.efficientat import _foreign_name
from tagging_models import tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
DOCS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "LOG.md"]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS, ROOT / "docs/LOG.md"]
SMALL = {
    "optimizer.epochs": 1,
    "optimizer.warmup_steps": 0,
    "optimizer.precision": "float32",
    "averaging.first_epoch": 1,
    "front_end.frames": 64,
    "masking.time": 8,
    "backbone.pretraining": "none",
}


# Options that the pages name ahead of their code; none should stay here for long.
COMING = {"--model"}


def sound_file() -> None:
    soundfile.write("street.flac", np.random.default_rng(0).uniform(-0.3, 0.3, (100000, 2)), 44100)


def tag_by_name() -> None:
    """A file of that name goes before the model of that name."""
    sound_file()
    shutil.copy(tiny_model_file(Path(), mel_bins=32), "audioset-small")


def tag_by_file() -> None:
    sound_file()
    tiny_model_file(Path(), mel_bins=32)


def checkpoint() -> None:
    torch.manual_seed(0)
    config = NetworkConfig("mobilenet", 4, 0, head="mlp", options={"width": 0.1}, front_end=StftConfig())
    network = TaggingNetwork(config)
    tensors = {_foreign_name(name, network): tensor for name, tensor in network.state_dict().items()}
    torch.save(tensors, "checkpoint.pt")


def clips() -> None:
    sound_file()
    rows = []
    for number in range(4):
        soundfile.write(f"{number}.wav", np.random.default_rng(number).uniform(-0.3, 0.3, 8000), 16000)
        row = {"clip_id": str(number), "source": str(number), "path": f"{number}.wav", "split": "train"}
        rows.append({**row, "labels": [("dog", "rain")[number % 2]]})
    psla.Clips.from_rows(rows, Vocabulary(["dog", "rain"]), "own").write("clips.parquet")


def teacher() -> None:
    vocabulary = Vocabulary.audioset()
    ids = ["/m/0bt9lr", "/m/06mb1"]
    rows = [
        {
            "clip_id": str(number),
            "source": str(number),
            "path": f"{number}.wav",
            "split": "train",
            "labels": [ids[number % 2]],
        }
        for number in range(4)
    ]
    psla.Clips.from_rows(rows, vocabulary, "own").write("clips.parquet")
    said = np.random.default_rng(0).uniform(0, 1, (4, len(vocabulary))).astype(np.float32)
    psla.Predictions(said, [str(number) for number in range(4)], vocabulary).save("teacher.safetensors")


def no_files() -> None:
    pass


# What stands in the folder that a block runs in, by the block's first line; and a word that it prints.
BLOCKS: Mapping[str, tuple[Callable[[], None], str]] = {
    "# tag a file": (tag_by_name, "Rain"),
    "# the same with a step of half a second from window to window": (tag_by_file, "Rain"),
    "# sound as it comes": (lambda: None, "30 s heard"),
    "# a picture and a page": (tag_by_name, "Rain"),
    "# leave speech and music out": (sound_file, ""),
    "# read a checkpoint": (checkpoint, "32000 4 not stated"),
    "# train": (clips, "'rain'"),
    "# enhance labels": (teacher, "labels added"),
    "# a first sound": (no_files, ""),
}


def blocks() -> list[tuple[Path, str]]:
    found = [(path, re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)) for path in PAGES]
    return [(path, code) for path, codes in found for code in codes]


def test_every_block_has_its_files() -> None:
    """Law: no Python block of README or a page is left out below, and each begins with a line of its own."""
    assert sorted(code.splitlines()[0] for _, code in blocks()) == sorted(BLOCKS)


@pytest.mark.parametrize(("path", "code"), [pytest.param(*each, id=each[1].splitlines()[0][2:]) for each in blocks()])
def test_a_block_runs(
    path: Path, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Law: as it stands, in a folder with files of the names used there; a training is made small, its recipe as
    written being loaded first."""
    load = psla.Recipe.load

    def small(name: str, overrides: Mapping[str, Any] | None = None) -> psla.Recipe:
        load(name, overrides)
        return load(name, {**(overrides or {}), **SMALL})

    monkeypatch.setattr(psla.Recipe, "load", staticmethod(small))
    monkeypatch.chdir(tmp_path)
    prepare, word = BLOCKS[code.splitlines()[0]]
    prepare()
    names: dict[str, Any] = {}
    exec(compile(code, str(path), "exec"), names)
    assert word in capsys.readouterr().out
    if "result" in names:
        assert names["result"].frames.shape[1] == len(names["result"].vocabulary)


def test_the_readme_is_a_first_page() -> None:
    """Law: README has at most 90 lines, and its example ten."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90
    (example,) = [code for path, code in blocks() if path.name == "README.md"]
    assert len(example.splitlines()) <= 10


def misused(line: str) -> list[str]:
    """What a line `psla …` names that is not there, and what it lacks: commands and options."""
    command, words = get_command(app), shlex.split(re.split(r"\s# |; ", line)[0])[1:]
    while commands := getattr(command, "commands", None):
        if not words or words[0] not in commands:
            return words[:1] if words[:1] != ["--help"] else []
        command = commands[words.pop(0)]
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | COMING | {"--help"}
    needed = {each.opts[0] for each in command.params if each.required and each.opts[0].startswith("--")}
    return sorted((given - known) | (needed - given))


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "LOG.md"], ids=lambda path: path.name)
def test_commands_are_there(path: Path) -> None:
    """Law: commands in the blocks of a page exist, have the options that are named, and lack none that they need."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = "\n".join(
        re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE) + re.findall(r"^ {4}(.*)$", text, re.M)
    )
    wrong = {line: bad for line in re.findall(r"^ *(psla .+)$", shown, re.MULTILINE) if (bad := misused(line))}
    assert wrong == {}


def test_a_wrong_command_is_found() -> None:
    """Law: a command that is not there, an option that is not, one that is needed and not given."""
    assert misused("psla models --fetch mn10_as  # once") == []
    assert misused("psla fetch mn10_as") == ["fetch"]
    assert misused("psla models --take mn10_as") == ["--take"]
    assert misused("psla ensemble a.safetensors") == ["--out"]


def prose(path: Path) -> str:
    """A page without its blocks and lines of code, in which brackets mean other things."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them: small letters, hyphens for spaces, no punctuation."""
    heads = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def broken(path: Path) -> list[str]:
    """Links of a page to files that are not there, or to headings that they do not have."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Law: every relative link of a page leads to a file that is there, and to a heading of it if it says one."""
    assert broken(path) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    """Law: a file that is not there and a heading that is not there are broken links; code and addresses are none."""
    page = tmp_path / "page.md"
    page.write_text(
        "# One head, `of two`\n[a](page.md#one-head-of-two) [b](gone.md) [c](#two) [d](https://example.org/x)\n"
        "```\n[e](gone.md)\n```\n",
        encoding="utf-8",
    )
    assert broken(page) == ["gone.md", "#two"]


def test_every_page_is_in_the_index() -> None:
    """Law: docs/README.md names every page of docs."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name})" not in index} == set()


def test_notices_go_with_the_package() -> None:
    """Law: NOTICE names every packaged model and goes into the wheel with the licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert [name for name in PACKAGED if name not in notice] == []
    assert "Copyright (c) 2022 Florian Schmid" in notice
