"""CONTRIBUTING.md shows four new files; they are taken out of it and used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import soundfile

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
USE = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import plain_backbone, bands, birds, plain_reader
from psla.model.frontends.contract import front_end_config
from psla.model.network import NetworkConfig, TaggingNetwork
from psla.weights.readers.contract import read_weights

network = TaggingNetwork(NetworkConfig("plain", 3, 0, front_end=front_end_config({"kind": "bands", "frames": 64})))
torch.save({f"net.{name}": tensor for name, tensor in network.state_dict().items()}, Path(sys.argv[1]) / "own.pth")
again = read_weights(Path(sys.argv[1]) / "own.pth", given={"frames": 64}).network
wave = torch.randn(2, 24000) / 10
assert torch.equal(again(wave).clip_probabilities, network.eval()(wave).clip_probabilities)
assert again(wave).frame_probabilities.shape == (2, 4, 3)
print(birds.read(Path(sys.argv[1]) / "tree").counts())
"""


def test_the_files_that_it_shows_work(tmp_path: Path) -> None:
    """Law: a reader who adds these four files has a backbone, a front end, a corpus and a family of weights."""
    names = []
    for number, block in enumerate(re.findall(r"```diff\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        head, *lines = [line for line in block.splitlines() if line.startswith("+")]
        name = head.removeprefix("+++ b/src/psla/")
        names.append(name)
        target = ("plain_backbone", "bands", "birds", "plain_reader")[number]
        (tmp_path / f"{target}.py").write_text("\n".join(line[1:] for line in lines) + "\n")
    assert [name.rpartition("/")[0] for name in names] == [
        "model/backbones",
        "model/frontends",
        "corpora",
        "weights/readers",
    ]
    tree = tmp_path / "tree"
    lines = ["file,species,recordist,year", "a.flac,wren,Ann,2024", "b.flac,robin,Bob,2025"]
    for line in lines[1:]:
        file, species, *_ = line.split(",")
        (tree / "recordings" / species).mkdir(parents=True)
        soundfile.write(tree / "recordings" / species / file, [0.0] * 800, 16000)
    (tree / "recordings.csv").write_text("\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "-c", USE, str(tmp_path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'train': 1, 'evaluation': 1}\n"
