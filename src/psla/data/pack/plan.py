"""PackPlan: what a pack that was begun is going to hold; all attempts and all parts must have the same.

It stands in unfinished/plan.json inside the pack's folder until the pack is finished.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psla.data.clips import Clips
from psla.data.pack.format import FORMAT_VERSION, UNFINISHED, PackError
from psla.files import write_json_atomic

_HASHED_ROWS = 100_000


@dataclass(frozen=True)
class PackPlan:
    """What a pack is going to hold.

    Attributes:
        version: of the format.
        name: the table's.
        table_sha256: of the table's content.
        vocabulary_sha256: `Vocabulary.hash`.
        clips: rows of the table.
        shard_clips: rows in each shard but the last.
        sample_rate: of the waveforms, in Hz.
    """

    version: int
    name: str
    table_sha256: str
    vocabulary_sha256: str
    clips: int
    shard_clips: int
    sample_rate: int

    @property
    def shards(self) -> int:
        """How many shards."""
        return math.ceil(self.clips / self.shard_clips)

    def rows(self, shard: int) -> range:
        """The rows of the table that make up a shard."""
        return range(shard * self.shard_clips, min(self.clips, (shard + 1) * self.shard_clips))


def begin(out: Path, plan: PackPlan) -> None:
    """Make the folder of a pack, or make sure that it is the one of this plan.

    Raises:
        PackError: it cannot be written, holds something else, or was begun with another plan.
    """
    file = out / UNFINISHED / "plan.json"
    if file.exists():
        check_same(out, asdict(read_plan(out)), plan)
    elif out.is_dir() and any(entry.name != UNFINISHED for entry in out.iterdir()):
        raise PackError(f"{out} holds other files: give a new or empty folder for the pack")
    try:
        if not file.exists():
            write_json_atomic(file, asdict(plan))  # first: a folder with anything else in it is not ours
        (out / "waveforms").mkdir(exist_ok=True)
        if not os.access(out / "waveforms", os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR):
            mend = "give another folder, or the right to write there"
            raise PackError(f"{out} cannot be written ({error.strerror}): {mend}") from error
        raise


def read_plan(out: Path) -> PackPlan:
    """The plan of a pack that was begun.

    Raises:
        PackError: there is none, one of another version, or one that states no sample rate.
    """
    try:
        stored = json.loads((out / UNFINISHED / "plan.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackError(f"{out} is no pack that was begun: it holds no {UNFINISHED}/plan.json") from error
    if stored.get("version") != FORMAT_VERSION:
        raise PackError(
            f"{out} was begun with pack format version {stored.get('version')}, this psla writes {FORMAT_VERSION}: "
            "give another folder, or finish it with the psla that began it"
        )
    if "sample_rate" not in stored:
        raise PackError(
            f"{out} was begun by an earlier psla, without a sample rate in its plan: finish it with that one, or give "
            "another folder"
        )
    return PackPlan(**stored)


def table_hash(clips: Clips) -> str:
    """SHA-256 of what a table holds, however its columns lie in memory."""
    digest = hashlib.sha256(json.dumps([clips.name, clips.vocabulary.to_dict(), clips.frame.columns]).encode())
    for part in clips.frame.iter_slices(_HASHED_ROWS):
        digest.update(part.write_ndjson().encode())
    return digest.hexdigest()


def check_same(out: Path, found: Mapping[str, Any], plan: PackPlan) -> None:
    """Refuse to go on with a pack whose plan, or finished pack.json, is another.

    Raises:
        PackError: another table, another sample rate, or other shards.
    """
    if found.get("table_sha256") != plan.table_sha256:
        raise PackError(f"{out} was begun with another table of clips: give that table, or another folder")
    if (rate := found.get("sample_rate")) != plan.sample_rate:
        raise PackError(f"{out} was begun at {rate} Hz, not {plan.sample_rate} Hz: give that rate, or another folder")
    if (shard_clips := found.get("shard_clips")) != plan.shard_clips:
        raise PackError(f"{out} was begun with {shard_clips} clips a shard, not {plan.shard_clips}: give that number")
