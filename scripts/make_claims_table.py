"""Write the table of all claims of the paper into docs/lab/README.md, from the reports of the standing experiments.

    python scripts/make_claims_table.py

The reports (docs/lab/*.md) have a table of the claims that were tested and one of those that were not; nothing is
computed here. Between two comments in the page the table is written anew; a test asks whether it is up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from psla.lab.tables.claims import load_claims

LAB = Path(__file__).parents[1] / "docs" / "lab"
REPORTS = {"(a) synthesised": LAB / "soundscape.md", "(b) recorded": LAB / "recorded.md"}
FIRST, LAST = "<!-- claims: made by scripts/make_claims_table.py -->", "<!-- end of claims -->"


def found(report: Path) -> dict[str, str]:
    """By a claim's words what a report says of it: the verdict with its difference, or why it was not tested."""
    said = {}
    for line in report.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 7 and cells[1] in ("supported", "contradicted", "not resolved"):
            said[cells[0]] = f"{cells[1]}, {cells[2]}"
        elif len(cells) == 4 and cells[3].startswith("row "):
            said[cells[0]] = "untested"
    return said


def verdict(all_said: list[str]) -> str:
    """One word for all experiments: what those that resolved the claim agree on."""
    words = {each.partition(",")[0] for each in all_said}
    resolved = words & {"supported", "contradicted"}
    if len(resolved) == 1:
        return resolved.pop()
    return "untested" if words == {"untested"} else "not resolved"


def table() -> str:
    """The table, in Markdown."""
    reports = {name: found(path) for name, path in REPORTS.items()}
    lines = [f"| claim | paper | {' | '.join(reports)} | verdict here |", f"|---|---|{'---|' * len(reports)}---|"]
    for claim in load_claims():
        paper = "; ".join(f"{name}: {worse:.4f} → {better:.4f}" for name, (worse, better) in claim.paper.items())
        said = [each[claim.text] for each in reports.values()]
        lines.append(f"| {claim.text} | {paper or 'no number'} | {' | '.join(said)} | {verdict(said)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}\n\n{table()}\n\n{LAST}{after}"


if __name__ == "__main__":
    target = LAB / "README.md"
    target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
