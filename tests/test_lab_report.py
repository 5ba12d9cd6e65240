"""The report of a lab and of a run: its numbers are those of the files, and the page is whole and loads nothing."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from lab_fixture import ROWS, make_clips, write_lab
from psla.cli import app
from psla.data.clips import Clips
from psla.files import write_json_atomic
from psla.lab.experiment import LabError, costs
from psla.lab.run_page import write_run_report
from psla.lab.tables.claims import QualityError, load_claims, paper_tables, read_quality
from psla.lab.tables.folder import Measured, RowResult
from psla.lab.tables.report import write_report
from psla.lab.tables.report_tables import correlation
from psla.metrics.predictions import Predictions
from psla.metrics.scores import score
from psla.training.recipe import Recipe
from psla.training.run import Run, RunError, mean_scores

PAPER = Path(__file__).parents[2] / "shared/paper/results.yaml"
FACTS = Path(__file__).with_name("references") / "facts.json"
VOID = {"meta", "img", "br", "input", "link"}


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects texts, tables and what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value for key, value in attrs if key in ("src", "href", "action", "srcset", "data")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab made by hand, with its report."""
    folder = write_lab(tmp_path_factory.mktemp("labs") / "lab", held_out=100)
    quality = folder / "quality.csv"
    quality.write_text("id,num_rated,num_true\n" + "".join(f"/m/{i},10,{10 - i}\n" for i in range(6)) + "/m/99,10,1\n")
    write_report(folder, quality, resamples=40)
    return folder


def average_precision(lab: Path, row: str, seed: int) -> np.ndarray:
    """(files, classes) by scikit-learn, from the prediction files and the clips."""
    clips = Clips.read(lab / "clips.parquet").split("evaluation")
    truth = clips.labels("true_labels").matrix()
    paths = sorted((lab / f"runs/{row}-{seed}-0123456789ab/predictions/evaluation").iterdir())
    files = [Predictions.read(path).select(clips.clip_ids).probabilities for path in paths]
    return np.array([[average_precision_score(truth[:, c], file[:, c]) for c in range(8)] for file in files])


def table_with(reader: Reader, *cells: str) -> list[list[str]]:
    (found,) = [table for table in reader.tables if set(cells) <= {cell for row in table for cell in row}]
    return found


def test_every_measured_cell_is_that_of_the_files(lab: Path) -> None:
    """Mean and deviation over seeds of each row that was run are those that scikit-learn finds in the files."""
    text = (lab / "report.html").read_text(encoding="utf-8")
    for row in ROWS:
        maps = [average_precision(lab, row, seed).mean(axis=1).mean() for seed in range(3)]
        cell = f"{np.mean(maps):.4f} ± {np.std(maps, ddof=1):.4f} ["
        if row not in ("share_10_none", "share_10_imagenet"):  # those stand in Figure 3
            assert cell in text, row
    table = table_with(read(lab / "report.html"), "no pretraining", "paper, full set")
    found = re.fullmatch(r"([\d.]+) ± ([\d.]+) \[([\d.]+), ([\d.]+)\]", table[2][-1])
    value, _, low, high = map(float, found.groups())
    assert low < value < high
    assert table[1][1:3] == ["0.1570", "0.3723"]


def test_differences_and_verdicts_are_those_of_the_files(lab: Path) -> None:
    """The verdicts' numbers follow from the files; page, Markdown and JSON say the same."""
    verdicts = {each["claim"]["id"]: each for each in json.loads((lab / "verdicts.json").read_text())["verdicts"]}
    maps = {row: [average_precision(lab, row, s).mean() for s in range(3)] for row in ("masking", "mixup")}
    expected = np.mean(maps["mixup"]) - np.mean(maps["masking"])
    mixup = verdicts["mixup"]
    assert mixup["difference"]["value"] == pytest.approx(expected, abs=1e-6)
    assert (mixup["status"], mixup["seeds"], mixup["unit"], mixup["units"]) == ("supported", [0, 1, 2], "clip", 100)
    assert verdicts["masking"]["status"] == "contradicted"
    assert verdicts["backbones"]["reason"].endswith("its ImageNet weights are not on this machine")
    best = verdicts["seeds"]
    last = [average_precision(lab, "mixup", s)[-1].mean() for s in range(3)]
    assert best["worse"] == pytest.approx(max(last), abs=1e-6)
    row = table_with(read(lab / "report.html"), "verdict", "95 % interval")
    line = next(cells for cells in row if cells[0] == mixup["claim"]["text"])
    assert line[1:3] == ["supported", f"{expected:+.4f}"]
    markdown = (lab / "report.md").read_text(encoding="utf-8")
    assert f"| supported | {expected:+.4f} |" in markdown
    assert "\n## Table XI" in markdown
    captions = re.findall("<figcaption>([^<]+)", (lab / "report.html").read_text(encoding="utf-8"))
    assert len(captions) >= 6
    assert [each for each in captions if f"- {each} (Picture: see the HTML page.)" not in markdown] == []


def test_classes_and_correlations_are_those_of_the_files(lab: Path) -> None:
    """Table VII and the table of classes: average precision over seeds, training clips, gain, quality."""
    reader = read(lab / "report.html")
    mixup = np.array([average_precision(lab, "mixup", s).mean(axis=0) for s in range(3)])
    baseline = np.array([average_precision(lab, "baseline", s).mean(axis=0) for s in range(3)])
    counts = Clips.read(lab / "clips.parquet").split("train").labels().counts()
    table = table_with(reader, "gain over baseline")
    for i, row in enumerate(table[1:]):
        gain = mixup.mean(axis=0)[i] - baseline.mean(axis=0)[i]
        numbers = [
            str(counts[i]),
            f"{mixup.mean(axis=0)[i]:.3f}",
            f"{mixup.std(axis=0, ddof=1)[i]:.3f}",
            f"{gain:+.3f}",
        ]
        assert [row[4], *row[1:4]] == numbers
        assert row[6] == (f"{(10 - i) / 10:.2f}" if i < 6 else "-")
    pearson, spearman = correlation(mixup.mean(axis=0), counts.astype(float))
    assert f"{pearson:.4f}" in table_with(reader, "number of training clips")[1]
    assert f"{spearman:.4f}" in table_with(reader, "number of training clips")[1]
    known = correlation(mixup.mean(axis=0)[:6], 1 - np.arange(6) / 10)[0]
    assert f"{known:.4f}" in table_with(reader, "annotation quality")[2]


def test_the_page_is_whole_and_loads_nothing(lab: Path) -> None:
    """Tags close, names are escaped, nothing is loaded from anywhere, and it is small enough to be sent."""
    path = lab / "report.html"
    reader = read(path)
    assert all(each.startswith("data:image/png;base64,") for each in reader.loaded)
    assert len(reader.loaded) >= 6
    assert "Sound no. 3 <&>" in reader.text
    text = path.read_text(encoding="utf-8")
    assert "<small>" not in text
    assert "Content-Security-Policy" in text
    assert not re.search(r"(src|href)=.https?:|@import|url\(", text)
    assert path.stat().st_size < 2_000_000
    for number in paper_tables():
        assert f"Table {number}:" in reader.text
    for number in (3, 4, 5, 6, 7, 8):
        assert f"Figure {number}." in reader.text


def test_every_number_has_its_origin(lab: Path) -> None:
    """Each seed of each row that was run has its folder, its command and its hours; rows not run have their reason."""
    reader = read(lab / "report.html")
    table = table_with(reader, "command", "predictions", "runs")
    for row in ROWS:
        lines = [line for line in table if line[0] == row]
        assert [line[3] for line in lines] == ["0", "1", "2"]
        assert all(f"runs/{row}-{s}-0123456789ab" in line[7] for s, line in enumerate(lines))
        assert all(line[-1].startswith("psla train") and line[5] == "0.010" for line in lines)
    assert any("its ImageNet weights are not on this machine" in line for line in table_with(reader, "why"))


def test_the_same_lab_gives_the_same_report(lab: Path) -> None:
    """No clock and no chance: written again, page, Markdown and verdicts are the same to the byte."""
    names = ("report.html", "report.md", "verdicts.json")
    before = [(lab / name).read_bytes() for name in names]
    write_report(lab, lab / "quality.csv", resamples=40)
    assert [(lab / name).read_bytes() for name in names] == before


@pytest.mark.parametrize("place", [PAPER, FACTS], ids=["results.yaml", "facts.json"])
def test_the_paper_is_restated_rightly(place: Path) -> None:
    """The numbers of Tables II to XI are those of the paper."""
    import yaml

    if place == PAPER and not PAPER.is_file():
        pytest.skip("the paper's numbers are not on this machine")
    paper, tables = yaml.safe_load(place.read_text(encoding="utf-8")), paper_tables()
    paper = paper.get("paper", paper)

    def columns(number: str) -> list[tuple]:
        return [(row.get("balanced"), row.get("full")) for row in tables[number]["rows"]]

    for number, key in (("III", "table_3_pretraining"), ("IV", "table_4_sampling_and_augmentation")):
        assert columns(number) == [(row["balanced"], row["full"]) for row in paper[key].values()]
    assert columns("II") == [(row["balanced"], row["full"]) for row in paper["table_2_architecture"].values()]
    assert columns("VII") == [
        (row["balanced"], row["full"]) for row in paper["table_7_correlation_of_class_ap_with"].values()
    ]
    assert [row[0] for row in columns("V")] == list(paper["table_5_mixup_rate_balanced"].values())
    assert [row[0] for row in columns("VI")][:4] == list(paper["table_6_mixup_alpha_balanced"].values())
    for row, key in zip(tables["VIII"]["rows"], ("type_1", "type_2", "type_1_and_2"), strict=True):
        told = dict(paper["table_8_label_enhancement_balanced"][key])
        renamed = {"map_after": told.pop("map"), "map_after_deviation": told.pop("std"), "map_before": 0.3108}
        assert row["paper"] == {**told, **renamed}
    averaging = paper["table_9_weight_averaging"]
    assert columns("IX") == [(averaging[k]["balanced"], averaging[k]["full"]) for k in ("without", "with")]
    ensembles = paper["table_10_ensembles"]
    for name, full in (("pretrain", True), ("mixup_rate", False), ("mixup_alpha", False), ("augment", True),
                       ("label", True), ("top5", True), ("all", True)):  # fmt: skip
        assert (ensembles[f"balanced_{name}"], ensembles.get(f"full_{name}")) in columns("X"), name
        assert (f"full_{name}" in ensembles) == full
    for name in ("checkpoints_of_one_run", "same_setting_seeds"):
        assert (ensembles[name]["balanced"], ensembles[name]["full"]) in columns("X")
    for kind in ("balanced", "full"):
        numbers = sorted(str(values[1:]) for values in paper["table_11_comparison"][kind].values())
        assert sorted(str(row[kind][1:]) for row in tables["XI"]["rows"] if row.get(kind)) == numbers


def test_a_result_that_contradicts_its_predictions_is_named(tmp_path: Path) -> None:
    """A result file whose mAP is not that of its predictions is told of, at the top."""
    folder = write_lab(tmp_path / "lab", held_out=60)
    path = folder / "results/mixup.json"
    row = json.loads(path.read_text())
    row["mean"]["mean_average_precision"] += 0.01
    path.write_text(json.dumps(row))
    page = write_report(folder, resamples=10)[0].read_text(encoding="utf-8")
    assert "Row mixup: results/mixup.json says mAP" in page
    assert page.count("says mAP") == 1


def test_one_seed_has_no_deviation_and_says_so(tmp_path: Path) -> None:
    """With one seed there is no deviation, and the page says that the variance of training is left out."""
    folder = write_lab(tmp_path / "lab", seeds=(4,), held_out=60, files=1)
    reader = read(write_report(folder, resamples=10)[0])
    assert "the variance of training is left out" in reader.text
    assert "±" not in "".join(table_with(reader, "no pretraining", "paper, full set")[1][3:])


def test_results_of_the_first_release_are_read(tmp_path: Path) -> None:
    """Law: what the first release calls `deviation` in a result is its `std`, and is written under that name."""
    path = write_lab(tmp_path / "lab", held_out=40, files=1) / "results/mixup.json"
    deviation = json.loads(path.read_text())["deviation"]
    found = RowResult.read(path)
    assert found.std == deviation
    found.write(path)
    assert json.loads(path.read_text())["std"] == deviation
    assert RowResult.read(path) == found


def test_the_title_names_the_corpus_or_is_given(tmp_path: Path) -> None:
    """The page and the Markdown are headed by the corpus, or by what the user calls it."""
    folder = write_lab(tmp_path / "lab", held_out=40, files=1)
    write_report(folder, resamples=10)
    assert (folder / "report.md").read_text().startswith(f"# PSLA on {Measured(folder).info.clips.name}\n")
    call = ("lab", "report", str(folder), "--resamples", "10", "--title", "Sounds of <our> garden")
    assert CliRunner().invoke(app, call).exit_code == 0
    assert (folder / "report.md").read_text().startswith("# Sounds of <our> garden\n")
    assert "<title>Sounds of &lt;our&gt; garden</title>" in (folder / "report.html").read_text()


def test_a_lab_at_work_says_what_is_still_to_come(tmp_path: Path) -> None:
    """Law: a report made while rows have no result names them; a whole one says nothing of the kind."""
    folder = write_lab(tmp_path / "lab", held_out=40, files=1)
    call = ("lab", "report", str(folder), "--resamples", "10")
    assert CliRunner().invoke(app, call).stderr == ""
    rows = len(Measured(folder).rows)
    (folder / "results/mixup.json").unlink()
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0
    assert told.stderr.startswith("psla: no result yet of mixup: ")
    assert f" of {rows}\n" in (folder / "report.md").read_text()


def test_what_is_broken_is_one_sentence(tmp_path: Path) -> None:
    """No lab, a lost file of predictions, a torn result, a table without qualities: one sentence that names it."""
    folder = write_lab(tmp_path / "lab", held_out=40, files=1)
    run = CliRunner()

    def refused(*arguments: object) -> str:
        told = run.invoke(app, [str(each) for each in arguments])
        assert told.exit_code == 2, told.output
        assert told.stderr.startswith("psla: ")
        assert told.stderr.count("\n") == 1
        return told.stderr

    assert "it has no lab.json" in refused("lab", "report", tmp_path)
    assert "holds no run" in refused("report", tmp_path)
    (tmp_path / "q.csv").write_text("class,stars\nDog,5\n")
    assert "and a column quality" in refused("lab", "report", folder, "--quality", tmp_path / "q.csv")
    vocabulary = Measured(folder).labels.vocabulary
    for text, message in (("class,quality\nnone,1\n", "none of its classes"), ("id,quality\n/m/0,good\n", "no number")):
        (tmp_path / "q.csv").write_text(text)
        with pytest.raises(QualityError, match=message):
            read_quality(tmp_path / "q.csv", vocabulary)
    next((folder / "runs").glob("mixup-0*/predictions/evaluation/*")).unlink()
    assert "delete results/mixup.json" in refused("lab", "report", folder)
    (folder / "results/mixup.json").write_text("{")
    with pytest.raises(LabError, match="no JSON"):
        Measured(folder)
    (folder / "results/mixup.json").write_text('{"row": "mixup"}')
    with pytest.raises(LabError, match="not a row's result"):
        Measured(folder)


def test_the_command_tells_the_verdicts(lab: Path) -> None:
    """`psla lab report` prints the tested claims; with --json what verdicts.json holds."""
    told = CliRunner().invoke(app, ["lab", "report", str(lab), "--resamples", "20"])
    assert told.exit_code == 0, told.output
    assert re.search(r"mixup +\+0\.\d{4} +\[.*supported", told.stdout)
    assert "claims not tested" in told.stdout
    told = CliRunner().invoke(app, ["lab", "report", str(lab), "--resamples", "20", "--json"])
    assert json.loads(told.stdout) == json.loads((lab / "verdicts.json").read_text())


def made_run(folder: Path) -> Run:
    """A finished run, its scores of made predictions, without a training."""
    clips = make_clips(40)
    run = Run.create(folder, Recipe.load("demo", {"masking.time": 8}), clips)
    run.note_pretraining(None)
    held_out, rng = clips.split("evaluation"), np.random.default_rng(0)
    maps, scores = [], {}
    for name in ("final", "averaged", "checkpoint_ensemble"):
        probabilities = rng.random((40, len(clips.vocabulary))).astype(np.float32)
        found = score(Predictions(probabilities, held_out.clip_ids, clips.vocabulary), held_out.labels())
        maps.append(found)
        scores[name] = found.to_dict()
    for epoch, each in enumerate(maps[:2], start=1):
        row = {"epoch": epoch, "steps": 3, "clips": 120, "rejected": 0, "learning_rate": 0.001, "loss": 1 / epoch}
        run.log({**row, "evaluation_map": each.mean_average_precision}, 1.5, 2.5)
    scores["last_five"] = mean_scores(maps[:2])
    write_json_atomic(run.folder / "scores.json", {"evaluation": scores, "rejected_clips": 1})
    return run


def test_a_run_has_its_page(tmp_path: Path) -> None:
    """`psla report RUN`: scores of the four variants, classes, recipe, times are those of the run's files."""
    run = made_run(tmp_path / "run")
    run.reject({"lost": "no such file <x>"})
    run.write_profile([["backward", "1.5", "50 %"]])
    told = CliRunner().invoke(app, ["report", str(run.folder)])
    assert told.exit_code == 0, told.output
    assert told.stdout.strip() == str(run.folder / "report.html")
    reader = read(run.folder / "report.html")
    assert all(each.startswith("data:image/png") for each in reader.loaded)
    assert len(reader.loaded) == 5
    scores = run.scores["evaluation"]
    table = table_with(reader, "variant", "mAP")
    variants = ("final", "last_five", "averaged", "checkpoint_ensemble")
    assert [row[1] for row in table[1:]] == [f"{scores[name]['mean_average_precision']:.4f}" for name in variants]
    classes = table_with(reader, "training clips", "positives")
    per_class = {each["name"]: each for each in scores["averaged"]["per_class"]}
    for row in classes[1:]:
        value = per_class[row[0]]["average_precision"]
        assert row[3] == ("-" if value is None else f"{value:.3f}")
    assert ["masking.time", "8", "default: 192"] in table_with(reader, "masking.time")
    assert "no such file <x>" in reader.text
    assert "backward" in reader.text
    (run.folder / "scores.json").unlink()
    write_run_report(run.folder)
    assert "not finished: 2 of 6 epochs" in read(run.folder / "report.html").text
    for name in ("log.csv", "timing.csv"):
        (run.folder / name).unlink()
    write_run_report(Run(run.folder).folder)
    assert "0 of 6 epochs" in read(run.folder / "report.html").text


def test_costs_are_of_times_that_were_written(tmp_path: Path) -> None:
    """Law: what runs have cost is read from times that are numbers; else the file is named, and what to do."""
    (tmp_path / "timing.csv").write_text("epoch,training_s,total_s\n1,2.50,three\n")
    with pytest.raises(RunError, match=r"timing\.csv is damaged .*three.* restore it"):
        costs([Run(tmp_path)])


def test_the_table_of_claims_is_that_of_the_reports() -> None:
    """Law: the first table of docs/lab has all claims, and what the committed reports say of each."""
    root = Path(__file__).parents[1]
    sys.path.insert(0, str(root / "scripts"))
    try:
        import make_claims_table as script
    finally:
        sys.path.pop(0)
    text = (root / "docs" / "lab" / "README.md").read_text(encoding="utf-8")
    assert script.page(text) == text
    assert script.table().count("\n") == len(load_claims()) + 1
    assert script.verdict(["supported, +0.1", "untested"]) == "supported"
    assert script.verdict(["supported, +0.1", "contradicted, -0.1"]) == "not resolved"
