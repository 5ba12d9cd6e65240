"""Models that come with the package, by name: beside this file, ready without a network.

`audioset-small` knows AudioSet's classes and is what speaks where no model is named. It is made of a published model,
EfficientAT's mn04_as; its card says how, and whose the scores on it are: `psla info audioset-small`.

`esc10-lite0` is the example of a model of the package's own recipe, made by `scripts/make_esc10_model.py` of a run of
`psla train esc50`. Its card has the commands, the data, the licence and the scores: `psla info esc10-lite0`.

Not here: the models that the authors of the paper published (`psla.weights.catalogue`, which resolves both by name).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psla.model.file import ModelCard

MOST_BYTES = 8_000_000
"""What a packaged model may weigh: everyone who installs the package carries it."""


@dataclass(frozen=True)
class Packaged:
    """A model file in the package.

    Attributes:
        name: what `psla.load` takes.
        corpus: what it was trained on.
    """

    name: str
    corpus: str

    @property
    def path(self) -> Path:
        """The model file. As any other it is compared with its checksum when it is loaded."""
        return Path(str(files(__name__) / f"{self.name}.safetensors"))

    @property
    def card(self) -> ModelCard:
        """Data, licence, scores and commands, from the file's header.

        Raises:
            ModelFileError: the file is missing or damaged.
        """
        from psla.model.file import ModelCard, read_header  # torch, which a name does not need

        return ModelCard.from_dict(read_header(self.path)["card"])

    @property
    def scores(self) -> dict[str, float]:
        """The card's fractional numbers, each under all words that lead to it, such as "cross validation accuracy"."""
        return dict(_numbers(self.card.scores))


def _numbers(scores: Mapping[str, Any], lead: str = "") -> Iterator[tuple[str, float]]:
    for key, value in scores.items():
        words = f"{lead}{key.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{words} ")
        elif isinstance(value, float):
            yield words, value


PACKAGED: dict[str, Packaged] = {
    each.name: each for each in (Packaged("audioset-small", "audioset"), Packaged("esc10-lite0", "esc10"))
}
DEFAULT = "audioset-small"
"""What speaks where no model is named; see also `psla.weights.choice`."""
