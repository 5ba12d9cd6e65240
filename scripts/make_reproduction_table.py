"""Make the section on label lists of `docs/reproduction.md`: the paper's counts beside those of the published lists.

    for part in "balanced" "balanced --list unbalanced" "evaluation"; do
        name=${part##* }
        psla corpus audioset LISTS --list $part --out $name.parquet
        psla stats $name.parquet --split all --parent Speech --child "Male speech, man speaking" \\
            --child "Female speech, woman speaking" --child "Child speech, kid speaking" --out stats/$name
    done
    python scripts/make_reproduction_table.py stats/{balanced,unbalanced,evaluation}/stats.json docs/reproduction.md

LISTS is the folder with the lists published at https://research.google.com/audioset/download.html; the folder
`unbalanced` then holds both training lists together, the full set of the paper. The section stands between two marks;
the rest of the document is left as it is.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import date
from pathlib import Path
from typing import Any

from psla.files import write_text_atomic

BEGIN, END = "<!-- label lists: begin -->", "<!-- label lists: end -->"
HEAD = """# Reproduction: paper, ours

What of the paper (Gong, Chung, Glass: PSLA, https://arxiv.org/abs/2102.01243) has been measured again, with the command
that does it.
"""


def share(counts: list[int], whole: int) -> str:
    return f"{100 * sum(counts) / whole:.1f} %"


def speech(stats: dict[str, Any]) -> tuple[int, list[int], int]:
    """Clips with Speech, with each of its three children, and with one of them but not Speech."""
    (audit,) = (each for each in stats["label_errors"] if each["name"] == "Speech")
    return audit["clips"], [child["clips"] for child in audit["children"]], audit["child_without_parent"]


def unseen(stats: dict[str, Any], rate: float, epochs: int) -> str:
    (curve,) = (each for each in stats["coverage"] if each["mixup_rate"] == rate)
    return f"{curve['expected'][epochs - 1]:.4f} expected, {curve['simulated'][epochs - 1]:.4f} simulated"


def rows(balanced: dict[str, Any], full: dict[str, Any], evaluation: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What, the paper's figure, ours."""
    small, large = speech(balanced), speech(full)
    ranked = sorted((each for each in full["classes"] if each["clips"]), key=lambda each: each["clips"])
    music = next(each for each in full["classes"] if each["name"] == "Music")
    return [
        ("clips, balanced (Table I)", "22,176, of which 20,785 downloaded", f"{balanced['clips']:,}"),
        ("clips, balanced and unbalanced", "2,042,985, of which 1,953,082 downloaded", f"{full['clips']:,}"),
        ("clips, evaluation", "20,383, of which 19,185 downloaded", f"{evaluation['clips']:,}"),
        ("labels, balanced", "-", f"{balanced['labels']:,}"),
        ("labels, balanced and unbalanced", "-", f"{full['labels']:,}"),
        ("balanced: Speech (section V)", "5,309", f"{small[0]:,}"),
        ("balanced: male, female, child speech", "55, 55, 128", ", ".join(map(str, small[1]))),
        ("balanced: these by Speech", "4.5 %", share(small[1], small[0])),
        ("balanced: one of these without Speech", "40", f"{small[2]:,}"),
        ("full: Speech", "947,009", f"{large[0]:,}"),
        ("full: male, female, child speech together", "34,878", f"{sum(large[1]):,}"),
        ("full: these by Speech", "3.7 %", share(large[1], large[0])),
        ("full: one of these without Speech", "3,201", f"{large[2]:,}"),
        ("full: Music", "949,029", f"{music['clips']:,}"),
        ("full: rarest class", "Toothbrush, 61", f"{ranked[0]['name']}, {ranked[0]['clips']}"),
        ("full: most frequent by rarest class", "-", f"{full['imbalance']:,.0f}"),
        ("full: unseen after 30 epochs, no mixup (Figure 5)", "0.409", unseen(full, 0.0, 30)),
        ("full: unseen after 5 epochs, mixup rate 0.5", "0.05", unseen(full, 0.5, 5)),
    ]


def section(table: list[tuple[str, str, str]]) -> str:
    lines = [
        "## Label lists",
        "",
        "The paper counts the clips it could download, we count all of the published lists; so ours are a few per cent",
        "more. Balanced sampling draws from the class counts, so its coverage differs a little, too.",
        "",
        "| | paper | ours |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        f"Made on {date.today()} ({processor()}) by",
        "",
        *(f"    {line}".rstrip() for line in commands()),
        "",
        "Expected figures follow from the lists alone; simulated ones are counted in the plans of a run with seed 0.",
    ]
    return "\n".join([BEGIN, *lines, END])


def commands() -> list[str]:
    """The commands at the head of this file."""
    lines = (__doc__ or "").splitlines()
    return [line.removeprefix("    ") for line in lines if line.startswith("    ")]


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return f"{names[0].partition(':')[2].strip() if names else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    balanced, full, evaluation = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:4])
    out = Path(sys.argv[4])
    text = out.read_text(encoding="utf-8") if out.exists() else f"{HEAD}\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        sys.exit(f"{out} has no marks {BEGIN} and {END}: put them where the section shall stand")
    made = section(rows(balanced, full, evaluation))
    write_text_atomic(out, text[: text.index(BEGIN)] + made + text[text.index(END) + len(END) :])


if __name__ == "__main__":
    main()
