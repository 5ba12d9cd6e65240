"""Where the time of a training step goes: what `psla train --profile` prints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("data wait", "front end", "forward", "backward", "optimizer")


class Profile:
    """Seconds spent in each part of a step.

    Args:
        device: on a GPU every part ends with a wait for the device, which costs some speed.

    Example:
        >>> profile = Profile(torch.device("cpu"))
        >>> with profile.part("backward"):
        ...     pass
        >>> sorted(profile.seconds) == sorted(PARTS)
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.clips = 0

    def now(self) -> float:
        """The time, when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        began = self.now()
        yield
        self.seconds[name] += self.now() - began

    @contextmanager
    def split_forward(self, backbone: torch.nn.Module) -> Iterator[None]:
        """Add the time of the block up to the backbone to `front end`, the rest to `forward`."""
        began = self.now()
        reached = [began]
        hook = backbone.register_forward_pre_hook(lambda module, inputs: reached.__setitem__(0, self.now()))
        try:
            yield
        finally:
            hook.remove()
        self.seconds["front end"] += reached[0] - began
        self.seconds["forward"] += self.now() - reached[0]

    def rows(self) -> list[list[str]]:
        """A row for each part, and their sum: name, milliseconds a clip, share of the time."""
        total = sum(self.seconds.values())
        clips, whole = max(self.clips, 1), total or 1.0
        named = [*self.seconds.items(), ("all", total)]
        return [[name, f"{1000 * s / clips:.3f}", f"{100 * s / whole:.1f} %"] for name, s in named]
