"""What `psla listen` shows: a live view on a terminal, lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from psla.audio.live import Block
    from psla.tagging.live.deliver import Message
    from psla.tagging.stream import Stream

_ROWS = 8  # classes, and events, that are shown
_PER_SECOND = 8


def _words(message: Message) -> str:
    """A message as a line for people; empty: not worth one."""
    from psla.files import visible

    if message["type"] == "event" and message["state"] != "continued":
        name, at = visible(message["name"]), message["onset_s"]
        if message["state"] == "opened":
            return f"{at:10.2f} s  {name} begins ({message['probability']:.2f})"
        kept = f", {message['recording']}" if "recording" in message else ""
        return f"{at:10.2f} s  {name} to {message['offset_s']:.2f} s ({message['probability']:.2f}{kept})"
    if message["type"] == "gap":
        how = f"{message['lost_s']:.2f} s lost" if message["lost_s"] else "sound lost, how much is not known"
        return f"{message['at_s']:10.2f} s  gap: {how} ({message['reason']})"
    return ""


def _last(message: Message) -> str:
    gaps = f", {message['gaps']} gaps ({message['lost_s']:.2f} s lost)" if message["gaps"] else ""
    unheard = f", {message['unheard_s']:.1f} s not heard" if message["unheard_s"] >= 0.1 else ""
    return f"psla: {message['position_s']:.2f} s, {message['events']} events{gaps}{unheard}"


class Lines:
    """A line a message on standard output: JSON, or words for what is worth some."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self._json, self._quiet = as_json, quiet
        self._lock = threading.Lock()

    def tell(self, message: Message) -> None:
        """Print it."""
        with self._lock:
            if self._json:
                typer.echo(json.dumps(message, ensure_ascii=False, allow_nan=False))
            elif words := _words(message):
                typer.echo(words)
            if message["type"] == "started" and not self._quiet:
                typer.echo(
                    f"psla: {message['model']} hears {message['source']}; events are told at most "
                    f"{message['latency_s']:.2f} s after their beginning was heard",
                    err=True,
                )
            elif message["type"] == "ended" and not self._quiet:
                typer.echo(_last(message), err=True)

    def failed(self, name: str, reason: str, lost: int) -> None:
        """Say that somebody was not told."""
        if self._json:
            self.tell({"type": "failure", "to": name, "error": reason, "lost": lost})
        with self._lock:
            typer.echo(f"psla: {name}: {lost} messages lost: {reason}", err=True)

    def heard(self, block: Block) -> None:
        """Nothing is shown of a block alone."""


class Screen:
    """A view that moves: level, classes by the newest window, what goes on, what was."""

    def __init__(self, stream: Stream, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._stream, self._console = stream, console or Console()
        self._lock = threading.Lock()
        self._head = ""
        self._level = 0.0
        self._going: dict[int, Message] = {}
        self._past: deque[str] = deque(maxlen=_ROWS)
        self._live = Live(console=self._console, get_renderable=self._drawn, refresh_per_second=_PER_SECOND)

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def tell(self, message: Message) -> None:
        """Take it into the view."""
        with self._lock:
            if message["type"] == "started":
                self._head = f"{message['model']} hears {message['source']}, {message['latency_s']:.1f} s late at most"
            elif message["type"] == "event" and message["state"] != "closed":
                self._going[message["number"]] = message
            elif message["type"] == "event":
                self._going.pop(message["number"], None)
                self._past.append(_words(message))
            elif message["type"] == "gap":
                self._past.append(_words(message))
            elif message["type"] == "ended":
                self._past.append(_last(message))

    def failed(self, name: str, reason: str, lost: int) -> None:
        """Say that somebody was not told."""
        with self._lock:
            self._past.append(f"{name}: {lost} messages lost: {reason}")

    def heard(self, block: Block) -> None:
        """Keep its level."""
        if len(block.samples):
            full = 1.0 if block.samples.dtype.kind == "f" else -float(np.iinfo(block.samples.dtype).min)
            self._level = float(np.abs(block.samples.astype(np.float32)).max()) / full

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        from psla.cli.tag_view import bar, cut, grid_of
        from psla.files import visible

        console = self._console
        width = max(8, console.width - 44)
        decibels = 20 * np.log10(max(self._level, 1e-5))
        rows: list[RenderableType] = [Text(visible(self._head), "bold")]
        table = grid_of("left", "left", "right")
        share = (decibels + 100) / 100
        table.add_row("level", Text(bar(share, width, console).ljust(width), "blue"), f"{decibels:.0f} dBFS")
        newest = self._stream.newest
        if newest is not None:
            for index in np.argsort(-newest, kind="stable")[:_ROWS].tolist():
                name, p = self._stream.tagger.model.vocabulary[index].name, float(newest[index])
                table.add_row(cut(name, 32, console), Text(bar(p, width, console).ljust(width), "cyan"), f"{p:.2f}")
        rows.append(table)
        with self._lock:
            going = [
                f"{m['onset_s']:10.2f} s  {visible(m['name'])} ({m['probability']:.2f})" for m in self._going.values()
            ]
            rows += [Text(f"{self._stream.position_s:10.2f} s  now")]
            rows += [Text(text, "green") for text in going[:_ROWS]]
            rows += [Text(text, "dim") for text in self._past]
        return Group(*rows)
