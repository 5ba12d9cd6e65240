"""Laws of the lab's rows: each a small difference to another, and each comes to trainings that can be planned."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import psla.lab
from psla.data.clips import Clips
from psla.data.vocabulary import Vocabulary
from psla.lab.tables.plan import Plan, make_plan, resolve
from psla.lab.tables.rows import TABLES, Catalogue, RowError, parse_row
from psla.model.frontends.stft import StftConfig
from psla.training.keys import presets
from psla.training.recipe import Recipe

FILES = sorted((Path(psla.lab.__file__).parent / "tables/rows").glob("*.yaml"))
CATALOGUE = Catalogue.load()
# Values that no row sets, so that a row which sets something is told from one that does not.
UNUSUAL = {
    "backbone.name": "efficientnet_lite3",
    "mixup.rate": 0.3,
    "mixup.alpha": 3.0,
    "masking.frequency": 7,
    "masking.time": 9,
    "pooling.heads": 3,
}
OTHER_CHOICE = {"backbone.stem": "random", "masking.fill": "mean"}


def clips(train: int = 40, name: str = "fake") -> Clips:
    """A table of clips that have no sounds: a plan needs none."""
    rows = [
        {
            "clip_id": f"{split}{index}",
            "source": f"{split}{index // 2}",
            "path": "absent.wav",
            "split": split,
            "labels": [["dog", "rain"][index % 2]],
        }
        for split, count in (("train", train), ("evaluation", 10))
        for index in range(count)
    ]
    return Clips.from_rows(rows, Vocabulary(["dog", "rain"]), name)


def recipe(**changes: Any) -> Recipe:
    small = {"optimizer.warmup_steps": 2, "optimizer.batch_size": 4, **changes}
    return Recipe.load("demo", small)


def planned(*names: str, recipe: Recipe | None = None, seeds: tuple[int, ...] = (0, 1)) -> Plan:
    return make_plan(CATALOGUE, names, recipe or globals()["recipe"](), clips(), "hash", seeds)


def flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def different(one: Recipe, other: Recipe) -> set[str]:
    return {key for key, value in flat(one.model_dump()) if dict(flat(other.model_dump()))[key] != value}


def test_every_file_is_a_row() -> None:
    """Each file of the package loads, is in the catalogue under its name, and is in a group."""
    assert len(FILES) > 40
    assert sorted(CATALOGUE.rows) == sorted(path.stem for path in FILES)
    for path in FILES:
        row = parse_row(path.stem, path.read_text(encoding="utf-8"))
        assert row == CATALOGUE.rows[path.stem]
        assert row.title
        assert row.groups, path.stem
        assert row.table in TABLES


def test_a_row_stands_behind_those_it_needs() -> None:
    """In the catalogue's order nothing comes before what it extends, takes or is taught by, so there is no circle."""
    names = list(CATALOGUE.rows)
    for place, name in enumerate(names):
        row = CATALOGUE.rows[name]
        for other in [row.extends, *CATALOGUE.needs(name)]:
            assert other is None or names.index(other) < place, (name, other)


@pytest.mark.parametrize("name", [name for name, row in CATALOGUE.rows.items() if row.is_trained])
def test_a_row_differs_from_its_base_in_what_it_names(name: str) -> None:
    """A trained row changes the recipe in the keys that it sets and in no others, or it changes what is trained on."""
    *below, row = CATALOGUE.chain(name)
    changed: set[str] = set()
    for unusual in (recipe(**UNUSUAL), recipe(**UNUSUAL, **OTHER_CHOICE)):  # of two values, one is the recipe's
        base, own = (resolve(chain, unusual, seed=0) for chain in (below, [*below, row]))
        changed |= different(own, base)
        for key in (key for key, value in row.set.items() if value == "recipe"):
            assert dict(flat(own.model_dump()))[key] == dict(flat(unusual.model_dump()))[key]
    assert changed <= set(row.set)
    assert changed or row.labels or row.teacher or row.training_share


def test_the_chain_of_table_four() -> None:
    """Each row of Table IV adds one component to the one above; on top stands the whole recipe."""
    chain = CATALOGUE.chain("mixup")
    assert [row.name for row in chain] == ["baseline", "pretraining", "sampling", "masking", "mixup"]
    found = [resolve(chain[: length + 1], recipe(), 0) for length in range(5)]
    parts = [
        (r.backbone.pretraining, r.sampling.balanced, r.masking.frequency, r.masking.time, r.mixup.rate) for r in found
    ]
    assert parts == [
        ("none", False, 0, 0, 0.0),
        ("imagenet", False, 0, 0, 0.0),
        ("imagenet", True, 0, 0, 0.0),
        ("imagenet", True, 16, 32, 0.0),
        ("imagenet", True, 16, 32, 0.5),
    ]
    assert found[4] == recipe()


def test_a_row_of_another_front_end_and_backbone() -> None:
    """A row that names another kind begins with that kind's defaults, whatever the lab's recipe sets of its own."""
    text = "{title: t, table: II, extends: baseline, set: {front_end.kind: stft, front_end.frames: 256, "
    row = parse_row("other", text + "backbone.name: mobilenet, backbone.options.width: 0.4}}")
    found = resolve([CATALOGUE.rows["baseline"], row], recipe(**{"front_end.hop_ms": 20.0}), seed=1)
    assert (found.front_end.kind, found.front_end.frames, found.front_end.sample_rate) == ("stft", 256, 32000)
    assert found.front_end == StftConfig(frames=256)
    assert found.backbone.options == {"width": 0.4}


def test_the_balanced_set_goes_without_balanced_sampling() -> None:
    """Where the recipe has no balanced sampling, the rows above `sampling` have none and share the plain rows' runs."""
    found = planned("table_4", recipe=recipe(**{"sampling.balanced": False}))
    for one, other in (("masking", "plain_masking"), ("mixup", "plain_mixup")):
        assert found.keys[one, 0] == found.keys[other, 0]
    assert found.keys["sampling", 0] != found.keys["pretraining", 0]
    with_sampling = planned("table_4")
    assert with_sampling.keys["masking", 0] != with_sampling.keys["plain_masking", 0]


@pytest.mark.parametrize("preset", presets())
def test_every_row_can_be_planned(preset: str) -> None:
    """On a table of clips without sounds every row of the package resolves with every preset, or says why it cannot."""
    small = {"optimizer.warmup_steps": 2, "optimizer.batch_size": 4}
    found = planned("all", recipe=Recipe.load(preset, small))
    assert list(found.rows) == list(CATALOGUE.rows)
    assert found.refused == {}
    order = list(found.jobs)
    for key, job in found.jobs.items():
        assert job.recipe.seed == job.seed
        assert key in job.name
        assert all(order.index(teacher) < order.index(key) for teacher in job.teachers)
    for name in found.rows:
        sources = found.sources(name)
        assert all(sources.values()), name
        assert set(sources) in ({None}, {0, 1})


def test_rows_share_what_is_the_same() -> None:
    """Trainings with one recipe on the same data are one job; the other data, seeds or keys make another."""
    found = planned("all")
    trained = [name for name, row in found.rows.items() if row.is_trained]
    texts = {(job.recipe.to_yaml(), job.share, job.labels, job.teachers) for job in found.jobs.values()}
    assert len(texts) == len(found.jobs) < 2 * len(trained)
    assert found.keys["mixup", 0] == found.keys["pooling_4", 0] == found.keys["fill_zero", 0]
    assert found.keys["mixup", 0] != found.keys["mixup", 1]
    assert found.keys["distilled", 0] != found.keys["mixup", 0]
    assert {job.rows[0] for job in found.jobs.values()} == {job.row for job in found.jobs.values()}
    other = make_plan(CATALOGUE, ["mixup"], recipe(), clips(), "another hash", [0])
    assert other.keys["mixup", 0] != found.keys["mixup", 0]


def test_choosing_takes_what_is_needed() -> None:
    """A derived row, a taught row and an ensemble bring the rows whose runs they take; extending alone brings none."""
    assert CATALOGUE.choose(["masking"]) == ["masking"]
    assert CATALOGUE.choose(["without_mixup"]) == ["mixup", "without_mixup"], "taught as the row that it extends"
    assert CATALOGUE.choose(["ensemble_pretraining"]) == ["baseline", "pretraining", "ensemble_pretraining"]
    assert set(CATALOGUE.choose(["distilled"])) == {"mixup", "ensemble_seeds", "distilled"}
    assert CATALOGUE.choose(["all"]) == list(CATALOGUE.rows)


def test_groups() -> None:
    """There is a group for each table; the core has what it is for."""
    groups = CATALOGUE.groups()
    numbers = (2, 3, 4, 5, 6, 8, 9, 10, 11)
    assert {"smoke", "core", "all", *(f"table_{n}" for n in numbers)} <= set(groups)
    core = set(CATALOGUE.choose(["core"]))
    assert {"baseline", "pretraining", "sampling", "masking", "mixup", "mixup_rate_1", "labels_12"} <= core
    assert {"averaged", "ensemble_seeds", "ensemble_checkpoints"} <= core
    assert set(CATALOGUE.choose(["smoke"])) <= core


def test_shares_keep_the_length_of_the_warm_up() -> None:
    """A share of the clips is as long warmed up, in terms of the run, as all of them."""
    found = planned("figure_3", recipe=recipe(**{"optimizer.warmup_steps": 20}))
    assert found.refused == {}
    by_row = {name: found.jobs[found.keys[name, 0]] for name in ("baseline", "share_50_none", "share_10_none")}
    assert [job.clips for job in by_row.values()] == [40, 20, 4]
    assert [job.recipe.optimizer.warmup_steps for job in by_row.values()] == [20, 10, 2]


def test_a_refused_row_takes_along_those_that_need_it() -> None:
    """What a recipe cannot do is said of the row and of those behind it; an ensemble of all goes without it."""
    rows = {**CATALOGUE.rows, "long": parse_row("long", "title: x\ntable: V\nextends: mixup\nset: {mixup.rate: 7}")}
    text = "title: x\ntable: X\ntake: ensemble\nmembers: [mixup, long]"
    catalogue = Catalogue([*rows.values(), parse_row("ensemble_long", text)])
    found = make_plan(catalogue, ["ensemble_long", "ensemble_all"], recipe(), clips(), "hash", [0])
    assert "mixup.rate" in found.refused["long"]
    assert "needs the row long" in found.refused["ensemble_long"]
    assert "long" not in found.members("ensemble_all")
    assert found.sources("ensemble_all") == {None: [found.keys["mixup", 0]]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title: x\ntable: IV\nlouder: 3", "no key 'louder'"),
        ("title: x\ntable: IV\nset: {mixup.ratio: 3}", "no key 'mixup.ratio'"),
        ("title: x\ntable: IV\nset: {seed: 3}", "seed is the lab's"),
        ("title: x\ntable: XX", "must be one of II"),
        ("title: x\ntable: IV\nextends: nothing", "no row 'nothing'"),
        ("title: x\ntable: IV\nextends: new", "circle: new -> new"),
        ("title: x\ntable: IV\nextends: averaged", "is derived"),
        ("title: x\ntable: IV\nfrom: averaged", "no runs of its own"),
        ("title: x\ntable: IV\nfrom: mixup\nset: {mixup.rate: 0.1}", "trains nothing"),
        ("title: x\ntable: IV\ntake: ensemble", "belong together"),
        ("title: x\ntable: IV\ntake: ensemble\nmembers: seeds", "needs the row that has the seeds"),
        ("title: x\ntable: IV\nlabels: II", "needs the row that enhances"),
        ("title: x\ntable: IV\nlabels: II\nteacher: ensemble_seeds", "a teacher is"),
        ("title: x\ntable: IV\ntraining_share: 0", "greater than 0"),
        ("- title", "must hold keys"),
        ("title: [", "is not YAML"),
    ],
)
def test_refusals(text: str, sentence: str) -> None:
    """A row that contradicts itself or the others is refused in a sentence that names it and the rule."""
    with pytest.raises(RowError, match="new") as error:
        Catalogue([*CATALOGUE.rows.values(), parse_row("new", text)])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_names_are_told_what_there_is() -> None:
    """Neither a row nor a group: the sentence lists both."""
    with pytest.raises(RowError, match=r"'mixup_99' is neither .* core.* mixup_rate_1"):
        CATALOGUE.choose(["mixup_99"])


def test_an_own_file_may_replace_a_row(tmp_path: Path) -> None:
    """A further file is a row by the name of the file."""
    (tmp_path / "gentle.yaml").write_text("title: gentle\ntable: V\nextends: mixup\nset: {mixup.rate: 0.05}\n")
    found = Catalogue.load([tmp_path / "gentle.yaml"])
    assert math.isclose(resolve(found.chain("gentle"), recipe(), 0).mixup.rate, 0.05)
    assert len(found.rows) == len(CATALOGUE.rows) + 1


def test_rows_of_the_first_release_are_found_by_their_old_names() -> None:
    """Law: `committee` in a row's file or in `--rows` means `ensemble`, and a warning says the new name."""
    with pytest.warns(FutureWarning, match="committee_seeds is called ensemble_seeds now"):
        assert "ensemble_seeds" in Catalogue.load().choose(["committee_seeds"])
    with pytest.warns(FutureWarning, match="committee is called ensemble now"):
        assert parse_row("own", 'title: "own"\ntable: X\ntake: committee\nmembers: all').take == "ensemble"
