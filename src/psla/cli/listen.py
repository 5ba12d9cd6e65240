"""`psla listen`: what sounds now, from a microphone, a pipe or an address."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psla.cli.console import CommandError, asked_to_stop
from psla.cli.engine import tagger_of
from psla.cli.options import Combine, Json, Precision, WithPrecision
from psla.cli.places import Reads, Writes
from psla.cli.tag import (
    Classes,
    ClassRules,
    Exclude,
    MaxGap,
    ModelOption,
    Quiet,
    Window,
    asked,
    ruled,
)

if TYPE_CHECKING:
    from psla.audio.live import Block
    from psla.tagging.live.deliver import Delivery
    from psla.tagging.stream import Stream

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] [SOURCE]",
        help="A model, as `psla tag` takes it; then - for standard input, or any address that ffmpeg opens, such as "
        "rtsp:// of a camera. Without a source, the microphone.",
    ),
    Reads(endless=True, addresses=True),
]
Device = Annotated[str | None, typer.Option(help="The microphone, by name or number; else the system's.")]
Rate = Annotated[int | None, typer.Option(min=1000, help="Hz of raw samples on standard input, or of the microphone.")]
Channels = Annotated[int, typer.Option(min=1, help="Of raw samples, interleaved.")]
Pcm = Annotated[str, typer.Option(help="The kind of raw samples: u8, s16le, s32le or f32le.")]
Run = Annotated[
    list[str] | None,
    typer.Option("--exec", help="Run this when an event begins, and when it ends: JSON on its input, PSLA_... set."),
]
Webhook = Annotated[list[str] | None, typer.Option(help="Post events to this address, as JSON; may be given again.")]
Mqtt = Annotated[
    str | None,
    typer.Option(help="A broker, mqtt://[USER:PASSWORD@]HOST[:PORT]; Home Assistant finds them there."),
]
Name = Annotated[str, typer.Option(help="Of this listener, in MQTT topics and in Home Assistant.")]
RecordEvents = Annotated[
    Path | None, typer.Option(help="Keep the sound of each event in this folder, as FLAC."), Writes(folder=True)
]
Before = Annotated[float, typer.Option(min=0, help="Seconds of sound kept before and after an event.")]
Seconds = Annotated[float | None, typer.Option(min=0, help="Stop after so much sound.")]
Reconnect = Annotated[
    float | None,
    typer.Option(min=0.1, help="Open an address that broke off or ended again, every so many seconds, for ever."),
]
CLOSE_S = 10.0
HURRIED = ("rtsp", "rtp", "udp", "srt", "rtmp")  # addresses that do not wait; others hold back what is not read


def listen(
    words: Words = None,
    model: ModelOption = None,
    device: Device = None,
    rate: Rate = None,
    channels: Channels = 1,
    pcm: Pcm = "s16le",
    threshold: Annotated[float | None, typer.Option(help="Of events; else the model's, else 0.5.")] = None,
    release: Annotated[float, typer.Option(help="An event goes on above this share of its threshold.")] = 0.8,
    max_gap: MaxGap = None,
    min_length: Annotated[float, typer.Option(help="Leave out events of fewer seconds.")] = 0.0,
    median: Annotated[int, typer.Option(help="First take the median of so many steps, an odd number.")] = 1,
    classes: Classes = None,
    exclude: Exclude = None,
    class_rules: ClassRules = None,
    window: Window = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; by default a whole window.")] = None,
    as_json: Json = False,
    run: Run = None,
    webhook: Webhook = None,
    mqtt: Mqtt = None,
    name: Name = "listen",
    record_events: RecordEvents = None,
    before: Before = 2.0,
    seconds: Seconds = None,
    reconnect: Reconnect = None,
    precision: WithPrecision = Precision.float32,
    quiet: Quiet = False,
) -> None:
    """Say what sounds now, as it begins and ends; Ctrl-C ends it, and the events that are going on with it."""
    from psla.weights.choice import choose

    named, source = _split(words or [])
    if model is not None and named is not None:
        raise CommandError(f"two models are named, {model} and {named}: choose one")
    _check(source, rate, channels, device, pcm, reconnect)
    choice = choose(model or named)
    _, tagger = tagger_of(choice, hop, Combine.mean, precision, window)
    rule = ruled((threshold, release, max_gap, min_length, median), class_rules, tagger)
    chosen, withheld = asked(classes, exclude, False, None, tagger.model.vocabulary)
    ids = tagger.model.vocabulary.ids if chosen is None else list(chosen)

    from psla.audio.live import Feed
    from psla.cli.listen_view import Lines, Screen
    from psla.tagging.live.listen import listen as listening
    from psla.tagging.live.recorder import Recorder
    from psla.tagging.stream import Stream

    stream = Stream(tagger, rule=rule, classes=[id for id in ids if id not in withheld.classes])
    with ExitStack() as stack:
        stopped = stack.enter_context(asked_to_stop(signal.SIGINT, signal.SIGTERM))
        moves = sys.stdout.isatty() and not as_json
        shown = stack.enter_context(Screen(stream)) if moves else Lines(as_json, quiet)
        deliveries = _deliveries(run, webhook, mqtt, name, choice.model, stream if classes else None, shown, stack)
        recorder = None
        if record_events is not None:
            held = stream.latency_s + tagger.hop_s + 2 * before + max(max_gap or 0.0, min_length) + 5.0
            recorder = Recorder(record_events, before, held, lambda reason: shown.failed("recording", reason, 1))
        blocks = _blocks(source, rate, channels, pcm, device, reconnect)
        live = not source or source.partition("://")[0] in HURRIED
        feed = stack.enter_context(Feed(_first(blocks, seconds), live, stopped=stopped))

        def tell(message: dict[str, Any]) -> None:
            shown.tell(message)
            for delivery in deliveries:
                delivery.put(message)

        about = {"source": source or "microphone", "model": choice.model}
        began = datetime.now().astimezone()
        listening(feed, stream, tell, began=began, about=about, recorder=recorder, heard=shown.heard)


def _split(words: Sequence[str]) -> tuple[str | None, str]:
    """Model and source; no source is the microphone."""
    from psla.weights.catalogue import SUFFIXES, known_names

    def is_source(word: str) -> bool:
        model = word in known_names() or Path(word).suffix in SUFFIXES
        return word == "-" or "://" in word or (not model and Path(word).exists())

    if len(words) > 2 or (len(words) == 2 and is_source(words[0])):
        raise CommandError(f"name a model, then a source, at most one of each; got {' '.join(words)}")
    if len(words) == 2 and not is_source(words[1]):
        raise CommandError(f"{words[1]!r} is no source: give -, an address with ://, or a file that exists")
    sources = [word for word in words if is_source(word)]
    models = [word for word in words if not is_source(word)]
    return models[0] if models else None, sources[0] if sources else ""


def _check(source: str, rate: int | None, channels: int, device: str | None, pcm: str, reconnect: float | None) -> None:
    from psla.audio.live import PCM

    if pcm not in PCM:
        raise CommandError(f"--pcm is one of {', '.join(PCM)}, not {pcm}")
    if source not in ("", "-") and (rate is not None or channels != 1):
        raise CommandError("--rate and --channels are of raw samples on standard input: an address says its own")
    if source == "-" and rate is None and channels != 1:
        raise CommandError("--channels is of raw samples: give their --rate too")
    if source and device is not None:
        raise CommandError("--device names a microphone: leave out the source, or --device")
    if reconnect is not None and "://" not in source:
        raise CommandError("--reconnect is of an address with ://, which can be opened again: leave it out")


def _blocks(
    source: str, rate: int | None, channels: int, pcm: str, device: str | None, reconnect: float | None
) -> Iterator[Block]:
    from psla.audio import live

    if not source:
        return live.microphone(int(device) if device is not None and device.isdecimal() else device, rate)
    if source != "-":
        opened = partial(live.container, source)
        return opened() if reconnect is None else live.again(opened, reconnect)
    # Without Python's buffer: a thread that waits in it holds a lock, over which the interpreter stumbles at its end.
    pipe = FileIO(sys.stdin.fileno(), closefd=False)
    return live.container(pipe) if rate is None else live.raw_pcm(pipe, rate, channels, pcm)


def _first(blocks: Iterator[Block], seconds: float | None) -> Iterator[Block]:
    """The blocks, so many seconds of them."""
    left = float("inf") if seconds is None else seconds
    while left > 0 and (block := next(blocks, None)) is not None:  # after the last one none is waited for
        left -= block.seconds + (block.lost_s or 0.0)
        yield block


def _deliveries(
    run: Sequence[str] | None,
    webhooks: Sequence[str] | None,
    mqtt: str | None,
    name: str,
    model: str,
    announced: Stream | None,
    shown: Any,
    stack: ExitStack,
) -> list[Delivery]:
    """Those who are told, each with a queue; closed with the stack, the broker last."""
    from psla.tagging.live.deliver import Delivery, Message, command, webhook, worth_telling
    from psla.tagging.live.mqtt import Mqtt

    def worthy(send: Callable[[Message], None]) -> Callable[[Message], None]:
        return lambda message: send(message) if worth_telling(message) else None

    made = [Delivery(text, worthy(command(text)), shown.failed) for text in run or ()]
    made += [Delivery(address, worthy(webhook(address)), shown.failed) for address in webhooks or ()]
    if mqtt is not None:
        broker = Mqtt(mqtt, name, model, () if announced is None else announced.vocabulary)
        stack.callback(broker.close)
        made.append(Delivery("mqtt", worthy(broker.send), shown.failed))
    for delivery in made:
        stack.callback(delivery.close, CLOSE_S)
    return made
