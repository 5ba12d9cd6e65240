"""The description at /openapi.json is true, and nothing that is asked by it makes the service fail: schemathesis.

https://schemathesis.readthedocs.io
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from psla.serve.app import create_app
from psla.serve.limits import Limits
from psla.tagging.tagger import Tagger
from serving import post, served, sound
from tagging_models import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

CHECKS: list[Any] = [
    *(not_a_server_error, status_code_conformance, content_type_conformance),
    *(response_schema_conformance, response_headers_conformance),
]
TAGGER = Tagger(tiny_model(mel_bins=32))
schema = schemathesis.openapi.from_dict(create_app(TAGGER).openapi())
SOUND = sound(0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with served(TAGGER, Limits(duration_s=5.0, body_bytes=100_000)) as made:
        yield made


BOUNDED = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@schema.parametrize()
@BOUNDED
def test_no_question_makes_it_fail(case: schemathesis.Case, server: Any) -> None:
    """Law: whatever is asked, there is an answer below 500, and it is one that the description has."""
    case.call_and_validate(base_url=server.address, checks=CHECKS)


@schema.include(path="/v1/tag").parametrize()
@BOUNDED
def test_no_question_about_a_recording_makes_it_fail(case: schemathesis.Case, server: Any) -> None:
    """The same where the body is a recording, so that all of the way is gone."""
    if case.media_type == "application/octet-stream":
        case.body = schemathesis.python.Binary(SOUND) if hasattr(schemathesis.python, "Binary") else SOUND
    case.call_and_validate(base_url=server.address, checks=CHECKS)


def test_the_examples_are_true(server: Any) -> None:
    """The description has an example of an answer, whose keys are those of an answer."""
    described = schema.raw_schema["paths"]["/v1/tag"]["post"]["responses"]
    example = described["200"]["content"]["application/json"]["example"]
    answer = post(server.address, SOUND, events=True).json()
    assert list(example) == list(answer)
    assert list(example["classes"][0]) == list(answer["classes"][0])
    assert {"401", "408", "413", "422", "429", "503"} <= set(described)
