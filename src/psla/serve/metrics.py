"""What the service counts, in Prometheus' text format.

Source of the format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The numbers of one service, each with its own registry, so that several may live in one process.

    Args:
        gauges: by name, what is asked when somebody looks, and its words.

    Example:
        >>> metrics = Metrics({"psla_in_flight": (lambda: 2, "requests let in and not answered")})
        >>> metrics.windows.inc(8)
        >>> [line for line in metrics.text().decode().splitlines() if line.startswith(("psla_windows_t", "psla_in_f"))]
        ['psla_windows_total 8.0', 'psla_in_flight 2.0']
    """

    def __init__(self, gauges: dict[str, tuple[Callable[[], float], str]]) -> None:
        own = self._registry = CollectorRegistry()
        kinds = ("address", "status")
        self.answers = Counter("psla_answers", "requests answered, by address and status", kinds, registry=own)
        self.accepted = Counter("psla_accepted", "requests for a tagging that were let in", registry=own)
        self.left = Counter("psla_left", "requests whose client left before its answer", registry=own)
        self.sound = Counter("psla_sound_seconds", "seconds of sound that were tagged", registry=own)
        self.windows = Counter("psla_windows", "windows that went through the model", registry=own)
        steps = (1, 2, 4, 8)
        self.batches = Histogram("psla_batch_windows", "windows of a batch", buckets=steps, registry=own)
        seconds = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
        words = "seconds from the head of a request for a tagging to its answer"
        self.seconds = Histogram("psla_answer_seconds", words, buckets=seconds, registry=own)
        for name, (asked, meaning) in gauges.items():
            Gauge(name, meaning, registry=own).set_function(asked)

    def batch(self, windows: int) -> None:
        """A batch of so many windows."""
        self.windows.inc(windows)
        self.batches.observe(windows)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self._registry)
