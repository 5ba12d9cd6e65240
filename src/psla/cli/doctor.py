"""`psla doctor`: what is installed, what it runs on and what it can reach; what a report of a fault needs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from re import match
from typing import Any

import typer

from psla.cli.console import USER_ERRORS, answer, sentence
from psla.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Say what is installed and what works here: versions, devices, decoders, cache, disk, the default model.

    Paste it into a report of a fault. It fetches nothing, and exits with 1 if something that psla needs is amiss.
    """
    found: dict[str, Any] = {}
    amiss: list[str] = []
    for name, look in _LOOKS.items():
        try:
            found[name] = look()
        except (*USER_ERRORS, ImportError, RuntimeError) as error:  # the other lines are what the report is for
            found[name] = {"error": sentence(error)}
        amiss += [f"{name}: {each}" for each in _amiss(found[name])]
    found["amiss"] = amiss
    lines = [f"{name}: {_told(value)}" for name, value in found.items() if name != "amiss"]
    answer(as_json, found, *lines, *(["amiss: " + "; ".join(amiss)] if amiss else ["nothing is amiss"]))
    if amiss:
        raise typer.Exit(1)


def _told(value: Any) -> str:
    """A value as people read it, in one line; what is nested, in brackets."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {f'({_told(each)})' if isinstance(each, dict) else _told(each)}" for key, each in value.items()
        )
    if isinstance(value, list):
        return " ".join(map(_told, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "-"}[value]
    return str(value)


def _amiss(found: Any) -> list[str]:
    if not isinstance(found, dict):
        return []
    own = [str(found["error"])] if found.get("error") else []
    return own + [each for value in found.values() for each in _amiss(value)]


def _psla() -> dict[str, Any]:
    import psla

    return {"version": version("psla"), "folder": str(Path(psla.__file__).parent)}


def _python() -> dict[str, Any]:
    return {"version": platform.python_version(), "executable": sys.executable, "system": platform.platform()}


def _packages() -> dict[str, Any]:
    """What psla requires, and what its extras do: versions; None: of an extra, and not installed."""
    needed: dict[str, Any] = {}
    extras: dict[str, dict[str, Any]] = {}
    for line in requires("psla") or ():
        requirement, _, condition = line.partition(";")
        name = (match(r"[\w.-]+", requirement.strip()) or [""])[0]
        extra = match(r".*extra == ['\"](.+?)['\"]", condition)
        if name == "psla":
            continue
        (needed if extra is None else extras.setdefault(extra[1], {}))[name] = _version(name)
    lacking = [name for name, found in needed.items() if found is None]
    told: dict[str, Any] = {**needed, "extras": extras}
    return told | ({"error": f"not installed: {', '.join(lacking)}; install psla again"} if lacking else {})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    import torch

    cuda = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": cuda,
        "cuda_version": torch.version.cuda,
        "mps": torch.backends.mps.is_available(),
    }


def _decoders() -> dict[str, Any]:
    """What decodes, and a sound that goes all the way through a worker process."""
    import av
    import numpy as np
    import soundfile

    from psla.audio.decode import AUDIO_SUFFIXES, AudioError
    from psla.audio.pool import DecodePool, Job

    with tempfile.TemporaryDirectory() as folder:
        soundfile.write(Path(folder) / "a.wav", np.zeros(800), 8000)
        with DecodePool(1) as pool:
            ((_, heard),) = pool.map([Job(str(Path(folder) / "a.wav"), 8000)])
    tried = {"error": f"a worker cannot decode: {heard.reason}"} if isinstance(heard, AudioError) else {}
    return {
        "pyav": av.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "libsndfile_formats": sorted(soundfile.available_formats()),
        "ffmpeg": {name: ".".join(map(str, numbers)) for name, numbers in sorted(av.library_versions.items())},
        "suffixes": sorted(AUDIO_SUFFIXES),
        "worker": "decodes" if not tried else "fails",
        **tried,
    }


def _cache() -> dict[str, Any]:
    from psla.download import cache_folder

    folder = cache_folder()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {"folder": str(folder), "files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def _disk() -> dict[str, Any]:
    """Free bytes and whether one may write, where psla writes: the cache, here, and temporary files."""
    from psla.download import cache_folder

    places = {"cache": cache_folder(), "here": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    return {name: _room(path) for name, path in places.items()}


def _room(folder: Path) -> dict[str, Any]:
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent  # it is made when it is needed
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"psla")
            file.flush()
        writable = True
    except OSError:
        writable = False
    return {"folder": str(folder), "free_bytes": shutil.disk_usage(folder).free, "writable": writable}


def _model() -> dict[str, Any]:
    """The model that speaks where none is named, whether it is here, and whether it is what was written."""
    from psla.model.ensemble import load_ensemble
    from psla.model.file import load_model
    from psla.weights.catalogue import known_names, named
    from psla.weights.choice import choose
    from psla.weights.packaged import Packaged

    choice = choose()
    told: dict[str, Any] = {"name": choice.model, "chosen_by": choice.of or "default"}
    path = Path(choice.model)
    if choice.model in known_names() and not path.is_file():
        entry = named(choice.model)
        path = entry.path if isinstance(entry, Packaged) else entry.model_file
    told |= {"file": str(path), "here": path.is_file()}
    if told["here"]:
        model = load_ensemble(path) if path.suffix == ".json" else load_model(path)
        told |= {"checksum": "holds", "classes": len(model.vocabulary)}
    return told


def _settings() -> dict[str, Any]:
    from platformdirs import user_config_path

    path = user_config_path("psla") / "config.yaml"
    variables = {name: os.environ.get(name) for name in ("PSLA_MODEL", "PSLA_OFFLINE", "PSLA_CACHE", "OMP_NUM_THREADS")}
    return {"configuration": str(path), "there": os.path.isfile(path), **variables}


_LOOKS: dict[str, Callable[[], dict[str, Any]]] = {
    "psla": _psla,
    "python": _python,
    "packages": _packages,
    "devices": _devices,
    "decoders": _decoders,
    "cache": _cache,
    "disk": _disk,
    "settings": _settings,
    "model": _model,
}
