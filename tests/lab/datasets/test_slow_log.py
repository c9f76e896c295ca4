"""The slow log: what is noted and when, in which data set, how long it is kept, and what a full disk or a kill costs."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from qcodes.dataset import load_by_id

from lab.alarms.book import Observed
from lab.alarms.table import TABLE
from lab.datasets import slow_log
from lab.datasets.database import DatabaseError, readable
from lab.datasets.slow_log import KEEP_DAYS, SAMPLE_S, SlowLog
from orchestrator.events.process import Tracked

NOON_S = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
TODAY = "2026-03-01.db"


class Clock:
    """The wall clock, which a test sets."""

    s = NOON_S


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(slow_log, "_wall_s", lambda: made.s)
    return made


@pytest.fixture
def log(tmp_path: Path) -> SlowLog:
    return SlowLog(tmp_path, "alice", "ring", TABLE)


def qber(value: float | None, at_s: float, peer: str = "bob") -> Observed:
    return Observed("qber", value, at_s, peer=peer)


def sets(path: Path) -> Iterator[tuple[bool, dict[str, tuple[list[float], list[float]]]]]:
    """Each data set: whether it is complete, and times and values by name."""
    with readable(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        for run_id in range(1, count + 1):
            data = load_by_id(run_id, connection)
            found = data.get_parameter_data()
            yield (
                data.completed,
                {name: (each["time"].tolist(), each[name].tolist()) for name, each in found.items()},
            )


def test_values_go_on_in_one_data_set_where_they_were_read_anew(
    log: SlowLog, clock: Clock, tmp_path: Path
) -> None:
    for second in range(int(3 * SAMPLE_S)):
        clock.s = NOON_S + second
        log.look(
            [qber(second / 1000, 2 * SAMPLE_S * (second >= 2 * SAMPLE_S)), qber(None, 0.0, "carol")], second
        )
        log.flush()
    ((complete, found),) = sets(tmp_path / "slow-log" / TODAY)
    assert found == {
        "qber_bob": ([NOON_S, NOON_S + 20], [0.0, 0.02])
    }  # the one in between was an old reading
    assert not complete
    with readable(tmp_path / "slow-log" / TODAY) as connection:
        data = load_by_id(1, connection)
        assert data.name == "slow values of alice"
        assert data.paramspecs["qber_bob"].label == "errors of the latest block, bob"
    assert (tmp_path / "slow-log" / TODAY).stat().st_mode & 0o077 == 0


def test_what_was_not_there_before_begins_another_data_set_with_all_there_is(
    log: SlowLog, clock: Clock, tmp_path: Path
) -> None:
    log.look([qber(0.01, 1.0)], 0.0)
    log.flush()
    clock.s += 60
    log.correction(Tracked("gate of D1", "relay", "alice", "bob", 3, 0.0, 12.0, "ps", "late"))
    log.flush()
    log.look([qber(0.02, 2.0)], 60.0)
    log.flush()
    (first, before), (second, after) = sets(tmp_path / "slow-log" / TODAY)
    assert (first, before) == (True, {"qber_bob": ([NOON_S], [0.01])})
    assert (second, after) == (
        False,
        {"gate_of_D1_alice_bob": ([NOON_S + 60], [12.0]), "qber_bob": ([NOON_S + 60], [0.02])},
    )


def test_days_have_files_of_their_own_and_old_ones_go(log: SlowLog, clock: Clock, tmp_path: Path) -> None:
    for number in range(KEEP_DAYS + 3):
        clock.s = NOON_S + 86400 * number
        log.look([qber(0.01, number)], 86400.0 * number)
        if number > 1:
            clock.s += 1  # the first three days are written together
            log.flush()
    kept = sorted(path.name for path in (tmp_path / "slow-log").iterdir())
    assert len(kept) == KEEP_DAYS
    assert (kept[0], kept[-1]) == ("2026-03-04.db", "2026-04-02.db")


def test_the_oldest_days_go_where_all_are_too_large(
    log: SlowLog, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_log, "KEEP_BYTES", 1_000_000)
    folder = tmp_path / "slow-log"
    folder.mkdir()
    for name in ("2026-02-26.db", "2026-02-27.db", "2026-02-28.db", "notes.db"):
        (folder / name).write_bytes(b"\0" * 400_000)
    log.look([qber(0.01, 1.0)], 0.0)
    log.flush()
    assert sorted(path.name for path in folder.iterdir()) == ["2026-02-28.db", TODAY, "notes.db"]


FULL = """
import resource, sys
from pathlib import Path
from lab.alarms.book import Observed
from lab.alarms.table import TABLE
from lab.datasets.database import DatabaseError
from lab.datasets.slow_log import SlowLog
state, how, room = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
log = SlowLog(state, "alice", "ring", TABLE)
for number in range(3000):
    log.look([Observed("qber", number / 1e4, number, peer="bob")], 10.0 * number)
    if number == 10:
        log.flush()
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        else:
            with (room / "filled").open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)): pass
                except OSError: pass
try:
    log.flush()
except DatabaseError as error:
    print(error)
else:
    raise SystemExit("it was written")
if how == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    (room / "filled").unlink()
log.flush()
from lab.datasets.database import readable
from qcodes.dataset import load_by_id
found = []
for path in sorted((state / "slow-log").glob("*.db")):
    with readable(path) as connection:
        found += load_by_id(1, connection).get_parameter_data()["qber_bob"]["qber_bob"].tolist()
assert found == [number / 1e4 for number in range(3000)], len(found)
"""


@pytest.mark.parametrize("how", ["limit", "full"])
def test_a_disk_without_room_pauses_it_and_nothing_is_lost(tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    command = [sys.executable, "-c", FULL, str(state), how, str(state)]
    if how == "full":
        unshare = shutil.which("unshare")
        if (
            not unshare
            or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode
        ):
            pytest.skip("needs the right to make a mount namespace (root)")
        mounting = 'mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"'
        command = [unshare, "-m", "sh", "-c", mounting, "sh", str(state), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert str(state / "slow-log") in done.stdout
    assert ("its disk is full; make room there" in done.stdout) == (how == "full"), done.stdout


KILLED = """
import sys
from pathlib import Path
from lab.alarms.book import Observed
from lab.alarms.table import TABLE
from lab.datasets.slow_log import SlowLog
log, number = SlowLog(Path(sys.argv[1]), "alice", "ring", TABLE), 0
while True:
    for _ in range(200):
        log.look([Observed("qber", number / 1e4, number, peer="bob")], 10.0 * number)
        number += 1
    log.flush()
    print(number, flush=True)
"""


def test_kill_9_leaves_a_database_that_opens_with_all_that_was_written(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(4)][-1]
    child.send_signal(signal.SIGKILL)
    told = max([told, *map(int, child.stdout.read().split())])
    child.wait()
    found: list[float] = []
    for path in sorted((tmp_path / "slow-log").glob("*.db")):
        for _, values in sets(path):
            found += values["qber_bob"][1]
    assert len(found) >= told
    assert found == [number / 1e4 for number in range(len(found))]
    log = SlowLog(tmp_path, "alice", "ring", TABLE)
    log.look([qber(0.5, 1.0)], 0.0)
    log.flush()


def test_a_database_that_cannot_be_used_is_told_and_values_wait(log: SlowLog, tmp_path: Path) -> None:
    path = tmp_path / "slow-log" / TODAY
    path.parent.mkdir()
    path.write_bytes(b"no database" * 500)
    log.look([qber(0.01, 1.0)], 0.0)
    with pytest.raises(DatabaseError, match=r"2026-03-01\.db: it is damaged"):
        log.flush()
    path.unlink()
    log.flush()
    assert [found for _, found in sets(path)] == [{"qber_bob": ([NOON_S], [0.01])}]
