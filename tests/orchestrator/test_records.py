"""Records: each line holds the one before it, what is unfinished is cut off and said, and nothing waits unwritten."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.events.common import Unknown
from orchestrator.records.chain import Chain, ChainError, read_chain
from orchestrator.records.keeping import CHAIN_FILE, RECORDS, Records, path_of_testbed
from orchestrator.records.kinds import NoSum, RoleStarted, RoleStopped, record_of

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def no_sum(number: int) -> NoSum:
    return NoSum(at=AT, run_id="r", round=number, participants=("a", "b"), reason="none", key_bits=0)


def written(folder: Path, count: int) -> Path:
    records = Records(folder)
    for number in range(count):
        records.keep(no_sum(number))
    return folder / CHAIN_FILE


def test_records_are_read_back_and_their_chain_is_whole(tmp_path: Path) -> None:
    path = written(tmp_path, 3)
    chain = read_chain(path)
    assert (chain.breaks, chain.rest_bytes) == ((), 0)
    assert [record_of(bytes(line.record)) for line in chain.lines if line] == [no_sum(n) for n in range(3)]


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        (lambda lines: lines[:1] + lines[2:], (2,)),
        (lambda lines: [lines[1], lines[0], *lines[2:]], (1, 2, 3)),
        (lambda lines: [*lines[:2], lines[2].replace(b'"round":2', b'"round":7'), *lines[3:]], (3,)),
        (lambda lines: [*lines[:3], lines[3].replace(b'"round":3', b'"round":7')], (4,)),
        (lambda lines: [lines[0], b"{}", *lines[1:]], (2,)),
        (lambda lines: [*lines[:2], lines[1], *lines[2:]], (3,)),
    ],
    ids=["taken out", "other order", "edited", "last edited", "put in", "twice"],
)
def test_a_change_that_does_not_compute_the_hashes_anew_shows(
    tmp_path: Path, change: Any, breaks: tuple[int, ...]
) -> None:
    path = written(tmp_path, 4)
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join(change(lines)) + b"\n")
    assert read_chain(path).breaks == breaks


def test_an_unfinished_line_is_no_break_and_the_next_start_cuts_it_off(tmp_path: Path) -> None:
    path = written(tmp_path / RECORDS, 2)
    with path.open("ab") as file:
        file.write(b'{"before":"12')
    assert (read_chain(path).breaks, read_chain(path).rest_bytes) == ((), 13)
    Records.of_role(tmp_path, "relay", "1.0", "abc")
    chain = read_chain(path)
    assert (len(chain.lines), chain.breaks, chain.rest_bytes) == (3, (), 0)
    assert chain.lines[2] is not None
    started = record_of(bytes(chain.lines[2].record))
    assert isinstance(started, RoleStarted)
    assert (started.role, started.commit, started.cut_bytes) == ("relay", "abc", 13)


def test_a_first_line_that_was_never_finished_leaves_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / CHAIN_FILE).write_bytes(b'{"be')
    assert Chain(tmp_path / CHAIN_FILE).cut_bytes == 4
    assert (tmp_path / CHAIN_FILE).read_bytes() == b""


def test_a_damaged_end_is_not_gone_on_with(tmp_path: Path) -> None:
    path = written(tmp_path, 2)
    path.write_bytes(path.read_bytes().replace(b'"round":1', b'"round":5'))
    with pytest.raises(ChainError, match="move it aside"):
        Records(tmp_path)


def test_a_full_disk_loses_no_record_and_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path)
    records.keep(no_sum(0))
    before, real = (tmp_path / CHAIN_FILE).read_bytes(), os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:-20])

    monkeypatch.setattr(os, "write", full)
    records.keep(no_sum(1))
    assert (tmp_path / CHAIN_FILE).read_bytes() == before
    monkeypatch.setattr(os, "write", real)
    records.keep(RoleStopped(at=AT))
    chain = read_chain(tmp_path / CHAIN_FILE)
    assert chain.breaks == ()
    assert [record_of(bytes(line.record)) for line in chain.lines if line] == [
        no_sum(0),
        no_sum(1),
        RoleStopped(at=AT),
    ]


def test_a_record_of_a_newer_version_is_read_as_unknown() -> None:
    newer = msgspec.json.encode(no_sum(1)).replace(b'"NoSum"', b'"Tomorrow"')
    found = record_of(newer)
    assert isinstance(found, Unknown)
    assert found.kind == "Tomorrow"


def test_a_testbed_is_kept_once_under_its_digest(tmp_path: Path) -> None:
    records = Records(tmp_path)
    digest = records.keep_testbed({"b": 1.5, "a": [1]})
    assert records.keep_testbed({"a": [1], "b": 1.5}) == digest
    assert Records(tmp_path).keep_testbed({"a": [1], "b": 1.5}) == digest
    assert path_of_testbed(tmp_path, digest).read_text() == '{\n "a": [\n  1\n ],\n "b": 1.5\n}'
    assert Records(None).keep_testbed({"a": [1], "b": 1.5}) == digest
