"""How much a service takes on: sizes, seconds and numbers, each with what is answered beyond it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """What one service takes on; each is above 0.

    Args:
        body_bytes: of one request's body; beyond: 413.
        held_bytes: of all bodies that are held at one time; beyond: 503.
        duration_s: seconds of one recording; beyond: 413.
        per_client: requests of one address in flight at one time; beyond: 429.
        in_flight: requests in all that were let in and not answered; beyond: 503.
        at_work: of them, so many are decoded and tagged at one time; the others wait for their turn.
        streams: WebSockets at one time; beyond: closed with 1013, try again later.
        connections: sockets at one time; beyond: closed at once.
        workers: processes that decode.
        worker_bytes: what each of them may allocate, 128 MiB or more.
        head_s: seconds in which a request's head must have come; beyond: closed.
        idle_s: seconds without a byte of a body, or in which nobody takes an answer's bytes; beyond: 408, or closed.
        body_s: seconds in which a body must have come; beyond: 408.
        decode_s: seconds that decoding one recording may take; beyond: 422.
        drain_s: seconds that requests in flight are given when the service is told to stop.

    Raises:
        ValueError: a value that is not above 0.

    Example:
        >>> Limits(duration_s=60).duration_s
        60
    """

    body_bytes: int = 64 << 20
    held_bytes: int = 512 << 20
    duration_s: float = 600.0
    per_client: int = 64
    in_flight: int = 128
    at_work: int = 16
    streams: int = 8
    connections: int = 512
    workers: int = 2
    worker_bytes: int = 1 << 30
    head_s: float = 10.0
    idle_s: float = 20.0
    body_s: float = 300.0
    decode_s: float = 60.0
    drain_s: float = 60.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise ValueError(f"the service's {each.name} must be above 0, not {getattr(self, each.name)}")
