"""The hub of Hugging Face: `hf://ORG/NAME` as a model to load, and a model file put there with a card in its format.

`hf://ORG/NAME`, `hf://ORG/NAME@REVISION`: the file model.safetensors of that repository, in the hub's own cache
($HF_HOME). While `$PSLA_OFFLINE` is set, only what is there already. Where the hub is and who may write there is the
affair of `huggingface_hub` ($HF_ENDPOINT, $HF_TOKEN, `hf auth login`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psla.download import DownloadError, Progress, offline
from psla.extras import needed

if TYPE_CHECKING:
    from psla.model.file import Model

SCHEME = "hf://"
MODEL_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"
_ADDRESS = re.compile(r"hf://(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# What the hub knows, by the beginning of what a card says; anything else is `other`, with the words beside it.
_LICENCES = {"Apache-2.0": "apache-2.0", "Apache 2.0": "apache-2.0", "MIT": "mit", "BSD-3-Clause": "bsd-3-clause"}
_LICENCES |= {"CC BY 4.0": "cc-by-4.0", "CC-BY-4.0": "cc-by-4.0", "CC0": "cc0-1.0", "CC BY-NC 4.0": "cc-by-nc-4.0"}


_NAMED = 20  # classes
_CARD = """---
{metadata}
---

# {name}

Audio tagging, {classes}.

```python
import psla  # pip install 'psla[hub]'

tagger = psla.load("{address}")
for found, probability in tagger.tag("street.flac").top(5):
    print(found.name, probability)
```
"""
_ONNX = """Without psla, by ONNX Runtime:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
waveform = np.zeros((1, {samples}), np.float32)  # {seconds} s at {rate} Hz, mono, from -1 to 1
for named, found in zip(session.get_outputs(), session.run(None, {{session.get_inputs()[0].name: waveform}})):
    print(named.name, found.shape)
```
"""
_FACTS = """It hears {rate} Hz mono, {seconds} s at a time; model.safetensors holds weights, classes and front end.

- trained on: {data}
- licence of the weights: {licence}"""


class HubError(ValueError):
    """An address that is none, or a repository that cannot be read or written."""


@dataclass(frozen=True)
class Address:
    """A repository on the hub, and a branch, tag or commit of it; None: its newest."""

    repository: str
    revision: str | None = None

    @staticmethod
    def of(text: str) -> Address:
        """
        Raises:
            HubError: no address.

        Example:
            >>> Address.of("hf://me/birds@v2")
            Address(repository='me/birds', revision='v2')
        """
        if (found := _ADDRESS.fullmatch(text)) is None:
            raise HubError(f"{text!r} is no address on the hub: write hf://ORG/NAME or hf://ORG/NAME@REVISION")
        return Address(found["repository"], found["revision"])

    def __str__(self) -> str:
        return SCHEME + self.repository + (f"@{self.revision}" if self.revision else "")


def fetched(address: str, progress: Progress = lambda received, total: None) -> Path:
    """The model file at an address, fetched into the hub's cache if it is not there.

    Raises:
        HubError: no address, or no such repository, revision or file.
        DownloadError: the hub does not answer, or `$PSLA_OFFLINE` is set and the file is not in the cache.
    """
    wanted = Address.of(address)
    hub = needed("huggingface_hub", "hub")
    try:
        found = hub.hf_hub_download(
            wanted.repository, MODEL_FILE, revision=wanted.revision, local_files_only=offline(), library_name="psla"
        )
    except hub.errors.LocalEntryNotFoundError as error:
        why = "PSLA_OFFLINE is set" if offline() else "the hub does not answer"
        raise DownloadError(f"{wanted}: {MODEL_FILE} is not in the hub's cache, and {why}") from error
    except hub.errors.HfHubHTTPError as error:
        raise HubError(f"{wanted}: {_why(error)}") from error
    path = Path(found)
    progress(path.stat().st_size, path.stat().st_size)
    return path


def push(model: Path, address: str, onnx: Path | None = None, private: bool = False) -> str:
    """Put a model file into a repository, which is made if it is missing; the address of the commit.

    Args:
        onnx: the same model as an ONNX file, which is put beside it as model.onnx and explained in the card.
        private: make a repository that others do not see; one that is there stays as it is.

    Raises:
        HubError: no address, or the hub refuses; nothing has changed there then: it is one commit.
        ModelFileError: no model file.
        DownloadError: `$PSLA_OFFLINE` is set, or the hub does not answer.
    """
    wanted = Address.of(address)
    from psla.model.file import load_model

    loaded = load_model(model)
    if onnx is not None and not onnx.is_file():
        raise FileNotFoundError(2, os.strerror(2), str(onnx))
    if offline():
        raise DownloadError(f"{wanted}: nothing is sent while PSLA_OFFLINE is set")
    hub = needed("huggingface_hub", "hub")
    files: dict[str, Any] = {MODEL_FILE: str(model), "README.md": card(loaded, wanted, onnx is not None).encode()}
    if onnx is not None:
        files[ONNX_FILE] = str(onnx)
    operations = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
    api = hub.HfApi(library_name="psla")
    try:
        api.create_repo(wanted.repository, exist_ok=True, private=private or None)
        made = api.create_commit(
            wanted.repository, operations, commit_message="Model by psla", revision=wanted.revision
        )
    except hub.errors.HfHubHTTPError as error:
        raise HubError(f"{wanted}: {_why(error)}; `hf auth login` says who you are") from error
    except OSError as error:
        raise DownloadError(f"{wanted}: the hub does not answer ({' '.join(str(error).split())})") from error
    return str(made.commit_url)


def card(model: Model, address: Address, onnx: bool = False) -> str:
    """The README.md of a model: the hub's metadata on top, then how it is used, with psla and without."""
    network, vocabulary, told = model.network, model.vocabulary, model.card
    classes = ", ".join(each.name for each in list(vocabulary)[:_NAMED])
    more = f" and {len(vocabulary) - _NAMED} more" if len(vocabulary) > _NAMED else ""
    known = {
        "address": str(address),
        "name": address.repository.split("/")[1],
        "metadata": "\n".join(_metadata(model, address)),
        "classes": f"{len(vocabulary)} classes: {classes}{more}",
        "rate": network.sample_rate,
        "samples": network.window_samples,
        "seconds": f"{network.window_samples / network.sample_rate:g}",
        "data": told.training_data or "not said",
        "licence": told.licence or "not said",
    }
    provenance = [f"- {key}: {value}" for key, value in told.provenance.items() if isinstance(value, str)]
    parts = [_CARD.format(**known), _ONNX.format(**known) if onnx else "", _FACTS.format(**known), *provenance]
    return "\n".join(part for part in parts if part).rstrip("\n") + "\n"


def _licence(text: str) -> tuple[str, str]:
    return next((id for words, id in _LICENCES.items() if text.startswith(words)), "other"), text


def _metadata(model: Model, address: Address) -> list[str]:
    """The lines between the dashes."""
    hub = needed("huggingface_hub", "hub")
    id, words = _licence(model.card.licence)
    results = [
        hub.EvalResult("audio-classification", name, name, "mean_average_precision", value, dataset_split=split,
                       metric_name=f"mAP ({variant})")
        for split, variants in model.card.scores.items()
        if isinstance(variants, dict) and (name := model.card.training_data or "unknown")
        for variant, value in variants.items()
        if isinstance(value, float)
    ]  # fmt: skip
    data = hub.ModelCardData(
        license=id,
        license_name=None if id != "other" or not words else re.sub(r"[^a-z0-9.]+", "-", words.lower())[:60].strip("-"),
        library_name="psla",
        pipeline_tag="audio-classification",
        tags=["audio-tagging", "psla"],
        metrics=["mean_average_precision"] if results else None,
        model_name=address.repository.split("/")[1] if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).splitlines()


def _why(error: Exception) -> str:
    """The first line of what the hub says, without the address of the request."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if "http" not in line and not line.startswith("4")), lines[0] if lines else "")
    return said or type(error).__name__
