"""Models that others have published, by name: facts only.

A family is one file beside this one, `FAMILY.yaml`: its page, paper, licence, training data, and a row for each model.

Not here: fetching them and making model files of them (`psla.weights.catalogue`), reading a family's tensors
(`psla.weights.readers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from psla.data.vocabulary import Vocabulary
from psla.download import cache_folder


@dataclass(frozen=True)
class Family:
    """What the published models of a family have in common.

    Attributes:
        name: as its reader is registered (`psla.weights.readers`).
        page, paper: where the models are published, and the work that they come from.
        licence: of the weights.
        scored: where the scores come from.
        sample_rate: of the sound that the models take, in Hz.
        training_data: what they were trained on, by corpus.
    """

    name: str
    page: str
    paper: str
    licence: str
    scored: str
    sample_rate: int
    training_data: Mapping[str, str]


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        name: what `psla.load` takes.
        family: where it belongs.
        what: a few words.
        url: where it comes from.
        mean_average_precision: as published, on the evaluation set of its corpus.
        given: what its tensors do not tell, as `psla.weights.readers.contract.import_weights` is told it.
        corpus: "audioset" (527 classes) or "fsd50k" (200).
        models: how many files; more than one is a folder.
        parameters, bytes, sha256: millions of trained numbers, size and checksum of the file, where published.
    """

    name: str
    family: Family
    what: str
    url: str
    mean_average_precision: float
    given: Mapping[str, Any]
    corpus: str = "audioset"
    models: int = 1
    parameters: float | None = None
    bytes: int | None = None
    sha256: str | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """Its classes."""
        return Vocabulary.audioset() if self.corpus == "audioset" else Vocabulary.fsd50k()

    @property
    def checkpoint(self) -> Path:
        """Where the published file is kept."""
        return cache_folder() / "published" / f"{self.name}.pth"

    @property
    def model_file(self) -> Path:
        """Where the model file made of it is kept."""
        return self.checkpoint.with_suffix(".safetensors")

    @property
    def record(self) -> Path:
        """Where the checksums of both are kept."""
        return self.checkpoint.with_suffix(".json")

    @property
    def cached(self) -> bool:
        """Whether it can be loaded without a network."""
        return self.model_file.is_file() or self.checkpoint.is_file()


def _read_rows() -> dict[str, Published]:
    """The rows of all families, by name; the paper's come first."""
    listed: dict[str, Published] = {}
    paths = [path for path in files(__name__).iterdir() if path.name.endswith(".yaml")]
    for path in sorted(paths, key=lambda path: (path.name != "psla.yaml", path.name)):
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
        rows, address, common = facts.pop("models"), facts.pop("address"), facts.pop("given")
        family = Family(path.name.removesuffix(".yaml"), **facts)
        for row in rows:
            if row["name"] in listed:
                raise ValueError(f"{path}: there are two models called {row['name']}")
            url = address.format(file=row.pop("file"))
            given = common | row.pop("given", {})
            listed[row["name"]] = Published(family=family, url=url, given=given, **row)
    return listed


CATALOGUE: dict[str, Published] = _read_rows()


def by_file(name: str) -> Published | None:
    """The model that is published under this name of a file, as the server has it.

    Example:
        >>> found = by_file("mn10_as_hop_5_mAP_475.pt")
        >>> found.name, found.given["hop_samples"]
        ('mn10_as_hop_5', 160)
    """
    return next((each for each in CATALOGUE.values() if each.url.partition("?")[0].rpartition("/")[2] == name), None)
