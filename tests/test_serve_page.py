"""The page of the service in a browser: what a user does there, and what must not happen to him."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from browser import CHROMIUM, Page
from pictures import check_drawn
from psla.data.annotations import FORMATS
from psla.data.vocabulary import Vocabulary
from psla.model.file import Model, ModelCard
from psla.serve.limits import Limits
from psla.tagging.events import EventRule, find_events
from psla.tagging.output import annotated, csv_lines
from psla.tagging.result import TagResult
from psla.tagging.tagger import Tagger
from serving import served
from tagging_models import CLASSES, noise, tiny_model

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on this machine"),
    pytest.mark.usefixtures("one_thread"),
]

FAKE = (
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)
EVIL = '<img src=x onerror="document.title=1">'
SLIDE = (
    "{{ const s = document.querySelector('{}'); s.value = {}; s.dispatchEvent(new Event('input', {{bubbles: true}})) }}"
)
LIST = "Array.from(document.querySelectorAll('.events li')).map(e => e.innerText.replace(/\\s+/g, ' ').trim())"
FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    """Classes of AudioSet, of which one has a hostile name."""
    made = tiny_model(mel_bins=32)
    vocabulary = Vocabulary(CLASSES.ids, ["Animal", f'Rain, {EVIL}\tand\n"more"', "Dog"])
    return Tagger(Model(made.network, vocabulary, ModelCard(thresholds={CLASSES.ids[2]: 0.55})))


@pytest.fixture(scope="module")
def server(tagger: Tagger) -> Iterator[Any]:
    with served(tagger, Limits(body_bytes=1 << 20), name=EVIL) as made:
        yield made


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose name is hostile as far as file systems allow."""
    path = tmp_path_factory.mktemp("page") / f'{EVIL}, "a" & b.wav'.replace("/", "")
    loud = np.where((np.arange(96000) // 16000) % 2, 1.0, 0.1)
    soundfile.write(path, (noise(96000, 3) * loud).astype(np.int16), 16000)
    return path


def upload(page: Page, *paths: Path) -> None:
    found = page.call("Runtime.evaluate", expression="document.querySelector('#files')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=found)


def until(page: Page, expression: str) -> Any:
    end = time.monotonic() + 60
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < end, expression
        time.sleep(0.05)
    return value


def quiet(page: Page, server: Any) -> None:
    """No complaint, and no request to anywhere else."""
    assert page.complaints == []
    own = (f"{server.address}/", "data:", f"blob:{server.address}/")
    assert [each for each in page.requests if not each.startswith(own)] == []


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False), (390, False), (1280, True)])
def test_a_recording_is_shown(server: Any, file: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """On a telephone and a desk, light and dark: pictures, curves, events; names are text, whatever they hold."""
    with Page(f"{server.address}/", width) as page:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=scheme)
        upload(page, file)
        until(page, "document.querySelectorAll('.recording .curve').length == 3")
        assert page.evaluate("document.querySelector('.recording h2').textContent") == file.name
        assert EVIL in page.evaluate("document.querySelector('#model').textContent")
        assert EVIL in page.evaluate("document.querySelector('.recording').textContent")
        assert page.evaluate("document.title") == "What sounds here?"
        assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
        assert page.evaluate("document.querySelector('.mel img').naturalWidth") > 100
        assert page.evaluate("document.querySelector('.wave path').getBoundingClientRect().height") > 20
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        heights = "Array.from(document.querySelectorAll('button, .button')).map(b => b.offsetHeight).filter(h => h)"
        assert min(page.evaluate(heights)) >= 31  # large enough for a finger
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(json.loads(f"[{ground[4:-1]}]")) < 200) == dark
        page.screenshot(tmp_path / "page.png")
        check_drawn(tmp_path / "page.png", width - 20)
        quiet(page, server)


@pytest.mark.parametrize("threshold", [0.31, 0.47, 0.55])
def test_events_are_those_of_python(server: Any, tagger: Tagger, file: Path, threshold: float, tmp_path: Path) -> None:
    """Law: what the page finds at a threshold, and what it saves, is what `psla tag` finds and writes."""
    result = tagger.tag(file)
    with Page(f"{server.address}/", 1000) as page:
        page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        upload(page, file)
        until(page, "document.querySelectorAll('.recording').length")
        page.evaluate(SLIDE.format("#threshold", threshold))
        page.evaluate(FRAME)
        rules = {CLASSES.ids[2]: EventRule(0.55)}  # the model's own
        events = [each.to_dict() for each in find_events(result, EventRule(threshold, classes=rules))]
        assert events
        saved = {}
        for number, suffix in enumerate(("csv", "json", "txt")):
            page.evaluate(f"document.querySelectorAll('.save button')[{number}].click()")
            saved[suffix] = downloaded(tmp_path, suffix)
        [row] = json.loads(saved["json"])
        assert [{**each, "mean_probability": 0} for each in row["events"]] == [
            {**each, "mean_probability": 0} for each in events
        ]
        for each, other in zip(row["events"], events, strict=True):
            assert math.isclose(each["mean_probability"], other["mean_probability"], abs_tol=1e-9)
        own = {**row, "events": events}
        assert saved["csv"].splitlines()[0] == "".join(csv_lines([own], True)).splitlines()[0]
        read = list(csv.DictReader(io.StringIO(saved["csv"])))
        assert [each["name"] for each in read] == [each["name"] for each in events]
        assert [(float(e["onset_s"]), float(e["probability"])) for e in read] == [
            (e["onset_s"], e["probability"]) for e in events
        ]
        shown = page.evaluate(LIST)
        assert len(shown) == len(events)
        labels = [line.split("\t") for line in saved["txt"].splitlines()]
        track = FORMATS["audacity"].write([annotated({"events": events[:1]})], "")
        wanted = [line.split("\t", 2) for line in track.splitlines()[:1]]
        assert labels[0][:2] == wanted[0][:2]
        assert all(len(each) == 3 for each in labels)
        quiet(page, server)


def downloaded(folder: Path, suffix: str) -> str:
    end = time.monotonic() + 30
    while not (found := [*folder.glob(f"*.{suffix}")]):
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.1)
    return found[0].read_text(encoding="utf-8")


def test_the_rule_in_the_page_is_the_rule_here(server: Any) -> None:
    """Law: for random steps with holes, and any rule, the page's `findEvents` gives what `find_events` gives."""
    rng = np.random.default_rng(0)
    with Page(f"{server.address}/", 800) as page:
        for number in range(40):
            steps = int(rng.integers(1, 60))
            frames = (rng.random((steps, 1)) ** rng.integers(1, 4)).astype(np.float32)
            begins = np.arange(steps) * 0.32 + np.cumsum(rng.random(steps) < 0.1)
            times = np.stack([begins, begins + 0.32], 1)
            threshold, release = (round(float(each), 2) for each in rng.uniform(0.1, 1, 2))
            gap = None if number % 2 else round(float(rng.uniform(0, 1)), 2)
            rule = EventRule(threshold, release, gap, 0.4 * (number % 3))
            result = TagResult(Vocabulary(["a"]), frames[0], frames, times, duration_s=float(times[-1, 1]), windows=1)
            asked = {"release": release, "maxGap": gap, "minLength": rule.min_length_s}
            words = ", ".join(json.dumps(each) for each in (times.tolist(), frames[:, 0].tolist(), threshold, asked))
            call = f"(({{findEvents}}, t, v, level, rule) => findEvents(t, i => v[i], level, rule))(m, {words})"
            found = page.evaluate(f"import('/page/events.js').then(m => {call})")
            wanted = find_events(result, rule)
            assert [each[:3] for each in found] == [[e.onset_s, e.offset_s, e.probability] for e in wanted]
            assert np.allclose([each[3] for each in found], [e.mean_probability for e in wanted], atol=1e-9, rtol=0)


def test_events_seek_and_keys_move(server: Any, tagger: Tagger, file: Path) -> None:
    """An event's button, the arrow keys, Home and End move the player; what a reader of screens hears moves along."""
    with Page(f"{server.address}/", 1000) as page:
        upload(page, file)
        until(page, "document.querySelectorAll('.recording').length")
        levels = [round(0.01 * i, 2) for i in range(20, 90)]
        result = tagger.tag(file)
        page.evaluate(
            SLIDE.format("#threshold", next(p for p in levels if find_events(result, EventRule(p))[-1].onset_s))
        )
        page.evaluate(FRAME)
        until(page, "document.querySelector('audio').readyState > 0")
        page.evaluate("{ const b = document.querySelectorAll('.events button'); b[b.length - 1].click() }")
        at = page.evaluate("Number(Array.from(document.querySelectorAll('.events button')).at(-1).dataset.at)")
        assert math.isclose(until(page, "document.querySelector('audio').currentTime"), at, abs_tol=0.01)
        now = "Number(document.querySelector('[role=slider]').getAttribute('aria-valuenow'))"
        page.evaluate("document.querySelector('[role=slider]').focus()")
        for key, wanted in (("Home", 0.0), ("ArrowRight", 0.3), ("ArrowRight", 0.6), ("ArrowLeft", 0.3), ("End", 6.0)):
            for kind in ("rawKeyDown", "keyUp"):
                page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)
            assert math.isclose(page.evaluate(now), wanted, abs_tol=0.011), key
        assert page.evaluate("document.querySelector('[role=slider]').getAttribute('aria-valuetext')") == "0:06.0"
        said = page.evaluate("document.querySelector('#said').textContent")
        assert "event" in said
        unnamed = (
            "Array.from(document.querySelectorAll('button, input, audio, [role=slider]')).filter(e => "
            "!(e.ariaLabel || e.getAttribute('aria-label') || e.labels?.length || e.innerText)).length"
        )
        assert page.evaluate(unnamed) == 0
        quiet(page, server)


def test_a_class_is_found_by_what_it_is_a_kind_of(server: Any, file: Path) -> None:
    """Typing `animal` lists what is called so and its kinds; a chosen class is followed, and its slider is its own."""
    with Page(f"{server.address}/", 1000) as page:
        upload(page, file)
        until(page, "document.querySelectorAll('.recording').length")
        type_ = "{{ const s = document.querySelector('#search'); s.value = '{}'; s.dispatchEvent(new Event('input')) }}"
        found = "Array.from(document.querySelectorAll('#found button')).map(b => b.childNodes[0].textContent)"
        page.evaluate(type_.format("aNIM"))
        assert page.evaluate(found) == ["Animal", "Dog"]
        page.evaluate("document.querySelectorAll('#found button')[1].click()")
        page.evaluate(FRAME)
        assert page.evaluate("document.querySelector('.curve .name span').textContent") == "Dog"
        assert page.evaluate("document.querySelector('#found button').getAttribute('aria-pressed')") == "true"
        assert page.evaluate("document.activeElement.dataset.id") == CLASSES.ids[2]
        before = page.evaluate(LIST)
        page.evaluate(SLIDE.format(".curve input", 1))
        page.evaluate(FRAME)
        after = page.evaluate(LIST)
        assert [each for each in before if "Dog" in each]
        assert not [each for each in after if "Dog" in each]
        assert [each for each in after if "Dog" not in each] == [each for each in before if "Dog" not in each]
        quiet(page, server)


def test_the_microphone_is_recorded(server: Any) -> None:
    """Record, and stop: the browser's own file is tagged, shown and can be sought in."""
    with Page(f"{server.address}/", 1000, flags=FAKE) as page:
        page.evaluate("document.querySelector('#record').click()")
        until(page, "document.querySelector('#record').getAttribute('aria-pressed') == 'true'")
        page.evaluate("new Promise(done => setTimeout(done, 2500))")
        page.evaluate("document.querySelector('#record').click()")
        until(page, "document.querySelectorAll('.recording .curve').length")
        assert page.evaluate("document.querySelector('.recording h2').textContent").startswith("recording ")
        seconds = until(page, "document.querySelector('audio').duration")
        assert 1.5 < seconds < 20
        page.evaluate("document.querySelector('[role=slider]').focus()")
        for kind in ("rawKeyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")
        assert until(page, "document.querySelector('audio').currentTime") > 0.05
        assert page.evaluate("document.querySelector('.recording p.soft').textContent").startswith(f"{int(seconds)}.")
        quiet(page, server)


def test_what_cannot_be_tagged_says_why(server: Any, tmp_path: Path) -> None:
    """A file that is no sound, one that is too large, and one more after them: each has its sentence, as text."""
    broken, large, good = (tmp_path / name for name in (f"{EVIL}.txt".replace("/", ""), "large.wav", "good.wav"))
    broken.write_text("no sound")
    large.write_bytes(bytes((1 << 20) + 1))
    soundfile.write(good, noise(20000), 16000)
    with Page(f"{server.address}/", 800) as page:
        upload(page, broken, large, good)
        until(page, "document.querySelectorAll('.recording').length")
        said = page.evaluate("Array.from(document.querySelectorAll('.trouble')).map(e => e.textContent)")
        assert [each for each in said if "not audio" in each and EVIL.replace("/", "") in each]
        assert [each for each in said if each.startswith("large.wav") and "1.0 MiB" in each]
        mine = [each for each in page.complaints if "422" not in json.dumps(each)]  # browsers say so of any such answer
        assert mine == []


def test_a_token_is_asked_for_by_the_page(tagger: Tagger, file: Path) -> None:
    """A service with a token: the page asks for it, and sends it."""
    with served(tagger, token="s3cret") as server, Page(f"{server.address}/", 800) as page:
        until(page, "!document.querySelector('#token').hidden")
        page.evaluate("document.querySelector('#token-text').value = 's3cret'")
        page.evaluate("document.querySelector('#token button').click()")
        until(page, "document.querySelector('#token').hidden")
        upload(page, file)
        until(page, "document.querySelectorAll('.recording').length")


def test_the_policy_stops_other_scripts(server: Any) -> None:
    """Law: what else gets onto the page neither runs nor asks for anything."""
    with Page(f"{server.address}/", 800) as page:
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=\"https://elsewhere.example/x.png\" "
            'onerror="document.title = 1"><style>body{display:none}</style>\')'
        )
        page.evaluate("new Promise(done => setTimeout(done, 300))")
        assert page.evaluate("document.title") == "What sounds here?"
        assert page.evaluate("getComputedStyle(document.body).display") == "block"
        assert "Content Security Policy" in json.dumps(page.complaints)
