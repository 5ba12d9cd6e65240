"""The page of a fit in a browser: quiet at both widths, players play, and decisions become the CSV that a fit reads."""

from pathlib import Path

import pytest

from browser import CHROMIUM, Page
from psla.tagging.fit_page import write_fit_page
from test_fit import home, toys  # noqa: F401
from test_fit_more import odd  # noqa: F401

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on this machine"),
    pytest.mark.usefixtures("one_thread"),
]

PLAYED = """new Promise(done => { const audio = document.querySelector('audio'); audio.muted = true;
audio.addEventListener('timeupdate', () => { if (audio.currentTime > 0) done(audio.currentTime); });
audio.addEventListener('error', () => done(-1)); audio.play().catch(() => done(-2)); })"""
DECIDED = """(() => { const field = document.querySelector("input.decision[data-clip='copy']"); field.value = 'a, "b"';
field.dispatchEvent(new Event('input', {bubbles: true}));
let made = ''; HTMLAnchorElement.prototype.click = function () { made = decodeURIComponent(this.href); };
document.querySelector('form.decisions button').click(); return made; })()"""


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works(odd: tuple, tmp_path: Path, width: int) -> None:  # noqa: F811
    """At the width of a telephone and of a desk: nothing is asked for, nothing complains or hangs over the edge, the
    first player plays, and a decision is in the CSV as it was typed."""
    path = tmp_path / "fit.html"
    write_fit_page(path, odd[1])
    with Page(path, width) as shown:
        assert [each for each in shown.requests if not each.startswith("data:")] == [path.resolve().as_uri()]
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        at = {"x": 5, "y": 5, "button": "left", "clickCount": 1}  # nothing plays before a person has touched the page
        shown.call("Input.dispatchMouseEvent", type="mousePressed", buttons=1, **at)
        shown.call("Input.dispatchMouseEvent", type="mouseReleased", **at)
        assert shown.evaluate(PLAYED) > 0
        assert shown.evaluate(DECIDED).split(",", 1)[1] == 'clip_id,decision\ncopy,"a, ""b"""\n'
        assert shown.evaluate("document.querySelector('form.decisions output').textContent") == "1 decisions"
        assert shown.complaints == []
        shown.screenshot(path.with_name(f"{width}.png"))
