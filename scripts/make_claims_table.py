"""Write the table of all claims of the paper into docs/lab/README.md, from the reports of the standing experiments.

    python scripts/make_claims_table.py

The reports (docs/lab/*.md) have a table of the claims that were tested and one of those that were not, and
docs/lab/power.txt is what `psla lab run … --plan --pilot LAB` prints for the first experiment, run anew; nothing is
computed here. Between two comments in the page the table is written anew; a test asks whether it is up to date.
"""

from __future__ import annotations

import re
from pathlib import Path

from psla.lab.tables.claims import load_claims

LAB = Path(__file__).parents[1] / "docs" / "lab"
REPORTS = {
    "(a) synthesised": LAB / "synthesised.md",
    "(b) recorded": LAB / "mixtures.md",
    "(c) transfer": LAB / "transfer.md",
}
POWER = LAB / "power.txt"
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


def takes(printed: str) -> dict[str, str]:
    """By a claim's id what it would take to find the paper's own difference with a chance of 80 %."""
    known = {claim.id for claim in load_claims()}
    rows = [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines()]
    said = {cells[0]: cells[4] for cells in rows if len(cells) == 5 and cells[0] in known}
    words = {"no number": "no number of seeds with 400 clips", "-": "-"}
    return {name: words.get(seeds, f"{seeds} seeds") for name, seeds in said.items()}


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
    needed = takes(POWER.read_text(encoding="utf-8"))
    head = ["claim", "paper", *reports, "verdict here", "for the paper's difference, on (a)"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for claim in load_claims():
        paper = "; ".join(f"{name}: {worse:.4f} → {better:.4f}" for name, (worse, better) in claim.paper.items())
        said = [each[claim.text] for each in reports.values()]
        cells = [claim.text, paper or "no number", *said, verdict(said), needed.get(claim.id, "-")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}\n\n{table()}\n\n{LAST}{after}"


if __name__ == "__main__":
    target = LAB / "README.md"
    target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
