"""The documentation's site: it builds without a warning, its links lead somewhere, and a browser can read it."""

from __future__ import annotations

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest

from browser import CHROMIUM, Page

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *given: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    """Law: each relative link, picture and script of each built page names a file of the site, and a heading of it."""
    anchors = {
        page: set(re.findall(r'\bid="([^"]*)"', page.read_text(encoding="utf-8"))) for page in site.rglob("*.html")
    }
    broken = []
    for page in anchors:
        here = "/" + page.relative_to(site).as_posix()
        # The page of an unknown address names what it needs from the root of wherever the site is put.
        links = re.findall(r'\b(?:href|src)="([^"]*)"', page.read_text(encoding="utf-8"))
        for link in links if page.name != "404.html" else ():
            whole = urlparse(urljoin("http://site" + here, link))
            if whole.netloc != "site" or whole.scheme not in ("http", ""):
                continue
            target = site / unquote(whole.path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (target in anchors and whole.fragment not in anchors[target] | {""}):
                broken.append(f"{here}: {link}")
    assert not broken


def test_every_room_and_every_public_name_has_its_place(site: Path) -> None:
    """Law: a page a room of the house, and a heading in the reference for each public name."""
    import psla

    rooms = {path.parent.name for path in (ROOT / "src" / "psla").glob("*/__init__.py")}
    assert {path.name for path in (site / "house").iterdir()} == rooms
    reference = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert [name for name in psla._NAMES if f'id="psla.{name}"' not in reference and f'.{name}"' not in reference] == []


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["", "start/", "tagging/", "house/model/", "reference/", "lab/", "measured/"])
def test_pages_open(address: str, name: str, width: int) -> None:
    """Law: no message in the console, no request to elsewhere, and no page wider than the window."""
    with Page(address + name, width) as page:
        assert page.complaints == []
        assert {urlparse(each).netloc for each in page.requests if each.startswith("http")} == {
            urlparse(address).netloc
        }
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_search_finds(address: str) -> None:
    """Law: a word of a page, typed into the search, is answered with that page."""
    with Page(address, 1280) as page:
        page.evaluate(
            "new Promise(done => { const box = document.querySelector('.md-search__input'); box.focus();"
            "box.value = 'WiSE-FT'; box.dispatchEvent(new Event('keyup', {bubbles: true}));"
            "box.dispatchEvent(new Event('input', {bubbles: true})); setTimeout(done, 3000); })"
        )
        found = page.evaluate(
            "[...document.querySelectorAll('.md-search-result__link')].map(each => each.getAttribute('href')).join(' ')"
        )
        assert "ensembles" in found
