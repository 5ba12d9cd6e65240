"""The loop of listening: blocks into a stream, what is new out as messages, until the source ends or it is stopped.

Messages are plain data, one kind each:

    {"type": "started", "time", "source", "model", "classes", "sample_rate", "latency_s"}
    {"type": "event", "state": "opened" | "continued" | "closed", "number", "onset_s", "offset_s", "onset_time", "id",
     "name", "probability", "mean_probability"}                   (and "recording", "cut" where its sound is kept)
    {"type": "gap", "at_s", "lost_s", "reason"}                   lost_s 0: how much is not known
    {"type": "failure", "to", "error", "lost"}                    of who was to be told: so many messages were lost
    {"type": "ended", "time", "position_s", "events", "gaps", "lost_s", "unheard_s", "error"}

Seconds count from the beginning of the stream. Times are of the clock, ISO 8601 with its zone: that of the beginning,
and as much later as the sound is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from psla.audio.decode import AudioError
from psla.audio.live import Block
from psla.tagging.events import StreamEvent
from psla.tagging.live.deliver import Message
from psla.tagging.live.recorder import Recorder
from psla.tagging.stream import Stream


def listen(
    blocks: Iterable[Block],
    stream: Stream,
    tell: Callable[[Message], None],
    *,
    began: datetime,
    about: Message | None = None,
    recorder: Recorder | None = None,
    heard: Callable[[Block], None] = lambda block: None,
) -> Message:
    """Listen until the blocks end; the events that are open then are closed.

    Args:
        stream: a new one; it is closed here.
        tell: told each message as it comes.
        began: the time of the first sample.
        about: what the first message says more.
        recorder: keeps the sound of events.
        heard: called after each block was heard.

    Returns: the last message.

    Raises:
        AudioError: the source broke off; after the events were closed and the last message was told.
    """
    state = _State(stream, tell, began, recorder)
    tell(
        {
            "type": "started",
            "time": state.clock(0.0),
            **(about or {}),
            "classes": len(stream.tagger.model.vocabulary),
            "sample_rate": stream.tagger.sample_rate,
            "latency_s": stream.latency_s,
        }
    )
    failed: AudioError | None = None
    try:
        for block in blocks:
            if block.lost_s is not None:
                state.gap(block)
            if recorder is not None:
                recorder.add(block)
            state.events(stream.push(block.samples, block.sample_rate) if len(block.samples) else [])
            heard(block)
    except AudioError as error:
        failed = error
    finally:  # whatever ends it: events that were opened are closed
        state.events(stream.close())
        if recorder is not None:
            recorder.close()
    last = state.ended(getattr(blocks, "held_s", 0.0), "" if failed is None else str(failed))
    tell(last)
    if failed is not None:
        raise failed
    return last


class _State:
    """What is counted, and how it is told."""

    def __init__(
        self, stream: Stream, tell: Callable[[Message], None], began: datetime, recorder: Recorder | None
    ) -> None:
        self._stream, self._tell, self._began, self._recorder = stream, tell, began, recorder
        self._closed = self._gaps = 0
        self._lost = 0.0

    def clock(self, seconds: float) -> str:
        return (self._began + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")

    def events(self, told: list[StreamEvent]) -> None:
        for each in told:
            message = {"type": "event", **each.to_dict(), "onset_time": self.clock(each.event.onset_s)}
            if self._recorder is not None:
                message |= self._recorder.event(each, self._began + timedelta(seconds=each.event.onset_s))
            self._closed += each.state == "closed"
            self._tell(message)

    def gap(self, block: Block) -> None:
        lost = block.lost_s or 0.0
        self.events(self._stream.gap(lost))
        at = self._stream.position_s - lost
        self._gaps, self._lost = self._gaps + 1, self._lost + lost
        if self._recorder is not None:
            self._recorder.gap(lost)
        self._tell({"type": "gap", "at_s": at, "lost_s": lost, "reason": block.reason})

    def ended(self, unheard: float, error: str) -> Message:
        position = self._stream.position_s
        counts = {"events": self._closed, "gaps": self._gaps, "lost_s": self._lost, "unheard_s": unheard}
        return {"type": "ended", "time": self.clock(position), "position_s": position, **counts, "error": error}
