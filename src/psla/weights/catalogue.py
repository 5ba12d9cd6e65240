"""Models by name. Those that others have published are fetched once and kept as model files in the cache.

Which there are: `psla.weights.published`. Where no checksum is published, that of the first fetch is kept beside the
file and compared ever after. Those that come with the package (`psla.weights.packaged`) are found by name here, too.

Not here: what several models make together (`psla.model.ensemble`). The ensembles of the paper's authors are folders of
dozens of files that their server hands out by hand only; they are listed, not fetched.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psla.download import DownloadError, Progress, cannot_write, download
from psla.files import alone, remove_leftovers, sha256_of
from psla.remote import SCHEMES, address_of
from psla.sealed import read_json, write_json
from psla.weights.packaged import DEFAULT, PACKAGED, Packaged
from psla.weights.published import CATALOGUE, Published

if TYPE_CHECKING:
    from torch import Tensor

    from psla.model.file import Model

OPENERS = {
    ".json": "psla.model.ensemble:load_ensemble",
    ".onnx": "psla.export.session:load_exported",
}
"""Which function, `module:function`, opens the files whose names end so; all others are model files."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", *OPENERS)
"""What the name of a file ends in that is meant as a model, or could be made one."""
ALIASES: dict[str, Callable[[], str]] = {}
"""Names that stand for another, asked whenever they are used, so that it may depend on what is in the cache."""
FETCHERS = {"hf://": "psla.weights.hub:fetched"}
FETCHERS |= {f"{scheme}://": "psla.remote:fetched" for scheme in SCHEMES}
"""Which function fetches the model at an address that begins so."""
_ROUNDED = 0.02  # by how much of itself a published number of parameters may be off


class PublishedError(ValueError):
    """A name that is not known, a folder that must be fetched by hand, or a fetched file that has changed."""


def resolve(path_or_name: str | os.PathLike[str], progress: Progress = lambda received, total: None) -> Path:
    """The file that stands for a path or a name; a published model is fetched and imported if need be.

    A file of that name goes before the model of that name, a folder does not.

    Raises:
        PublishedError: neither a file nor a known name, and which names come near; see also `fetch`.
        DownloadError: as `fetch`.
        ValueError: an address at which there is no model.

    Example:
        >>> resolve("audioset-b3")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        psla.weights.catalogue.PublishedError: 'audioset-b3' is neither a file nor a model by name; near it are ...
    """
    path = Path(path_or_name)
    name = address_of(path_or_name) or os.fspath(path_or_name)  # a Path of an address has lost a slash
    if scheme := scheme_of(name):
        module, _, function = FETCHERS[scheme].partition(":")
        return getattr(import_module(module), function)(name, progress)
    if path.is_dir() and name not in known_names():
        raise PublishedError(f"{path} is a folder; give one model file, or make an ensemble of its files")
    if path.suffix in (".pth", ".pt", ".ckpt") and path.is_file():
        raise PublishedError(f"{path} is a checkpoint; make a model file of it with `psla import {path} --out …`")
    if path.is_file():
        return path
    if name not in known_names() and (path.suffix in SUFFIXES or path.name != name):
        raise PublishedError(f"{path}: there is no such model file")
    entry = named(name)
    return entry.path if isinstance(entry, Packaged) else fetch(entry, progress)


def scheme_of(text: str) -> str:
    """What an address of a model begins with; empty: it is none.

    Example:
        >>> scheme_of("hf://me/birds"), scheme_of("birds.safetensors")
        ('hf://', '')
    """
    return next((scheme for scheme in FETCHERS if text.startswith(scheme)), "")


def named(name: str) -> Packaged | Published:
    """The model that a name stands for, which need not be in the cache.

    Raises:
        PublishedError: not a known name, and which names come near.

    Example:
        >>> named("mn10_as").family.sample_rate
        32000
    """
    meant = ALIASES[name]() if name in ALIASES else name
    found = PACKAGED.get(meant) or CATALOGUE.get(meant)
    if found is None:
        raise PublishedError(f"{name!r} is neither a file nor a model by name; {names_near(name)}")
    return found


def load_any(path_or_name: str | os.PathLike[str], progress: Progress = lambda received, total: None) -> Model:
    """Load whatever stands for a model: a model file, an ensemble's JSON file, an exported model, or a model by name.

    Args:
        path_or_name: a path, or a name that `psla models` lists; a published model is fetched once into the cache.
        progress: told of the bytes received and their total (None: not known) while a file is fetched.

    Raises:
        ModelFileError, EnsembleError: a file that is not what it says; the message names it.
        PublishedError: neither a path nor a name, a published folder, or a fetched file that has changed.
        DownloadError: the file cannot be fetched; the message says what to put where.
    """
    path = resolve(path_or_name, progress)
    module, _, function = OPENERS.get(path.suffix, "psla.model.file:load_model").partition(":")
    return getattr(import_module(module), function)(path)  # brings torch, which a list of names does not need


def known_names() -> list[str]:
    """What `resolve` takes for a name: the published models, those of the package, then names for others of them."""
    return [*CATALOGUE, *PACKAGED, *ALIASES]


def best_audioset() -> str:
    """The AudioSet model with the highest published mAP of those in the cache; without any, the packaged one."""
    here = [each for each in CATALOGUE.values() if each.corpus == "audioset" and each.models == 1 and each.cached]
    best = max(here, key=lambda each: each.mean_average_precision, default=None)
    return DEFAULT if best is None else best.name


ALIASES["audioset"] = best_audioset


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
    if entry.models > 1:
        raise PublishedError(
            f"{entry.name} is a folder of {entry.models} models, which is fetched by hand: get {entry.url}, unpack it, "
            "and make an ensemble of it with `psla import FOLDER --out FOLDER/ensemble.json "
            f"--vocabulary {entry.corpus}`"
        )
    if (made := _made(entry)) is not None:
        if entry.model_file.with_name(entry.model_file.name + ".lock").exists():  # of a process that was killed
            with suppress(OSError), alone(entry.model_file):
                remove_leftovers(entry.model_file.parent)
        return made  # of a cache that may be another's, to read only
    try:
        with alone(entry.model_file):
            return _made(entry) or _make(entry, progress)  # another process may have made it meanwhile
    except OSError as error:
        if isinstance(error, DownloadError):
            raise
        raise cannot_write(entry.model_file, error) from error


def _made(entry: Published) -> Path | None:
    """The model file, if it has been made and is still what it was."""
    known = _read_record(entry.record).get("model_sha256")
    if known is None or not entry.model_file.is_file():
        return None
    _compare(entry.model_file, known, entry)
    return entry.model_file


def _make(entry: Published, progress: Progress) -> Path:
    # Here, not at the head: they bring torch, which a list of names does not need.
    from psla.model.file import ModelCard
    from psla.model.tensor_file import TensorFileError, read_torch_tensors
    from psla.weights.readers.contract import WeightsError, import_weights

    fetched = not entry.checkpoint.is_file()
    if fetched:
        download(entry.url, entry.checkpoint, entry.sha256, progress)
    sha256 = _compare(entry.checkpoint, entry.sha256 or _read_record(entry.record).get("sha256"), entry)
    family = entry.family
    card = ModelCard(
        scores={"published": {"mean_average_precision": entry.mean_average_precision}},
        licence=family.licence,
        training_data=family.training_data[entry.corpus],
        provenance={"published": entry.name, "url": entry.url, "page": family.page, "paper": family.paper},
    )
    try:
        _check_tensors(entry, read_torch_tensors(entry.checkpoint))
        import_weights(entry.checkpoint, entry.model_file, entry.vocabulary, entry.given, card)
    except (WeightsError, TensorFileError) as error:
        if fetched:  # an error page, say; kept, it would be taken for the model
            entry.checkpoint.unlink()
            raise PublishedError(f"what {entry.url} gave is not the published model ({error})") from error
        raise PublishedError(f"{error}: delete {entry.checkpoint} to have it fetched from {entry.url}") from error
    sums = {"sha256": sha256, "model_sha256": sha256_of(entry.model_file)}
    write_json(entry.record, {"url": entry.url, "bytes": entry.checkpoint.stat().st_size, **sums})
    return entry.model_file


def _check_tensors(entry: Published, tensors: dict[str, Tensor]) -> None:
    """Refuses what might be read without a fault: the tensors of another family, or of another size."""
    from psla.weights.readers.contract import READERS, WeightsError

    if not READERS[entry.family.name].knows(tensors):
        raise WeightsError(f"{entry.checkpoint} is not of the family {entry.family.name}")
    trained = [each for name, each in tensors.items() if each.is_floating_point() and ".running_" not in name]
    count = sum(each.numel() for each in trained) / 1e6
    if entry.parameters is not None and abs(count / entry.parameters - 1) > _ROUNDED:
        raise WeightsError(f"{entry.checkpoint} has {count:.3g} million parameters, not {entry.parameters}")


def _compare(path: Path, known: str | None, entry: Published) -> str:
    """The file's SHA-256, which must be the published one, or else that of the first fetch."""
    found = sha256_of(path)
    if known not in (None, found):
        what = "published" if known == entry.sha256 else "fetched first"
        mend = "" if known == entry.sha256 else f", and {entry.record} too if {entry.url} has a new file"
        sums = f"SHA-256 {found[:12]}…, not {known:.12}…"
        raise PublishedError(f"{path} is not what was {what} ({sums}): delete {path} to have it made again{mend}")
    return found


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_json(path, PublishedError, mend="delete it")


def listing() -> list[dict[str, Any]]:
    """What there is to say of every model by name, those of the package first, as plain data with the same keys."""
    from psla.model.file import read_header

    entries: list[dict[str, Any]] = []
    for packaged in PACKAGED.values():
        header = read_header(packaged.path)
        classes = len(header["vocabulary"]["ids"])
        told = {
            "what": f"{classes} classes",
            "classes": classes,
            "cross_validated_accuracy": packaged.scores.get("cross validation accuracy"),
            "scores": packaged.scores,
            "bytes": packaged.path.stat().st_size,
            "sample_rate": header["front_end"]["sample_rate"],
            **{key: header["card"][key] for key in ("licence", "training_data")},
        }
        entries.append({"name": packaged.name, "corpus": packaged.corpus, "models": 1, "packaged": True, **told})
    for entry in CATALOGUE.values():
        told = asdict(entry.family) | asdict(entry)  # the model's name after the family's
        told |= {
            "family": entry.family.name,
            "classes": len(entry.vocabulary),
            "published_mean_average_precision": told.pop("mean_average_precision"),
            "bytes": entry.checkpoint.stat().st_size if entry.checkpoint.is_file() else entry.bytes,
            "training_data": entry.family.training_data[entry.corpus],
            "packaged": False,
        }
        entries.append(told)
    stands_for = {alias: named(alias).name for alias in ALIASES}
    for each in entries:
        each["aliases"] = [alias for alias, name in stands_for.items() if name == each["name"]]
        each["default"] = each["name"] == DEFAULT
        each["cached"] = each["packaged"] or CATALOGUE[each["name"]].cached
        each["shipped"] = each["packaged"]  # its name in the first release, for programs that read it
    keys = dict.fromkeys(key for each in entries for key in each)
    return [{key: each.get(key) for key in keys} for each in entries]
