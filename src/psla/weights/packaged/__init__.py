"""Models that come with the package, by name: beside this file, ready without a network.

`esc10-lite0` is made by `scripts/make_esc10_model.py` of a run of `psla train esc50`. Its card has the commands, the
data, the licence and the scores: `psla info esc10-lite0`.

Not here: the models that the authors of the paper published (`psla.weights.catalogue`, which resolves both by name).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

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
    def accuracy(self) -> float | None:
        """Of its recipe in cross-validation, 0 .. 1; its own is not known, as it has heard every clip of the corpus."""
        return self.card.scores.get("cross_validation", {}).get("accuracy")


PACKAGED: dict[str, Packaged] = {each.name: each for each in (Packaged("esc10-lite0", "esc10"),)}
DEFAULT = "esc10-lite0"
"""What `psla tag` takes where no model is named."""
