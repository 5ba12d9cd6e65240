"""Laws of the journal: what append returned for is there whatever happened after, and nothing is there twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psla.files import Journal, JournalError

WRITER = """
import sys
from psla.files import Journal
with Journal(sys.argv[1]) as journal:
    for i in range(len(journal.records), 10**9):
        journal.append({"i": i, "filler": "x" * 200})
        print(i, flush=True)
"""


def test_records_come_back_in_order(tmp_path: Path) -> None:
    """What is appended, in one call or many, now or later, is read in that order; odd names too."""
    path = tmp_path / "new" / "a.jsonl"
    odd = os.fsdecode(b"caf\xe9 \xc3\xa9\n.wav")
    with Journal(path) as journal:
        assert journal.records == []
        journal.append({"path": odd}, {"p": 0.1})
        journal.append()
    with Journal(path) as journal:
        journal.append({"p": None})
    assert Journal.read(path) == [{"path": odd}, {"p": 0.1}, {"p": None}]
    assert Journal.read(tmp_path / "none.jsonl") == []
    assert path.read_text().count("\n") == 3


def test_every_torn_end_is_mended(tmp_path: Path) -> None:
    """Cut anywhere, the journal keeps its whole lines and what is appended next is a line of its own."""
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append({"a": 1}, {"b": [2, 3]})
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        whole = data[:length].count(b"\n")
        assert len(Journal.read(path)) == whole
        with Journal(path) as journal:
            assert len(journal.records) == whole
            journal.append({"c": 3})
        assert Journal.read(path) == [*[{"a": 1}, {"b": [2, 3]}][:whole], {"c": 3}]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"a": 1', ""])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    """Only the end may be torn: anything else in the file is refused by its line number, and left as it is."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n' + line + '\n{"b": 2}\n')
    for opening in (Journal, Journal.read):
        with pytest.raises(JournalError, match="line 2"):
            opening(path)
    assert path.read_text() == '{"a": 1}\n' + line + '\n{"b": 2}\n'


def test_what_json_does_not_have_is_refused_whole(tmp_path: Path) -> None:
    """NaN in the second record: the first is not written either."""
    with Journal(tmp_path / "a.jsonl") as journal:
        with pytest.raises(ValueError):
            journal.append({"a": 1}, {"b": float("nan")})
        journal.append({"c": 1})
    assert Journal.read(tmp_path / "a.jsonl") == [{"c": 1}]


@pytest.mark.skipif(os.name != "posix", reason="kills a process, and relies on POSIX locks")
def test_a_killed_writer_loses_nothing_it_had_written(tmp_path: Path) -> None:
    """SIGKILL, three times: every record announced is there once; meanwhile nobody else may open the journal."""
    path, announced = tmp_path / "a.jsonl", -1
    for lines in (7, 1, 23):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(lines):
                announced = int(writer.stdout.readline())
            with pytest.raises(JournalError, match="another process"):
                Journal(path)
            writer.send_signal(signal.SIGKILL)
        found = [record["i"] for record in Journal.read(path)]
        assert found == list(range(len(found)))
        assert len(found) > announced
    assert all(json.loads(line) for line in path.read_text().splitlines())
