"""Who is told of events: a command that is run, and a webhook that is posted to."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable

from psla.tagging.live.deliver import Message, Refused

_AGAIN = {408, 425, 429}  # of the answers 4xx those that may be another the next time


def worth_telling(message: Message) -> bool:
    """Events that begin and end, and gaps: what commands, webhooks and brokers are told."""
    return message["type"] == "gap" or (message["type"] == "event" and message["state"] != "continued")


def command(text: str, timeout_s: float = 60.0) -> Callable[[Message], None]:
    """Runs a command for each message: JSON on its standard input, the main fields in its environment.

    The words are taken as they are, without a shell. PSLA_TYPE, PSLA_STATE, PSLA_NUMBER, PSLA_ID, PSLA_NAME,
    PSLA_PROBABILITY, PSLA_ONSET_S, PSLA_OFFSET_S, PSLA_ONSET_TIME, PSLA_RECORDING and so on: a variable a field.

    Raises:
        ValueError: no command, or quotes that do not end; later `Refused`, where it fails or takes too long.
    """
    words = shlex.split(text)
    if not words:
        raise ValueError("the command to run is empty")

    def run(message: Message) -> None:
        fields = {f"PSLA_{key.upper()}": str(value).replace("\0", "") for key, value in message.items()}
        try:
            done = subprocess.run(
                words,
                input=json.dumps(message).encode(),
                env={**os.environ, **fields},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(f"it did not end within {timeout_s:g} s") from error
        except OSError as error:
            raise Refused(f"it cannot be run: {error}") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise Refused(f"it ended with code {done.returncode}{': ' if said else ''}{''.join(said)[:200]}")

    return run


def webhook(address: str, timeout_s: float = 10.0) -> Callable[[Message], None]:
    """Posts each message as JSON.

    Raises:
        ValueError: an address that is not http or https; later OSError, and `Refused` where it is not taken.
    """
    if not address.startswith(("http://", "https://")):
        raise ValueError(f"a webhook is an http or https address, not {address!r}")

    def post(message: Message) -> None:
        body, head = json.dumps(message).encode(), {"Content-Type": "application/json", "User-Agent": "psla"}
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, head), timeout=timeout_s):
                pass
        except urllib.error.HTTPError as error:
            with error:
                if 400 <= error.code < 500 and error.code not in _AGAIN:
                    raise Refused(f"it answers {error.code} {error.reason}") from error
                raise OSError(f"it answers {error.code} {error.reason}") from error

    return post
