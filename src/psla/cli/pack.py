"""`psla pack`: from a table of clips to a pack, and what can be done with one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from psla.cli.console import CommandError, guarded

if TYPE_CHECKING:
    from psla.data.pack.reading import Pack
    from psla.data.pack.write import Progress

_LINE_S = 30.0  # seconds between two lines of progress where there is no terminal
_LISTED = 20  # damaged clips that are printed


@guarded
def pack(
    clips: Annotated[Path, typer.Argument(help="The table of clips; with --verify or --merge, the pack's folder.")],
    out: Annotated[Path | None, typer.Argument(help="The pack's folder: new, or one that was begun.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that decode; as many as processors.")] = None,
    sample_rate: Annotated[int | None, typer.Option(min=1, help="In Hz; the paper's where not given.")] = None,
    shard: Annotated[str | None, typer.Option(help="i/n, as in 3/8: only this part of the work; then --merge.")] = None,
    shard_clips: Annotated[int | None, typer.Option(min=1, help="Clips in a shard; 10,000 where not given.")] = None,
    shard_mb: Annotated[float | None, typer.Option(min=0.4, help="The same, in MB of ten-second clips.")] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds after which a stalled decoder is given up.")] = 30.0,
    verify: Annotated[bool, typer.Option("--verify", help="Compare a pack with its checksums.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Put the parts of a pack together.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Decode clips once, so that training can read them at random; killed or interrupted, run it again to go on."""
    if verify or merge:
        given = {
            "OUT": out,
            "--sample-rate": sample_rate,
            "--shard": shard,
            "--shard-clips": shard_clips,
            "--shard-mb": shard_mb,
        }
        unused = [name for name, value in given.items() if value is not None]
        if unused or (verify and merge):
            raise CommandError(f"--verify and --merge stand alone, with the pack's folder; leave {unused or 'one'} out")
        _verify(clips, workers, as_json) if verify else _merge(clips, as_json)
        return
    if out is None:
        raise CommandError("give the folder of the pack: psla pack CLIPS OUT")
    if shard_clips is not None and shard_mb is not None:
        raise CommandError("give --shard-clips or --shard-mb, not both")
    from psla.data.clips import Clips
    from psla.data.pack.write import SHARD_CLIPS
    from psla.data.pack.write import pack as run_packing
    from psla.model.frontends.kaldi import FrontEndConfig

    rate = sample_rate or FrontEndConfig().sample_rate
    per_shard = round(shard_mb * 1e6 / (10 * 2 * rate)) if shard_mb is not None else shard_clips or SHARD_CLIPS
    part = _part(shard)
    table = Clips.read(clips)
    count = workers or _processors()
    with _progress() as report:
        packed = run_packing(
            table, out, rate, workers=count, part=part, shard_clips=per_shard, timeout_s=timeout, progress=report
        )
    if packed is not None:
        _print(packed, as_json)
    else:
        typer.echo(f"{out}: part {shard} is done; when all are, run: psla pack {out} --merge", err=as_json)


def _merge(folder: Path, as_json: bool) -> None:
    from psla.data.pack.write import merge

    _print(merge(folder), as_json)


def _verify(folder: Path, workers: int | None, as_json: bool) -> None:
    from psla.cli.console import progress
    from psla.data.pack.reading import Pack
    from psla.data.pack.verify import check

    found = Pack.open(folder)
    with progress({"verify": found.info["clips"]}) as report:
        damaged = check(found, workers or _processors(), lambda clips: report("verify", clips))
    if as_json:
        listed = [{"clip_id": damage.clip_id, "reason": damage.reason} for damage in damaged]
        typer.echo(json.dumps({"clips": found.info["clips"], "damaged": listed}))
    else:
        for damage in damaged[:_LISTED]:
            typer.echo(f"{damage.clip_id}: {damage.reason}")
        if len(damaged) > _LISTED:
            typer.echo(f"... and {len(damaged) - _LISTED} more; --json lists all")
    if damaged:
        raise CommandError(f"{folder}: {len(damaged)} of {found.info['clips']} clips are damaged; pack them again")
    if not as_json:
        typer.echo(f"{folder}: all {found.info['clips']} clips are as they were packed")


def _print(packed: Pack, as_json: bool) -> None:
    from psla.data.pack.plan import size

    info = packed.info
    if as_json:
        keys = ("clips", "rejected", "samples", "splits")
        typer.echo(json.dumps({"folder": str(packed.folder)} | {key: info[key] for key in keys}))
    else:
        splits = ", ".join(f"{split} {count}" for split, count in info["splits"].items())
        shards = len(info["shard_samples"])
        held = f"{size(2 * info['samples'])} in {shards} shard{'s' if shards > 1 else ''}"
        typer.echo(f"{packed.folder}: {info['clips']} clips ({splits or 'none'}), {held}")
    if info["rejected"]:
        typer.echo(f"{info['rejected']} clips could not be decoded: see {packed.folder / 'rejected.csv'}", err=True)
    if not info["clips"]:
        raise CommandError(f"{packed.folder} holds no clip: none of {info['rejected']} could be decoded")


def _part(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 1
    number, slash, parts = text.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise CommandError(f"--shard {text!r} must be i/n with i from 1 to n, as in 3/8")
    return int(number), int(parts)


def _processors() -> int:
    """Those that this process may use, which a scheduler can have limited."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with clips/s and the time left on a terminal; elsewhere a line of the same, now and then."""
    began = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        speed = TextColumn("{task.fields[speed]}")
        columns = (TextColumn("pack"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            task = bars.add_task("pack", total=None, speed="")

            def show(state: Progress) -> None:
                text = f"{_speed(state, began):.0f} clips/s, {state.rejected} rejected"
                bars.update(task, total=state.total, completed=state.done, speed=text)

            yield show
        return
    last = began

    def report(state: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if state.done == state.resumed and state.resumed:
            typer.echo(f"pack: {state.resumed} of {state.total} clips are there already", err=True)
        elif now - last >= _LINE_S or (state.done == state.total and state.done > state.resumed):
            last, speed = now, _speed(state, began)
            left = (state.total - state.done) / speed if speed else 0.0
            said = f"{speed:.0f} clips/s, {_clock(left)} left, {state.rejected} rejected"
            typer.echo(f"pack: {state.done} of {state.total} clips, {said}", err=True)

    yield report


def _speed(state: Progress, began: float) -> float:
    """Clips a second that this process has done."""
    return (state.done - state.resumed) / max(time.monotonic() - began, 1e-9)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> _clock(3725.4)
        '1:02:05'
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
