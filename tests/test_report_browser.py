"""The reports in a browser: no network, no complaint, tables that sort and filter, and words that can be read."""

from pathlib import Path

import pytest

from browser import CHROMIUM, Page
from lab_fixture import write_lab
from pictures import check_drawn
from psla.lab.tables.report import write_report
from psla.report.page import Table, page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not on this machine"),
]

COLUMN = (
    "Array.from(document.querySelectorAll('table.sortable tbody tr:not([hidden])')).map(r => r.cells[{}].innerText)"
)
CLICK = "document.querySelectorAll('table.sortable th')[{}].querySelector('button').click()"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a lab made by hand."""
    return write_report(write_lab(tmp_path_factory.mktemp("labs") / "lab"), resamples=50)[0]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_quiet_and_fits(report: Path, width: int) -> None:
    """At the width of a telephone and of a desk: nothing is asked for, nothing complains, nothing hangs over the edge,
    and the words in the pictures are at least 9 pixels high."""
    with Page(report, width) as shown:
        assert [each for each in shown.requests if not each.startswith("data:")] == [report.resolve().as_uri()]
        assert shown.complaints == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        if width > 1000:  # on a desk no table is moved sideways to be read
            moved = "Array.from(document.querySelectorAll('.scroll')).filter(e => e.scrollWidth > e.clientWidth + 1)"
            assert shown.evaluate(f"{moved}.map(e => e.textContent.slice(0, 60))") == []
        widths = shown.evaluate("Array.from(document.images).map(i => i.clientWidth / i.naturalWidth)")
        assert len(widths) >= 6
        # 9.5 points of a picture with 200 dots an inch are 26 of its pixels.
        assert min(widths) * 26 >= 9
        shown.screenshot(report.with_name(f"{width}.png"))
        check_drawn(report.with_name(f"{width}.png"), width - 20)  # without the scroll bar


def test_tables_sort_and_filter(tmp_path: Path) -> None:
    """A click sorts, another turns it round; numbers as numbers, what is none last both ways; words filter."""
    rows = [["dog", "9", "0.5 ± 0.1"], ["Cat", "1,200", "-"], ["rain", "70", "-0.25"], ["ape <b>", "8", "+0.125"]]
    path = tmp_path / "page.html"
    path.write_text(page("Classes", [Table(["class", "clips", "gain"], rows, sortable=True)]), encoding="utf-8")
    with Page(path, 800) as shown:
        assert shown.evaluate(COLUMN.format(0)) == ["dog", "Cat", "rain", "ape <b>"]
        expected = [
            (1, ["Cat", "rain", "dog", "ape <b>"], "descending"),
            (1, ["ape <b>", "dog", "rain", "Cat"], "ascending"),
            (2, ["dog", "ape <b>", "rain", "Cat"], "descending"),
            (2, ["rain", "ape <b>", "dog", "Cat"], "ascending"),
            (0, ["ape <b>", "Cat", "dog", "rain"], "ascending"),
        ]
        for column, order, said in expected:
            shown.evaluate(CLICK.format(column))
            assert shown.evaluate(COLUMN.format(0)) == order
            assert shown.evaluate(f"document.querySelectorAll('th')[{column}].getAttribute('aria-sort')") == said
        typed = "const f = document.querySelector('input'); f.value = '{}'; f.dispatchEvent(new Event('input'))"
        shown.evaluate(f"{{ {typed.format('CA')} }}")
        assert shown.evaluate(COLUMN.format(0)) == ["Cat"]
        assert shown.evaluate("document.querySelector('output').textContent") == "1 of 4 rows"
        shown.evaluate(f"{{ {typed.format('')} }}")
        assert len(shown.evaluate(COLUMN.format(0))) == 4
        assert shown.complaints == []


def test_the_policy_stops_other_scripts(tmp_path: Path) -> None:
    """Whatever else gets onto such a page neither runs nor loads anything."""
    text = page("Classes", [Table(["class"], [["dog"]], sortable=True)])
    evil = '<script>document.title = "taken"</script><img src="missing.png" onerror="document.title = \'taken\'">'
    (tmp_path / "page.html").write_text(text.replace("</main>", f"{evil}</main>"), encoding="utf-8")
    with Page(tmp_path / "page.html", 800) as shown:
        assert shown.evaluate("document.title") == "Classes"
        assert shown.evaluate("document.querySelectorAll('th button').length") == 1
        assert any("Content Security Policy" in str(each) for each in shown.complaints)
