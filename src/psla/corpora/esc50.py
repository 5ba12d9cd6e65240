"""ESC-50: 2000 environmental recordings of 5 s in 50 classes, five folds; with ESC-10, its subset of 10 classes.

Source: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, ACM Multimedia 2015,
https://github.com/karolpiczak/ESC-50. The layout is the published one: meta/esc50.csv and audio/. The published folds
keep the cuts of one recording (`src_file`) together. Nothing is downloaded here.

Which class of AudioSet a category is (`AUDIOSET_CLASS`) was told by reading both lists
(https://research.google.com/audioset/ontology/): the most specific class of the 527 that holds for every recording of
the category. Animals are taken by the animal where their calls vary (dog: barks and howls), by the call where all
recordings are of it (rooster: crowing).
"""

from __future__ import annotations

import os
from pathlib import Path

from psla.corpora.csv_files import read_csv_file
from psla.data.clips import Clips, ClipsError
from psla.data.inventory import only_present
from psla.data.vocabulary import Vocabulary
from psla.files import shortened

FACTS = {
    "name": "ESC-50",
    "source": "https://github.com/karolpiczak/ESC-50",
    "licence": "CC BY-NC 3.0 (ESC-50); CC BY 3.0 (the ESC-10 subset)",
    "citation": "K. J. Piczak. ESC: Dataset for Environmental Sound Classification. Proceedings of the 23rd ACM "
    "International Conference on Multimedia, 2015. https://doi.org/10.1145/2733373.2806390",
}
FOLDS = (1, 2, 3, 4, 5)
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
_FLAG = {"true": True, "1": True, "false": False, "0": False}  # a spreadsheet writes TRUE and FALSE

AUDIOSET_CLASS: dict[str, str] = {
    "dog": "/m/0bt9lr",  # Dog
    "rooster": "/m/07qn5dc",  # Crowing, cock-a-doodle-doo
    "pig": "/m/068zj",  # Pig
    "cow": "/m/01xq0k1",  # Cattle, bovinae
    "frog": "/m/09ld4",  # Frog
    "cat": "/m/01yrx",  # Cat
    "hen": "/m/07st89h",  # Cluck
    "insects": "/m/03vt0",  # Insect
    "sheep": "/m/07bgp",  # Sheep
    "crow": "/m/04s8yn",  # Crow
    "rain": "/m/06mb1",  # Rain
    "sea_waves": "/m/034srq",  # Waves, surf
    "crackling_fire": "/m/07pzfmf",  # Crackle
    "crickets": "/m/09xqv",  # Cricket
    "chirping_birds": "/m/07pggtn",  # Chirp, tweet
    "water_drops": "/m/07r5v4s",  # Drip
    "wind": "/m/03m9d0z",  # Wind
    "pouring_water": "/m/07prgkl",  # Pour
    "toilet_flush": "/m/01jt3m",  # Toilet flush
    "thunderstorm": "/m/0jb2l",  # Thunderstorm
    "crying_baby": "/t/dd00002",  # Baby cry, infant cry
    "sneezing": "/m/01hsr_",  # Sneeze
    "clapping": "/m/0l15bq",  # Clapping
    "breathing": "/m/0lyf6",  # Breathing
    "coughing": "/m/01b_21",  # Cough
    "footsteps": "/m/07pbtc8",  # Walk, footsteps
    "laughing": "/m/01j3sz",  # Laughter
    "brushing_teeth": "/m/012xff",  # Toothbrush
    "snoring": "/m/01d3sd",  # Snoring
    "door_wood_knock": "/m/07r4wb8",  # Knock
    "mouse_click": "/m/07qc9xj",  # Clicking
    "keyboard_typing": "/m/01m2v",  # Computer keyboard
    "door_wood_creaks": "/m/07qh7jl",  # Creak
    "vacuum_cleaner": "/m/0d31p",  # Vacuum cleaner
    "clock_alarm": "/m/046dlr",  # Alarm clock
    "clock_tick": "/m/07qjznt",  # Tick
    "glass_breaking": "/m/07rn7sz",  # Shatter
    "helicopter": "/m/09ct_",  # Helicopter
    "chainsaw": "/m/01j4z9",  # Chainsaw
    "siren": "/m/03kmc9",  # Siren
    "car_horn": "/m/0912c9",  # Vehicle horn, car horn, honking
    "engine": "/m/02mk9",  # Engine
    "train": "/m/07jdr",  # Train
    "church_bells": "/m/03w41f",  # Church bell
    "airplane": "/m/0cmf2",  # Fixed-wing aircraft, airplane
    "fireworks": "/m/0g6b5",  # Fireworks
    "hand_saw": "/m/01b82r",  # Sawing
}
"""The AudioSet class id of each category that has one."""

NO_CLASS: frozenset[str] = frozenset({"drinking_sipping", "can_opening", "washing_machine"})
"""The categories that none of the 527 classes is made for."""


def read(root: str | os.PathLike[str], evaluation_fold: int | None = 1, esc10_only: bool = False) -> Clips:
    """The clips of ESC-50 under `root`: the evaluation fold, if any, has the split evaluation, the others train.

    The vocabulary is the categories that the list has, in the order of `target`. Clips whose files are missing are left
    out, with a warning that counts them; `take_inventory` of what is `listed` names them.

    Args:
        root: the folder that holds meta/esc50.csv and audio/.
        evaluation_fold: 1 to 5; None holds nothing out: all clips have the split train.
        esc10_only: only the clips of ESC-10.

    Raises:
        ClipsError: no meta/esc50.csv, a column missing from it, a fold out of range, or no sound file at all.

    Example:
        >>> clips = read("ESC-50-master", evaluation_fold=5)  # doctest: +SKIP
        >>> clips.counts()                                    # doctest: +SKIP
        {'train': 1600, 'evaluation': 400}
    """
    return only_present(listed(root, evaluation_fold, esc10_only), os.fspath(root))


def listed(root: str | os.PathLike[str], evaluation_fold: int | None = 1, esc10_only: bool = False) -> Clips:
    """All clips of the list, there or not; `take_inventory` tells which are.

    Args:
        root, evaluation_fold, esc10_only: see `read`.

    Raises:
        ClipsError: no meta/esc50.csv, a column missing from it, a fold out of range, or a clip that is listed twice.
    """
    if evaluation_fold is not None and evaluation_fold not in FOLDS:
        raise ClipsError(f"ESC-50: evaluation_fold is {evaluation_fold!r}, must be one of 1, 2, 3, 4, 5")
    meta = Path(root) / "meta" / "esc50.csv"
    file = read_csv_file(
        meta, _COLUMNS, "give the folder that holds meta/ and audio/", f"take the list from {FACTS['source']}", "ESC-50"
    )
    rows = []
    target: dict[str, int] = {}
    for number, fields in file.rows:
        line = {name: field.strip() for name, field in fields.items()}
        in_esc10 = _FLAG.get(line["esc10"].casefold())
        numbered = all(line[name].isdecimal() for name in ("fold", "target")) and int(line["fold"]) in FOLDS
        if not numbered or in_esc10 is None or not all(line[name] for name in _COLUMNS):
            told = ", ".join(f"{name} {shortened(line[name], 60)!r}" for name in _COLUMNS)
            raise ClipsError(
                f"ESC-50: {meta}, line {number}: fold must be 1 to 5, target a number, esc10 True or False and nothing "
                f"empty; it has {told}; take the list from {FACTS['source']}"
            )
        if esc10_only and not in_esc10:
            continue
        if target.setdefault(line["category"], int(line["target"])) != int(line["target"]):
            raise ClipsError(
                f"ESC-50: {meta}, line {number}: {line['category']} has the target {line['target']}, and "
                f"{target[line['category']]} before; take the list from {FACTS['source']}"
            )
        rows.append(
            {
                "clip_id": Path(line["filename"]).stem,
                "source": line["src_file"],
                "path": str(Path(root) / "audio" / line["filename"]),
                "split": "evaluation" if int(line["fold"]) == evaluation_fold else "train",
                "labels": [line["category"]],
            }
        )
    return Clips.from_rows(rows, Vocabulary(sorted(target, key=target.__getitem__)), FACTS["name"])
