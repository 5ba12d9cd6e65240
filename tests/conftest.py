"""What all tests share: hypothesis draws the same examples every time, so that a green run stays green; a time box;
a thread for each of several test processes, and for what is too small for more."""

import os
import signal
import time
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: processes that share the cores only wait for each other with more threads.
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

for _name in ("SIGINT", "SIGHUP"):
    # Whoever starts the tests by nohup or in the background ignores these; the programs that they start would, too.
    if (_number := getattr(signal, _name, None)) is not None and signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _name == "SIGINT" else signal.SIG_DFL)

settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")

_BEGAN = time.monotonic()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing by threads; on busy cores, waiting for a second one takes many times the work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--begin-within MINUTES`: tests that would begin later are skipped, and say so."""
    parser.addoption("--begin-within", type=float, default=None, help="minutes in which tests may begin")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Holds the tests to the time box."""
    minutes = item.config.getoption("--begin-within")
    if minutes is not None and time.monotonic() - _BEGAN > 60 * minutes:
        pytest.skip(f"the time box of {minutes:g} minutes is used up")
