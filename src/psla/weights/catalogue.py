"""Models by name. Those that the authors of the paper published are fetched once and kept as model files in the cache.

Source: https://github.com/YuanGongND/psla, pretrained_models/README.md; all are EfficientNet-B2 with four heads and
16 kHz input. No checksum is published: that of the first fetch is kept beside the file and compared ever after.

Those that come with the package (`psla.weights.packaged`) are found by name here, too: `resolve`.

Not here: what several models make together (`psla.model.ensemble`). The ensembles are folders of dozens of files that
their server hands out by hand only; they are listed, not fetched.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psla.data.vocabulary import Vocabulary
from psla.download import Progress, cache_folder, download
from psla.files import sha256_of, write_json_atomic
from psla.weights.packaged import PACKAGED

if TYPE_CHECKING:
    from psla.model.file import Model

_PAGE = "https://github.com/YuanGongND/psla"
_TRAINING_DATA = {
    "audioset": "AudioSet, full training set (labels CC BY 4.0; the audio is YouTube's and its uploaders')",
    "fsd50k": "FSD50K, development set (Creative Commons licences, a clip at a time)",
}
SUFFIXES = (".safetensors", ".json", ".pth", ".pt", ".ckpt")
"""What the name of a file ends in that is meant as a model, or could be made one."""


class PublishedError(ValueError):
    """A name that is not known, a folder that must be fetched by hand, or a fetched file that has changed."""


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        name: what `psla.load` takes.
        what: a few words.
        corpus: "audioset" (527 classes) or "fsd50k" (200).
        frames: length of a log-mel in training, 10 ms each.
        mean_average_precision: as published, on the evaluation set of its corpus.
        models: how many files; more than one is a folder.
        url: where it comes from.
    """

    name: str
    what: str
    corpus: str
    frames: int
    mean_average_precision: float
    models: int
    url: str

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
    def cached(self) -> bool:
        """Whether it can be loaded without a network."""
        return self.model_file.is_file() or self.checkpoint.is_file()


def _listed(*rows: tuple[str, str, float, int, str]) -> dict[str, Published]:
    """By name: name, what it is, score, number of models, path on the server."""
    listed = {}
    for name, what, score, models, path in rows:
        corpus = name.partition("-")[0]
        frames = 1056 if corpus == "audioset" else 3000
        url = f"https://www.dropbox.com/{path}?dl=1"
        listed[name] = Published(name, what, corpus, frames, score, models, url)
    return listed


_RUN, _AVERAGE, _ALL = "one model", "average of one run's weights", "all checkpoints of one run"
CATALOGUE: dict[str, Published] = _listed(
    ("audioset-b2", _RUN, 0.440, 1, "s/d1z27wj30ew5qrs/as_mdl_0.pth"),
    ("audioset-b2-averaged", _AVERAGE, 0.444, 1, "s/ieggie0ara4x26d/as_mdl_0_wa.pth"),
    ("audioset-b2-checkpoints", _ALL, 0.453, 30, "sh/jo6te8fcy1ptabw/AAAtJ9sMn93-3L0XkebzQQxIa"),
    ("audioset-b2-seeds", "three runs", 0.464, 3, "sh/c83w8816vl6yhty/AADjoO9irfP1RCr-qyZMJg_-a"),
    ("audioset-b2-all", "ten different settings", 0.474, 10, "sh/ihfbxcemxamihz9/AAD9zqnUptZzyZlquqpWllDya"),
    ("fsd50k-b2", _RUN, 0.559, 1, "s/stzrmfty2oyqnnj/fsd_mdl_best_single.pth"),
    ("fsd50k-b2-averaged", _AVERAGE, 0.562, 1, "s/5fvybrbulvhsish/fsd_mdl_wa.pth"),
    ("fsd50k-b2-checkpoints", _ALL, 0.573, 40, "sh/gyv95m53sib36vk/AADWCgApSxtAEVU1KrnQApi3a"),
)


def resolve(path_or_name: str | os.PathLike[str], progress: Progress = lambda received, total: None) -> Path:
    """The file that stands for a path or a name; a published model is fetched and imported if need be.

    A file of that name goes before the model of that name.

    Raises:
        PublishedError: neither a file nor a known name, and which names come near; see also `fetch`.
        DownloadError: as `fetch`.

    Example:
        >>> resolve("audioset-b3")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        psla.weights.catalogue.PublishedError: 'audioset-b3' is neither a file nor a model by name; near it are ...
    """
    path = Path(path_or_name)
    name = os.fspath(path_or_name)
    if path.is_dir():
        raise PublishedError(f"{path} is a folder; give one model file, or make an ensemble of its files")
    if path.suffix in (".pth", ".pt", ".ckpt") and path.is_file():
        raise PublishedError(f"{path} is a checkpoint; make a model file of it with `psla import {path} --out …`")
    if path.is_file():
        return path
    if name in PACKAGED:
        return PACKAGED[name].path
    if name in CATALOGUE:
        return fetch(CATALOGUE[name], progress)
    if path.suffix in SUFFIXES or path.name != name:
        raise PublishedError(f"{path}: there is no such model file")
    raise PublishedError(f"{name!r} is neither a file nor a model by name; {names_near(name)}")


def load_any(path_or_name: str | os.PathLike[str], progress: Progress = lambda received, total: None) -> Model:
    """Load whatever stands for a model: a model file, an ensemble's JSON file, or a model by name.

    Args:
        path_or_name: a path, or a name that `psla models` lists; a published model is fetched once into the cache.
        progress: told of the bytes received and their total (None: not known) while a file is fetched.

    Raises:
        ModelFileError, EnsembleError: a file that is not what it says; the message names it.
        PublishedError: neither a path nor a name, a published folder, or a fetched file that has changed.
        DownloadError: the file cannot be fetched; the message says what to put where.
    """
    from psla.model.ensemble import load_ensemble  # torch, which a list of names does not need
    from psla.model.file import load_model

    path = resolve(path_or_name, progress)
    return load_ensemble(path) if path.suffix == ".json" else load_model(path)


def known_names() -> list[str]:
    """What `resolve` takes for a name: the published models, then those of the package."""
    return [*CATALOGUE, *PACKAGED]


def names_near(name: str) -> str:
    """Which names come near to one that is not known; all of them if none does.

    Example:
        >>> names_near("esc10-lite")
        'near it are esc10-lite0'
    """
    near = difflib.get_close_matches(name, known_names(), n=3, cutoff=0.4)
    return f"near it are {', '.join(near)}" if near else f"there are {', '.join(known_names())}"


def fetch(entry: Published, progress: Progress = lambda received, total: None) -> Path:
    """The model file of a published model, made in the cache when it is first asked for.

    A checkpoint that was put into the cache by hand is taken as if it had been fetched.

    Raises:
        PublishedError: a folder of models; a file that is not what was fetched first; a fetched file that is not a
            checkpoint in the published format.
        DownloadError: it cannot be fetched; the message says which URL to put where.
    """
    # Here, not at the head: they bring torch, which a list of names does not need.
    from psla.model.file import ModelCard
    from psla.model.tensor_file import TensorFileError
    from psla.weights.readers.contract import WeightsError, import_weights
    from psla.weights.readers.psla import LICENCE

    if entry.models > 1:
        raise PublishedError(
            f"{entry.name} is a folder of {entry.models} models, which is fetched by hand: get {entry.url}, unpack it, "
            "and make an ensemble of it with `psla import FOLDER --out FOLDER/ensemble.json "
            f"--vocabulary {entry.corpus}`"
        )
    record_path = entry.checkpoint.with_suffix(".json")
    record = _read_record(record_path)
    if entry.model_file.is_file() and "model_sha256" in record:
        _compare(entry.model_file, record["model_sha256"], entry)
        return entry.model_file
    fetched = not entry.checkpoint.is_file()
    if fetched:
        download(entry.url, entry.checkpoint, progress=progress)
    sha256 = _compare(entry.checkpoint, record.get("sha256"), entry)
    card = ModelCard(
        scores={"published": {"mean_average_precision": entry.mean_average_precision}},
        licence=LICENCE,
        training_data=_TRAINING_DATA[entry.corpus],
        provenance={"published": entry.name, "url": entry.url, "page": _PAGE},
    )
    try:
        import_weights(entry.checkpoint, entry.model_file, entry.vocabulary, {"frames": entry.frames}, card)
    except (WeightsError, TensorFileError) as error:
        if fetched:  # an error page, say; kept, it would be taken for the model
            entry.checkpoint.unlink()
        raise PublishedError(f"what {entry.url} gave is not the published model ({error})") from error
    record = {"url": entry.url, "sha256": sha256, "bytes": entry.checkpoint.stat().st_size}
    write_json_atomic(record_path, record | {"model_sha256": sha256_of(entry.model_file)})
    return entry.model_file


def _compare(path: Path, known: str | None, entry: Published) -> str:
    """The file's SHA-256, which must be the one of the first fetch."""
    found = sha256_of(path)
    if known not in (None, found):
        raise PublishedError(
            f"{path} is not what was fetched first (SHA-256 {found[:12]}…, not {known:.12}…): delete {path} to have it "
            f"made again, and {entry.checkpoint.with_suffix('.json')} too if {entry.url} has a new file"
        )
    return found


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishedError(f"{path} is damaged ({error}): delete it") from error
    if not isinstance(record, dict):
        raise PublishedError(f"{path} is damaged (no JSON object): delete it")
    return record


def listing() -> list[dict[str, Any]]:
    """What there is to say of every model by name, those of the package first, as plain data."""
    from psla.model.file import read_header

    entries: list[dict[str, Any]] = []
    for packaged in PACKAGED.values():
        classes, accuracy = len(read_header(packaged.path)["vocabulary"]["ids"]), packaged.accuracy
        scored = "" if accuracy is None else f", cross-validated accuracy {accuracy:.3f}"
        entries.append(
            {
                "name": packaged.name,
                "what": f"{classes} classes{scored}",
                "corpus": packaged.corpus,
                "classes": classes,
                "published_mean_average_precision": None,
                "cross_validated_accuracy": accuracy,
                "models": 1,
                "bytes": packaged.path.stat().st_size,
                "url": None,
                "cached": True,
                "packaged": True,
                "shipped": True,  # its name in the first release, for programs that read it
            }
        )
    for entry in CATALOGUE.values():
        entries.append(
            {
                "name": entry.name,
                "what": entry.what,
                "corpus": entry.corpus,
                "classes": len(entry.vocabulary),
                "published_mean_average_precision": entry.mean_average_precision,
                "cross_validated_accuracy": None,
                "models": entry.models,
                "bytes": entry.checkpoint.stat().st_size if entry.checkpoint.is_file() else None,
                "url": entry.url,
                "cached": entry.cached,
                "packaged": False,
                "shipped": False,
            }
        )
    return entries
