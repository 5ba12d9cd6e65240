"""`psla pack`: from a table of clips to a pack, and what can be done with one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, answer, keeps, part_of, spread_over
from psla.cli.options import Cluster, Decoders
from psla.cli.places import ADDRESSED, Writes
from psla.cli.progress import bars, progress
from psla.spread import cores

if TYPE_CHECKING:
    from psla.data.pack.reading import Pack
    from psla.data.pack.write import Progress

_LINE_S = 30.0  # seconds between two lines of progress where there is no terminal
_LISTED = 20  # damaged clips that are printed


def _shards(given: Mapping[str, Any]) -> str:
    out = given["out"]
    shards = 0 if out is None else len(list(out.glob("unfinished/*.parquet")))
    return f"{shards} finished shards are kept in {out}: run the same command again" if shards else ""


@keeps(_shards)
def pack(
    clips: Annotated[
        Path, typer.Argument(help="The table of clips; with --verify or --merge, the pack's folder."), ADDRESSED
    ],
    out: Annotated[
        Path | None,
        typer.Argument(help="The pack's folder: new, or one that was begun."),
        Writes(folder=True, addresses=True),
    ] = None,
    workers: Decoders = None,
    shard: Annotated[str | None, typer.Option(help="i/n, as in 3/8: only this part of the work; then --merge.")] = None,
    cluster: Cluster = None,
    shard_clips: Annotated[int | None, typer.Option(min=1, help="Clips in a shard; 10,000 where not given.")] = None,
    shard_mb: Annotated[float | None, typer.Option(min=0.4, max=1e6, help="As MB of ten-second clips.")] = None,
    sample_rate: Annotated[int | None, typer.Option(min=1, help="In Hz; the paper's where not given.")] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds after which a stalled decoder is given up.")] = 30.0,
    verify: Annotated[bool, typer.Option("--verify", help="Compare a pack with its checksums.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Put the parts of a pack together.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Decode clips once, so that training can read them at random; killed or interrupted, run it again to go on."""
    if verify or merge:
        given = {"OUT": out, "--shard": shard, "--shard-clips": shard_clips, "--shard-mb": shard_mb}
        given |= {"--sample-rate": sample_rate, "--cluster": cluster}
        unused = [name for name, value in given.items() if value is not None]
        if unused or (verify and merge):
            raise CommandError(f"--verify and --merge stand alone, with the pack's folder; leave {unused or 'one'} out")
        if verify:
            _verify(clips, workers, as_json)
        else:
            from psla.data.pack.write import merge as run_merging

            _print(run_merging(clips), as_json)
        return
    if out is None:
        raise CommandError("give the folder of the pack: psla pack CLIPS OUT")
    _check(shard, cluster, shard_clips, shard_mb, sample_rate)
    from psla.data.clips import Clips
    from psla.data.pack.reading import Pack
    from psla.data.pack.remote import pack_remote
    from psla.data.pack.write import SHARD_CLIPS
    from psla.data.pack.write import pack as run_packing
    from psla.model.frontends.kaldi import FrontEndConfig
    from psla.remote import address_of

    rate = sample_rate or FrontEndConfig().sample_rate
    per_shard = round(shard_mb * 1e6 / (10 * 2 * rate)) if shard_mb is not None else shard_clips or SHARD_CLIPS
    try:
        part = part_of(shard) or (1, 1)
    except ValueError as error:
        raise CommandError(f"--shard {shard!r} must be i/n with i from 1 to n, as in 3/8") from error
    table = Clips.read(clips)
    address = address_of(out)
    if address is not None and shard is not None:
        raise CommandError("--shard needs a folder with locks: give --cluster, or a local OUT")
    count = workers or (1 if cluster else cores())  # on a cluster, of each shard
    with spread_over(cluster) as spread, _progress() as report:
        if address is not None:
            sent = pack_remote(
                *(table, address, rate), workers=count, shard_clips=per_shard, timeout_s=timeout, progress=report,
                spread=spread,
            )  # fmt: skip
            _print(Pack(Path(address), sent), as_json, address)
            return
        told = partial(run_packing, progress=report, spread=spread)
        packed = told(table, out, rate, workers=count, part=part, shard_clips=per_shard, timeout_s=timeout)
    if packed is not None:
        _print(packed, as_json)
    else:
        typer.echo(f"{out}: part {shard} is done; when all are, run: psla pack {out} --merge", err=as_json)


def _check(shard: str | None, cluster: str | None, clips: int | None, mb: float | None, rate: int | None) -> None:
    from psla.model.frontends.contract import HIGHEST_RATE

    if rate is not None and rate > HIGHEST_RATE:
        raise CommandError(f"--sample-rate {rate}: no front end hears more than {HIGHEST_RATE} Hz")
    if cluster is not None and shard is not None:
        raise CommandError("--shard is for schedulers without Ray: give it or --cluster, not both")
    if clips is not None and mb is not None:
        raise CommandError("give --shard-clips or --shard-mb, not both")


def _verify(folder: Path, workers: int | None, as_json: bool) -> None:
    from psla.data.pack.reading import Pack
    from psla.data.pack.verify import check

    found = Pack.open(folder)
    with progress({"verify": found.info["clips"]}) as report:
        damaged = check(found, workers or cores(), lambda clips: report("verify", clips))
    count = found.info["clips"]
    told = [f"{damage.clip_id}: {damage.reason}" for damage in damaged[:_LISTED]]
    if len(damaged) > _LISTED:
        told.append(f"... and {len(damaged) - _LISTED} more; --json lists all")
    if not damaged:
        told.append(f"{folder}: all {count} clips are as they were packed")
    listed = [{"clip_id": damage.clip_id, "reason": damage.reason} for damage in damaged]
    answer(as_json, {"clips": count, "damaged": listed}, *told, ensure_ascii=True)
    if damaged:
        raise CommandError(f"{folder}: {len(damaged)} of {count} clips are damaged; pack them again")


def _print(packed: Pack, as_json: bool, address: str = "") -> None:
    from psla.data.pack.plan import size

    info, shards = packed.info, len(packed.info["shard_samples"])
    place = address or str(packed.folder)
    data = {"folder": place} | {key: info[key] for key in ("clips", "rejected", "samples", "splits")}
    splits = ", ".join(f"{split} {count}" for split, count in info["splits"].items())
    held = f"{size(2 * info['samples'])} in {shards} shard{'s' if shards > 1 else ''}"
    told = f"{place}: {info['clips']} clips ({splits or 'none'}), {held}"
    answer(as_json, data, told, ensure_ascii=True)
    if info["rejected"]:
        typer.echo(f"{info['rejected']} clips could not be decoded: see {place}/rejected.csv", err=True)
    if not info["clips"]:
        raise CommandError(f"{place} holds no clip: none of {info['rejected']} could be decoded")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar with clips/s and the time left on a terminal; elsewhere a line of the same, now and then."""
    began = last = time.monotonic()

    with bars("{task.fields[speed]}") as shown:
        task = None if shown is None else shown.add_task("pack", total=None, speed="")

        def report(state: Progress) -> None:
            nonlocal last
            now = time.monotonic()
            fresh = state.done - state.resumed
            speed = fresh / max(now - began, 1e-9)  # of what this process has done
            if shown is not None and task is not None:
                text = f"{speed:.0f} clips/s, {state.rejected} rejected"
                shown.update(task, total=state.total, completed=state.done, speed=text)
            elif state.resumed and not fresh:
                typer.echo(f"pack: {state.resumed} of {state.total} clips are there already", err=True)
            elif now - last >= _LINE_S or (state.done == state.total and fresh):
                last = now
                left = (state.total - state.done) / speed if speed else 0.0
                said = f"{speed:.0f} clips/s, {_clock(left)} left, {state.rejected} rejected"
                typer.echo(f"pack: {state.done} of {state.total} clips, {said}", err=True)

        yield report


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
        >>> _clock(3725.4)
        '1:02:05'
    """
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
