"""The report of a lab: one self-contained page, the same as Markdown, and the verdicts as JSON.

Verdicts first, then the paper's tables beside the measured ones, the figures, the classes, and where every number
comes from. Everything is computed from the prediction files; where a result file says otherwise, the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from psla.files import write_json_atomic, write_text_atomic
from psla.lab.tables.claims import CITATION, Claim, load_claims, read_quality
from psla.lab.tables.folder import Measured, RowResult
from psla.lab.tables.power import Looks, as_looked
from psla.lab.tables.report_figures import figures
from psla.lab.tables.report_tables import Tables, class_scores, class_table, correlations
from psla.lab.tables.verdicts import (
    CONTRADICTED,
    NOT_RESOLVED,
    NOT_TESTED,
    RESAMPLES,
    SUPPORTED,
    Scoring,
    Verdict,
    judge,
)
from psla.report import page
from psla.report.page import Badge, Columns, Folded, Gallery, Heading, Numbers, Part, Table, Text

SINGLE = ("averaged", "labels_12", "labels_1", "mixup", "plain_mixup", "masking", "plain_masking", "pretraining")
BADGES = {SUPPORTED: "good", CONTRADICTED: "bad", NOT_RESOLVED: "plain", NOT_TESTED: "off"}


def write_report(
    folder: str | Path,
    quality: str | Path | None = None,
    claims: Sequence[Claim] | None = None,
    resamples: int = RESAMPLES,
    title: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Path]:
    """Write report.html, report.md and verdicts.json into a lab's folder and return their paths.

    Args:
        folder: of the lab.
        quality: a CSV of the classes' annotation quality; see `read_quality`.
        claims: what to judge; the paper's by default.
        resamples: draws of clips.
        title: of the page; by default it names the corpus, and mixtures of recordings are soundscapes, too.
        progress: told 1 for each row that has been scored.

    Raises:
        FileNotFoundError: no lab in the folder.
        LabError, QualityError, PredictionsError, ComparisonError: files that cannot be read or do not fit together, or
            too few clips.
    """
    lab = Measured(folder)
    qualities = {} if quality is None else read_quality(quality, lab.labels.vocabulary)
    scores = Scoring(lab, resamples, progress=progress)
    verdicts = judge(load_claims() if claims is None else claims, scores)
    if (looks := lab.folder / "looks.json").is_file():
        verdicts = as_looked(verdicts, Looks.read(looks).claims)
    parts = report_parts(lab, scores, verdicts, qualities)
    title = title or f"PSLA on {lab.info.clips.name or 'clips'}"
    paths = [lab.folder / name for name in ("report.html", "report.md", "verdicts.json")]
    page.write_page(paths[0], title, parts, CITATION)
    write_text_atomic(paths[1], page.markdown(title, parts, CITATION))
    data = {"version": 1, "resamples": resamples, "verdicts": [verdict.to_dict() for verdict in verdicts]}
    write_json_atomic(paths[2], data)
    return paths


def report_parts(
    lab: Measured, scores: Scoring, verdicts: Sequence[Verdict], quality: Mapping[str, float]
) -> list[Part]:
    """The parts of the page."""
    best = lab.first_done((*SINGLE, "baseline", *lab.rows))
    classes = None if best is None else class_scores(lab, best)
    baseline = lab.first_done([name for name in ("baseline", "pretraining") if best is None or name != best.row])
    measured = {} if classes is None else correlations(classes, lab, quality)
    parts = [*_head(lab), *verdict_parts(verdicts), *_disagreements(lab, scores)]
    parts += Tables(lab, scores).parts(measured)
    pictures = figures(lab, classes)
    if pictures:
        parts += [Heading("Figures 3 to 8, from this lab"), Gallery(pictures)]
    if classes is not None:
        compared = None if baseline is None else class_scores(lab, baseline)
        parts += [
            Heading("Class by class"),
            Text(f"Average precision of the row {classes.row.row} ({classes.row.title}), the mean over its seeds."),
            class_table(classes, compared, lab, quality),
        ]
    return [*parts, *_provenance(lab)]


def _head(lab: Measured) -> list[Part]:
    info, clips = lab.info, lab.info.clips
    done = [row for row in lab.rows.values() if row.done]
    pairs = [
        ("training clips", f"{clips.splits.get('train', 0):,}"),
        (f"{info.split} clips", f"{clips.splits.get(info.split, 0):,}"),
        ("classes", str(clips.classes or len(lab.labels.vocabulary))),
        ("seeds", str(len(info.seeds))),
        ("rows", f"{len(done)} of {len(lab.rows) + len(lab.waiting)}"),
        ("hours", f"{_hours(done):.2f}"),
    ]
    changed = ", ".join(f"{key}={value}" for key, value in info.overrides.items()) or "none"
    facts = {
        "corpus": clips.name,
        "scored against": f"{info.truth.replace('_', ' ')} of the split {info.split}",
        "recipe": f"{info.recipe}; changed: {changed}",
        "machine": info.machine,
        "date": info.date,
        "command": info.command,
    }
    return [Numbers(pairs), Table(["", "this lab"], [pair for pair in facts.items() if pair[1]], text=(0, 1))]


def verdict_parts(verdicts: Sequence[Verdict]) -> list[Part]:
    """The verdicts: how many of each kind, the tested ones as a table, the others folded away."""
    tested = [verdict for verdict in verdicts if verdict.difference is not None]
    counts = [(status, str(sum(v.status == status for v in verdicts))) for status in BADGES]
    unit = "sources, each with all of its clips" if tested and tested[0].unit != "clip" else "clips"
    parts: list[Part] = [
        Heading("Does this lab support the paper's claims?"),
        Numbers(counts),
        Text(
            "A difference is in mAP, the mean over pairs of trainings with the same seed; its 95 % interval says what "
            f"other seeds and other {unit} might have given. Seeds are few, so it uses Student's quantiles, and rows "
            "that were trained apart are judged with the luck that all rows of this lab had. The p-value is corrected "
            "after Holm for the number of claims tested; supported or contradicted means below 0.05. A claim that is "
            "not resolved may be true: this lab is too small to tell."
        ),
    ]
    if any(v.difference is not None and v.difference.seeds == 1 for v in tested):
        parts.append(Text("With one pair of models the variance of training is left out of the interval."))
    if tested:
        parts.append(Table.of(tested, TESTED_COLUMNS, text=(0, 1, 6), cards=True))
        caption = (
            "Standard errors of the difference from the luck of seeds and from that of clips; the deviation of one "
            "pair of trainings without what clips do to it; p before the correction."
        )
        variances = Table.of(tested, VARIANCE_COLUMNS, text=(0, 1, 2, 8), caption=caption, cards=True)
        parts.append(Folded("Where the intervals come from: seeds and clips", [variances]))
    missing = [v for v in verdicts if v.difference is None]
    if missing:
        table = Table.of(missing, NOT_TESTED_COLUMNS, text=(0, 1, 2, 3), cards=True)
        parts.append(Folded(f"Not tested: {len(missing)} claims", [table]))
    return parts


def _error(value: float | None) -> str:
    return "left out" if value is None else f"± {value:.4f}"


def _paper(claim: Claim) -> str:
    if not claim.paper:
        return "no number"
    return "; ".join(f"{name}: {worse:.4f} → {better:.4f}" for name, (worse, better) in claim.paper.items())


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


# Of a verdict; where the claim was tested, it has a difference.
TESTED_COLUMNS: Columns = {
    "claim": lambda v: v.claim.text,
    "verdict": lambda v: Badge(v.status, BADGES[v.status]),
    "difference": lambda v: f"{v.difference.value:+.4f}",
    "95 % interval": lambda v: f"[{v.difference.low:+.4f}, {v.difference.high:+.4f}]",
    "measured": lambda v: f"{v.worse:.4f} → {v.better:.4f}",
    "p": lambda v: _p(v.p),
    "paper": lambda v: _paper(v.claim),
}
VARIANCE_COLUMNS: Columns = {
    "claim": lambda v: v.claim.id,
    "where": lambda v: v.claim.where,
    "rows": lambda v: " over ".join(v.claim.rows[:2]),
    "seeds": lambda v: str(v.difference.seeds),
    "from seeds": lambda v: _error(v.difference.seeds_std),
    "from clips": lambda v: _error(v.difference.clips_std),
    "one training": lambda v: _error(v.difference.training_std),
    "p alone": lambda v: _p(v.difference.p),
    "note": lambda v: v.reason or "-",
}
NOT_TESTED_COLUMNS: Columns = {
    "claim": lambda v: v.claim.text,
    "where": lambda v: v.claim.where,
    "paper": lambda v: _paper(v.claim),
    "why not": lambda v: v.reason,
}


def _disagreements(lab: Measured, scores: Scoring) -> list[Part]:
    """Rows whose result file says another mAP than its predictions."""
    parts: list[Part] = []
    for row in lab.rows.values():
        if row.done:
            stored = row.mean.get("mean_average_precision")
            found = float(np.mean([each.exact for each in scores[row.row].by_seed.values()]))
            if stored is None or abs(stored - found) > 1e-6:
                said = "no mAP" if stored is None else f"mAP {stored:.6f}"
                parts.append(Text(f"Row {row.row}: results/{row.row}.json says {said}, its predictions {found:.6f}."))
    return [Heading("Result files that disagree with their predictions"), *parts] if parts else []


# Of a row and one of its seeds.
ORIGIN_COLUMNS: Columns = {
    "row": lambda pair: pair[0].row,
    "title": lambda pair: pair[0].title,
    "scored": lambda pair: (pair[0].take or "-").replace("_", " "),
    "seed": lambda pair: "all" if pair[1].seed is None else str(pair[1].seed),
    "mAP": lambda pair: page.number(pair[1].scores.get("mean_average_precision")),
    "hours": lambda pair: page.number(pair[1].hours, 3),
    "changed": lambda pair: ", ".join(f"{key}={value}" for key, value in pair[0].recipe.items()) or "-",
    "runs": lambda pair: _runs(pair[1].runs),
    "predictions": lambda pair: _files(pair[1].predictions),
    "command": lambda pair: pair[1].command or "-",
}


def _runs(runs: Sequence[str]) -> str:
    return ", ".join(runs[:3]) + (f" … ({len(runs)})" if len(runs) > 3 else "")


def _files(paths: Sequence[str]) -> str:
    folders = list(dict.fromkeys(Path(path).parent.as_posix() for path in paths))
    return f"{len(paths)} in {', '.join(folders[:3])}{' …' if len(folders) > 3 else ''}"


def _provenance(lab: Measured) -> list[Part]:
    results = [(row, each) for row in lab.rows.values() if row.done for each in row.seeds]
    parts: list[Part] = [Heading("Where the numbers come from")]
    origins = Table.of(results, ORIGIN_COLUMNS, text=(0, 1, 2, 6, 7, 8, 9))
    parts.append(Folded(f"{len(results)} results, by row and seed", [origins]))
    missing = [[row.row, row.title, row.reason or row.status] for row in lab.rows.values() if not row.done]
    if missing:
        parts.append(Folded(f"{len(missing)} rows not run", [Table(["row", "title", "why"], missing, text=(0, 1, 2))]))
    return parts


def _hours(rows: Sequence[RowResult]) -> float:
    """Hours of all runs; a run that several rows share counts once."""
    by_run: dict[str, float] = {}
    for row in rows:
        for each in row.seeds:
            if each.hours is not None and len(each.runs) == 1:
                by_run[each.runs[0]] = each.hours
    return sum(by_run.values())
