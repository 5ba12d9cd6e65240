"""Laws of what people read of `psla tag`: screens, pictures and pages say what the rows say, in bounded room."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console
from typer.testing import CliRunner

from browser import CHROMIUM, Page
from pictures import check_drawn
from psla.audio.pool import decode_pool
from psla.cli import app
from psla.cli.tag_view import MOST_FILES, screens
from psla.files import visible
from psla.report.page import page, write_page
from psla.report.view import LANES, View, draw, event_rows, player, time_ticks
from psla.tagging.batch import FileResult
from psla.tagging.output import RowSettings, row_of
from psla.tagging.tagger import Tagger
from psla.tagging.view import COLUMNS, Views, look
from tagging_models import noise, tiny_model, tiny_model_file

pytestmark = pytest.mark.usefixtures("one_thread")

HOSTILE = "<img src=x onerror=document.title=1>$x$ \x1b[2J.wav"
RATE = 16000


def event(onset: float, offset: float, name: str, probability: float = 0.75) -> dict:
    return {"onset_s": onset, "offset_s": offset, "id": name, "name": name, "probability": probability}


def row(**more: object) -> dict:
    classes = [{"id": n, "name": n, "probability": p} for n, p in (("dog", 1.0), ("rain", 0.5), ("a" * 90, 0.0))]
    told = {"path": HOSTILE, "status": "tagged", "duration_s": 10.0, "windows": 1, "flags": ["silent"]}
    return {**told, "classes": classes, **more}


def screen(told: dict, events: bool, width: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    text = "".join(screens([told], events, Console(file=file, width=width, force_terminal=False)))
    text.encode(encoding)
    return text.splitlines()


@pytest.mark.parametrize("width", [40, 61, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_screen_is_as_wide_as_the_terminal(width: int, encoding: str) -> None:
    """Bars are as long as the probabilities are high, no class's line is wider than the terminal or goes on on another,
    an encoding without blocks gets ASCII, and a name does nothing to the terminal."""
    lines = screen(row(), False, width, encoding)
    assert max(map(len, lines)) <= width
    assert "\x1b" not in "".join(lines)
    assert "nothing louder than -60 dBFS" in "".join(lines)
    full = "#" if encoding == "ascii" else "█"
    dog, rain, other = (line for line in lines if re.search(r"\d\.\d{4}$", line))
    assert dog.count(full) >= 8
    assert rain.count(full) in (dog.count(full) // 2, round(dog.count(full) / 2))
    assert other.count(full) == 0


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_timeline_fills_the_cells_of_its_events(encoding: str) -> None:
    """An event fills each cell that it reaches into, at least one; classes beyond twelve are counted."""
    events = [event(0, 5, "dog"), event(7.5, 10, "dog"), event(5, 5.001, "rain")]
    lines = screen(row(events=events), True, 80, encoding)
    full, empty = "#." if encoding == "ascii" else "█·"
    drawn = {line.split()[0]: line.split()[1] for line in lines if empty in line and full in line}
    cells = len(drawn["dog"])
    assert drawn["dog"] == full * (cells // 2) + empty * (cells // 4) + full * (cells - cells // 2 - cells // 4)
    assert drawn["rain"].count(full) == 1
    assert drawn["rain"].index(full) == cells // 2
    assert any(line.startswith("time") and "0 s" in line for line in lines)
    many = screen(row(events=[event(0, 1, f"class {i}") for i in range(LANES + 3)]), True, 80, encoding)
    assert "3 more classes have events" in many
    assert max(map(len, many)) <= 80


def test_classes_that_are_told_keep_their_place_among_the_events() -> None:
    """What is named first is drawn before what merely sounds longer."""
    events = [event(0, 0.5, "told"), *(event(0, 9, f"class {i}") for i in range(LANES))]
    shown, left = event_rows(events, ["told"])
    assert "told" in shown
    assert (len(shown), left) == (LANES, 1)


@pytest.mark.parametrize("seconds", [0.004, 0.3, 7.0, 119.0, 120.0, 3600.0, 90000.0, 1e7])
def test_ticks_are_few_and_inside(seconds: float) -> None:
    """From 0 on, at least one more where there is room, none after the end, words all different."""
    ticks = time_ticks(seconds, 6)
    assert ticks[0][0] == 0
    assert 2 <= len(ticks) <= 6
    assert ticks[-1][0] <= seconds
    assert len({words for _, words in ticks}) == len(ticks)


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_model())


def test_the_log_mel_is_the_front_end_s(tagger: Tagger, tmp_path: Path) -> None:
    """Within one window the picture is what the model's front end gives, frame by frame; each bin has its frequency."""
    wave = noise(9000)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    view = look(tagger, tmp_path / "a.wav")
    expected = tagger.model.network.front_end.log_mel(torch.from_numpy(wave)[None])[0].numpy().T
    assert np.array_equal(view.log_mel[:, : expected.shape[1]], expected)
    assert view.log_mel.shape[1] == 9000 // 160
    assert view.hz is not None
    assert len(view.hz) == len(view.log_mel)


def test_a_long_recording_is_reduced_and_a_tone_keeps_its_place(tagger: Tagger, tmp_path: Path) -> None:
    """At most 2000 columns; a tone of 20 ms stays visible, where it is in time and in frequency."""
    wave = np.zeros(40 * RATE, np.int16)
    wave[30 * RATE : 30 * RATE + 320] = 20000 * np.sin(2 * np.pi * 1000 * np.arange(320) / RATE)
    soundfile.write(tmp_path / "a.wav", wave, RATE)
    view = look(tagger, tmp_path / "a.wav")
    assert view.log_mel.shape[1] == COLUMNS
    band, column = np.unravel_index(view.log_mel.argmax(), view.log_mel.shape)
    assert abs(column / COLUMNS * 40 - 30) < 0.05
    assert view.hz is not None
    assert abs(view.hz[band] - 1000) < 60


def test_what_was_dropped_is_silent(tagger: Tagger, tmp_path: Path) -> None:
    """Of steps that were taken out neither sound nor picture holds anything."""
    soundfile.write(tmp_path / "a.wav", noise(3 * 5120), RATE)
    result = tagger.tag(tmp_path / "a.wav")
    kept = replace(result, times=result.times[[0, 2]], frames=result.frames[[0, 2]], dropped_s=0.32)
    file, settings = FileResult(str(tmp_path / "a.wav"), kept), RowSettings()
    views = Views(tagger, settings)
    views.add(file, row_of(file, settings, {}))
    with decode_pool(1) as pool:
        [(_, view)] = views.made(pool, 60)
    assert isinstance(view, View)
    sound, rate = soundfile.read(io.BytesIO(view.sound), dtype="int16")
    assert (rate, len(sound)) == (RATE, 3 * 5120)
    assert not sound[5120:10240].any()
    assert (sound[:5120] == noise(3 * 5120)[:5120]).all()
    middle = view.log_mel[:, view.log_mel.shape[1] // 2]
    assert middle.max() < view.log_mel.max() - 10


@pytest.mark.parametrize("samples", [1, 100, 4000])
def test_short_recordings_can_be_drawn(tagger: Tagger, tmp_path: Path, samples: int) -> None:
    """One too short for a frame, too, and one of which no class is shown."""
    soundfile.write(tmp_path / "a.wav", noise(samples), RATE)
    draw(look(tagger, tmp_path / "a.wav", RowSettings(top=0)), tmp_path / "a.png")
    check_drawn(tmp_path / "a.png", 1100, 400)


def some_view(**more: object) -> View:
    times = np.stack([np.arange(10.0), np.arange(10.0) + 1], axis=1)
    sound = io.BytesIO()
    soundfile.write(sound, noise(10 * RATE), RATE, format="WAV")
    mel = np.random.default_rng(0).normal(size=(64, 400)).astype(np.float32)
    view = View(
        name=visible(HOSTILE),
        facts=["10.00 s"],
        duration_s=10.0,
        log_mel=mel,
        hz=np.geomspace(50, 8000, 64),
        classes=[("</script><script>document.title=2</script>", 0.75), ("$rain$", 0.5)],
        times=times,
        curves=np.linspace(0, 1, 20, dtype=np.float32).reshape(10, 2),
        events=[event(1.0, 3.5, "<b>dog</b>"), event(4.25, 8.0, "$rain$")],
        sound=sound.getvalue(),
        sound_s=10.0,
    )
    return replace(view, **more)


def test_names_are_text_in_a_page() -> None:
    """Whatever files and classes are called: nothing of it is markup, and the page has no address but its own data."""
    text = page("Sounds", [player(some_view())])
    assert "<img src=x" not in text
    assert "<b>dog" not in text
    assert text.count("<script>") == text.count("</script>") == 1
    assert re.findall(r"(?:src|href)=\"(?!data:)", text) == []
    assert "http" not in re.sub(r"base64,[^\"]*|http-equiv", "", text)


def test_a_page_says_what_it_does_not_play() -> None:
    """A part of a recording, or none of it."""
    assert player(some_view()).notes == []
    assert player(some_view(sound_s=4.0)).notes == [
        "Only its first 0:04 can be played here: this page holds no more sound."
    ]
    assert "<audio" not in page("Sounds", [player(some_view(sound=b"", sound_s=0.0))])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and two sounds."""
    home = tmp_path_factory.mktemp("view")
    tiny_model_file(home, mel_bins=32)
    (home / "sounds").mkdir()
    for number in (0, 1):
        soundfile.write(home / "sounds" / f"{number}.wav", noise(30000, number), RATE)
    return home


def call(home: Path, *args: object, code: int = 0):
    result = CliRunner().invoke(app, ["tag", str(home / "model.safetensors"), *map(str, args)])
    assert result.exit_code == code, result.output
    return result


def test_pictures_and_page_are_written_beside_the_same_output(home: Path) -> None:
    """A picture of each file in the folder, one page; what is printed stays byte for byte."""
    plain = call(home, home / "sounds").stdout
    told = call(home, home / "sounds", "--plot", home / "new" / "pics", "--html", home / "new" / "out.html")
    assert told.stdout == plain
    for number in (0, 1):
        check_drawn(home / "new" / "pics" / f"{number}.wav.png", 1100, 600)
    text = (home / "new" / "out.html").read_text(encoding="utf-8")
    assert text.count("<audio") == 2
    call(home, home / "sounds" / "0.wav", "--plot", home / "one.svg")
    assert "<svg" in (home / "one.svg").read_text(encoding="utf-8")


def test_what_cannot_be_drawn_is_refused_before_work(home: Path) -> None:
    """One picture for several files, another format, too many files for a page, a journal: one sentence each."""
    sounds = home / "sounds"
    assert "give a folder" in call(home, sounds, "--plot", home / "a.png", code=2).stderr
    assert "takes a folder" in call(home, sounds / "0.wav", "--plot", home / "a.gif", code=2).stderr
    many = [home / f"{i}.wav" for i in range(MOST_FILES + 1)]
    assert "at most 20 files, here are 21" in call(home, *many, "--html", home / "a.html", code=2).stderr
    told = call(home, sounds, "--html", home / "a.html", "--journal", home / "j.jsonl", code=2)
    assert "choose one" in told.stderr
    assert not (home / "a.html").exists()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on this machine")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def test_the_page_plays(tmp_path: Path, width: int, scheme: str) -> None:
    """No request, no complaint, nothing over the edge; a click in the middle, an event and the keys move cursor and
    sound; dark where it is asked for."""
    path = tmp_path / "page.html"
    write_page(path, "Sounds", [player(some_view())])
    with Page(path, width) as shown:
        shown.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert [each for each in shown.requests if not each.startswith("data:")] == [path.resolve().as_uri()]
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        assert shown.evaluate("document.title") == "Sounds"
        box = shown.evaluate("(r => [r.left, r.top, r.width])(document.querySelector('.rail').getBoundingClientRect())")
        at = {"x": box[0] + box[2] / 2, "y": box[1] + 40, "button": "left", "clickCount": 1}
        shown.call("Input.dispatchMouseEvent", type="mousePressed", buttons=1, **at)
        shown.call("Input.dispatchMouseEvent", type="mouseReleased", **at)
        sound = "document.querySelector('audio').currentTime"
        assert abs(shown.evaluate(sound) - 5) < 0.1
        assert shown.evaluate("document.activeElement.className") == "time"
        for key, expected in (("ArrowRight", 5.5), ("Home", 0.0)):
            shown.call("Input.dispatchKeyEvent", type="keyDown", key=key)
            assert abs(shown.evaluate(sound) - expected) < 0.1
        shown.evaluate("document.querySelectorAll('.events button')[1].click()")
        assert shown.evaluate(sound) == 4.25
        assert shown.evaluate("document.querySelector('.now').textContent") == "0:04.3"
        assert shown.evaluate("document.querySelector('.time').getAttribute('aria-valuenow')") == "4.25"
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        assert shown.complaints == []
        shown.screenshot(tmp_path / "page.png")
        check_drawn(tmp_path / "page.png", width - 20)
