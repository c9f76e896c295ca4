"""``qunetlab runs`` as its user has it, over what roles write."""

from __future__ import annotations

import io
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from lab.calibration.finding import Finding, Measured
from lab.calibration.steps import Step
from lab.cli.runs import moment
from lab.datasets.calibrations import Origin, database_of, write_calibration
from lab.runs.testbeds.folder import template_path
from lab.testbed import read_testbed, write_testbed
from orchestrator.records.keeping import CHAIN_FILE, RECORDS, Records
from orchestrator.records.kinds import BlockEnded, LeaseEnded, Record, SumKept
from orchestrator.scheduling.entries import Work, new_entry
from orchestrator.scheduling.queue_store import QUEUE_FILE, QueueStore

if TYPE_CHECKING:
    from tests.lab.conftest import Command

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST = "ab12cd34" * 8
BLOCK = BlockEnded(
    at=NOON, owner="alice", epoch=7, lease_number=1, first="alice", second="bob", block_id="block/7/1", stored=True,
    testbed=DIGEST, qber=0.0072, secret_bits=44000, light_s=1.5,
)  # fmt: skip
LOST = replace(
    BLOCK, at=NOON + timedelta(hours=1), lease_number=2, stored=False, reason="too many errors", secret_bits=0
)
NEVER = LeaseEnded(
    at=NOON + timedelta(hours=2), epoch=7, lease_number=3, first="bob", second="carol", purpose="key", ok=False,
    reason="the relay left",
)  # fmt: skip
SUM = SumKept(
    at=NOON + timedelta(hours=4), run_id="run-12", round=1, context="", participants=("alice", "bob"),
    survivors=("alice", "bob"), model="", model_after="", total="", uploads={}, upload_bytes=0, key_bits=9000,
    accuracy=0.93, loss=0.1,
)  # fmt: skip
FINDING = Finding(
    Step.PHASE, "alice", {"v_pi_v": Measured(3.97, 0.0025, "V")}, {}, {}, {}, {}, [], 1.4, partner="carol"
)


def put(folder: Path, role: str, *records: Record) -> None:
    kept = Records.of_role(folder / "state" / role, role, "0.1.0", "abc123")
    for each in records:
        kept.keep(each)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ring on which a little of everything was done."""
    path = tmp_path / "testbed.toml"
    write_testbed(read_testbed(template_path("simulated-four-node")), path)
    put(tmp_path, "alice", BLOCK, LOST)
    put(tmp_path, "bob", replace(BLOCK, owner="bob"), replace(LOST, owner="bob"))
    put(tmp_path, "orchestrator", replace(NEVER, lease_number=1, ok=True), NEVER, replace(NEVER, lease_number=4, purpose="calibration:phase"))  # fmt: skip
    put(tmp_path, "fl-server", SUM)
    ended = NOON + timedelta(hours=3)
    origin = Origin("ring", DIGEST, "", "0.1.0", "abc123")
    write_calibration(database_of(path, "alice"), FINDING, origin, {}, ended, ended)
    store = QueueStore(tmp_path / "state" / "orchestrator" / QUEUE_FILE)
    with store.transaction():
        work = Work("key", "olga", (("alice", "bob"),), 250_000)
        store.put(new_entry(1, work, (NOON - timedelta(hours=1)).timestamp()))
    store.close()
    return tmp_path


IDS = ["order/1", "block/7/1", "block/7/2", "block/7/3", "calibration/alice/1", "training/run-12"]


def ids(qunetlab: Command, folder: Path, *options: str) -> list[str]:
    said = qunetlab("runs", "list", "--testbed", str(folder), "--json", *options)
    assert said.returncode == 0, said.stderr
    return [each["id"] for each in json.loads(said.stdout)]


def test_everything_is_listed_in_the_order_of_time(
    qunetlab: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert ids(qunetlab, folder) == IDS
    said = qunetlab("runs", "--testbed", str(folder))
    assert said.returncode == 0
    lines = said.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "block/7/1" in said.stdout
    assert "44000 bits, QBER 0.72 %" in " ".join(said.stdout.split())
    assert "no key: too many errors" in said.stdout
    assert "no block: the relay left" in said.stdout
    assert "phase: v_pi_v 3.9700 +- 0.0025 V" in said.stdout
    assert "1 rounds, accuracy 0.930" in said.stdout
    assert "ab12cd34" in said.stdout


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--pair", "alice-bob"), ["order/1", "block/7/1", "block/7/2"]),
        (("--pair", "bob-alice", "--kind", "block"), ["block/7/1", "block/7/2"]),
        (("--kind", "calibration"), ["calibration/alice/1"]),
        (("--since", "2026-03-01T14:30"), ["calibration/alice/1", "training/run-12"]),
        (("--since", "2026-03-02"), []),
    ],
)
def test_what_is_meant_is_chosen(
    qunetlab: Command, folder: Path, options: tuple[str, ...], wanted: list[str]
) -> None:
    assert ids(qunetlab, folder, *options) == wanted


def test_pandas_reads_it(qunetlab: Command, folder: Path) -> None:
    pandas = pytest.importorskip("pandas")
    said = qunetlab("runs", "--testbed", str(folder), "--json")
    frame = pandas.read_json(io.StringIO(said.stdout))
    assert list(frame["id"]) == IDS
    assert frame.set_index("id").loc["block/7/1", "qber"] == pytest.approx(0.0072)
    assert pandas.to_datetime(frame["when"]).is_monotonic_increasing


def test_all_of_one_is_shown(qunetlab: Command, folder: Path) -> None:
    said = qunetlab("runs", "show", "block/7/1", "--testbed", str(folder), "--json")
    assert [(each["role"], each["code"]) for each in json.loads(said.stdout)] == [
        (role, "0.1.0 abc123") for role in ("alice", "bob", "orchestrator")
    ]
    said = qunetlab("runs", "show", "calibration/alice/1", "--testbed", str(folder), "--json")
    (told,) = json.loads(said.stdout)
    assert told["finding"]["values"]["v_pi_v"]["uncertainty"] == 0.0025
    assert told["database"].endswith("calibrations/alice.db")
    said = qunetlab("runs", "show", "block/9/9", "--testbed", str(folder))
    assert said.returncode == 2
    assert "block/7/3" in said.stderr


def test_a_block_that_one_node_alone_has_on_record_is_not_called_whole(
    qunetlab: Command, folder: Path
) -> None:
    (folder / "state" / "bob" / RECORDS / CHAIN_FILE).unlink()
    said = qunetlab("runs", "--testbed", str(folder), "--json", "--kind", "block")
    first = json.loads(said.stdout)[0]
    assert (first["ok"], first["result"]) == (False, "stored by alice alone on record, QBER 0.72 %")


def test_attempts_of_a_run_with_rings_of_their_own_keep_apart(qunetlab: Command, tmp_path: Path) -> None:
    for ring, block in (
        ("ring-1", BLOCK),
        ("ring-2", replace(BLOCK, at=NOON + timedelta(hours=1), qber=0.008)),
    ):
        for user in ("alice", "bob"):
            kept = Records(tmp_path / RECORDS / ring / user)
            kept.keep(replace(block, owner=user))
    said = qunetlab("runs", "--testbed", str(tmp_path), "--json")
    found = {each["id"]: (each["ok"], each["qber"]) for each in json.loads(said.stdout)}
    assert found == {"ring-1/block/7/1": (True, 0.0072), "ring-2/block/7/1": (True, 0.008)}


def test_where_nothing_was_done_yet_that_is_said(qunetlab: Command, tmp_path: Path) -> None:
    said = qunetlab("runs", "--testbed", str(tmp_path))
    assert said.returncode == 2
    assert "there are no records in" in said.stderr
    said = qunetlab("runs", "--testbed", str(tmp_path / "nowhere"))
    assert said.returncode == 2
    assert "no testbed folder" in said.stderr


def damaged(path: Path) -> None:
    path.write_bytes(b"no database" * 500)


def of_another_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "told"), [(damaged, "it is damaged"), (of_another_version, "version 99 of QCoDeS")]
)
def test_a_database_that_cannot_be_read_is_named_and_the_rest_is_listed(
    qunetlab: Command, folder: Path, spoil: object, told: str
) -> None:
    assert callable(spoil)
    spoil(folder / "calibrations" / "alice.db")
    said = qunetlab("runs", "--testbed", str(folder), "--json")
    assert said.returncode == 1
    assert f"alice.db: {'its layout is ' if 'version' in told else ''}{told}" in said.stderr
    assert [each["id"] for each in json.loads(said.stdout)] == [each for each in IDS if "calib" not in each]


def test_damaged_records_are_told(qunetlab: Command, folder: Path) -> None:
    path = folder / "state" / "alice" / RECORDS / CHAIN_FILE
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "no record", *lines[2:]]) + "\n")
    said = qunetlab("runs", "--testbed", str(folder), "--json")
    assert said.returncode == 1
    assert "1 of its records are damaged or of another version; `qunetlab audit` says which" in said.stderr
    assert len(json.loads(said.stdout)) == len(IDS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--kind", "blocks"), "kinds are block, calibration"), (("--since", "yesterday"), "write such as 30m")],
)
def test_a_wrong_filter_is_told(
    qunetlab: Command, folder: Path, arguments: tuple[str, ...], told: str
) -> None:
    said = qunetlab("runs", "--testbed", str(folder), *arguments)
    assert said.returncode == 2
    assert told in said.stderr


def test_a_moment_is_a_duration_ago_or_a_date() -> None:
    assert moment("2h", NOON) == NOON - timedelta(hours=2)
    assert moment("2026-03-01T12:00", NOON) == NOON
    assert moment("2026-03-01T13:00+01:00", NOON) == NOON
