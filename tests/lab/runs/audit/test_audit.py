"""``qunetlab audit``: a good run passes, and each inconsistency that is planted in its files is named for what it is.

Whoever plants one can write all files that it needs: chains are computed anew, and the folder is sealed again, so that
nothing but the contradiction itself is left to find.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pytest
from audited_run import RUN_ID, good_run

from fl.modes.base import model_digest
from lab.runs.audit.auditing import audited, lines
from lab.runs.audit.case import AuditError
from lab.runs.audit.findings import Audit
from lab.runs.records.ending import on_record
from orchestrator.records.chain import Line, read_chain
from orchestrator.records.keeping import path_of_testbed

Json = dict[str, Any]


class Command(Protocol):
    """``qunetlab ARGUMENTS``, in this process."""

    def __call__(self, *arguments: str) -> Any: ...


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_run(tmp_path_factory.mktemp("audited"))


class Tampered:
    """A copy of the good run, to be changed as somebody would who can write there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state" / "fl-server" / RUN_ID

    def home(self, role: str) -> Path:
        return self.folder / "records" / "ring-1" / role

    def records(self, role: str) -> list[Json]:
        chain = read_chain(self.home(role) / "records.jsonl")
        return [json.loads(bytes(line.record)) for line in chain.lines if line]

    def write(self, role: str, records: list[Json]) -> None:
        """Put these in the place of a role's records, with hashes that fit."""
        head, data = "", b""
        for record in records:
            line = Line.after(head, json.dumps(record).encode())
            head, data = line.hash, data + msgspec.json.encode(line) + b"\n"
        (self.home(role) / "records.jsonl").write_bytes(data)

    def edit(self, role: str, kind: str, change: Callable[[Json], object], which: int = 0) -> None:
        """Change one record of a role."""
        records = self.records(role)
        change([each for each in records if each["type"] == kind][which])
        self.write(role, records)

    def edit_both(self, kind: str, change: Callable[[Json], object], which: int = 0) -> None:
        for user in ("alice", "bob"):
            self.edit(user, kind, change, which)

    def edit_file(self, path: Path, change: Callable[[Json], object]) -> None:
        content = json.loads(path.read_bytes())
        change(content)
        path.write_text(json.dumps(content))

    def books(self, user: str, change: Callable[[Json], object]) -> None:
        """Change what a key store tells, and what its node put on record of it at its end."""
        self.edit_file(self.home(user) / "books.json", change)
        lanes = json.loads((self.home(user) / "books.json").read_bytes())["lanes"]
        self.edit(user, "RoleStopped", lambda record: record.update(lanes=lanes))

    def array(self, name: str) -> np.ndarray[Any, Any]:
        return np.load(self.state / name)

    def seal_again(self) -> None:
        shutil.rmtree(self.folder / "records" / "run")
        with on_record(self.folder, "train", "digits"):
            pass

    def audit(self) -> Audit:
        return audited(self.folder)


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Tampered:
    shutil.copytree(sound, tmp_path / "run")
    return Tampered(tmp_path / "run")


def failing(audit: Audit) -> set[str]:
    return {check.name for check in audit.checks if check.state == "failed"}


def test_a_good_run_passes_every_check_but_the_one_that_takes_secrets(run: Tampered) -> None:
    audit = run.audit()
    assert audit.passed, list(lines(audit))
    assert [check.name for check in audit.checks if check.state == "not checkable here"] == ["sealed key"]
    assert all(check.looked_at >= 1 for check in audit.checks[:-1])
    assert all(
        each.startswith(("passed", "not checkable", "    note", str(run.folder))) for each in lines(audit)
    )


# -- plants: by name, what is done, and the checks that must fail with a word that must be said --------------


def block_told_twice(run: Tampered) -> None:
    records = run.records("alice")
    again = next(each for each in records if each["type"] == "BlockEnded")
    run.write("alice", [*records[:-1], again, records[-1]])


def block_reused_under_another_lease(run: Tampered) -> None:
    """Both users make key of one block's light a second time."""
    for user in ("alice", "bob"):
        records = run.records(user)
        again = dict(next(each for each in records if each["type"] == "BlockEnded"))
        again |= {"lease_number": 77, "block_id": "block/1/77", "stored": False, "lanes": {}, "spent": None}
        run.write(user, [*records[:-1], {**again, "auth": {}, "secret_bits": 0}, records[-1]])


def qber_edited(run: Tampered) -> None:
    run.edit("alice", "BlockEnded", lambda block: block.update(qber=0.001))


def errors_edited_by_one(run: Tampered) -> None:
    def fewer(block: Json) -> None:
        counts = block["counts"]
        counts["test_errors_by_detector"][0] -= 1
        counts["test_errors"] -= 1

    run.edit("bob", "BlockEnded", fewer)


def errors_edited_by_both(run: Tampered) -> None:
    def fewer(block: Json) -> None:
        counts = block["counts"]
        counts["test_errors"] = 0
        counts["test_errors_by_detector"] = [0, 0]

    run.edit_both("BlockEnded", fewer)


def leak_edited_by_both(run: Tampered) -> None:
    run.edit_both("BlockEnded", lambda block: block.update(disclosed_bits=block["disclosed_bits"] - 64))


def key_longer_than_secret(run: Tampered) -> None:
    """Both users, and both stores, with one more byte of key in the mask lane's last block."""

    def longer(block: Json) -> None:
        block["secret_bits"] += 8
        block["lanes"]["mask"][1] += 8

    def more(books: Json) -> None:
        block = [each for each in books["blocks"] if each["block_id"].startswith("block/")][-1]
        block["n_bits"] += 8
        block["lanes"]["mask"][1] += 8
        piece = [each for each in books["pieces"] if each["lane"] == "mask"][-1]
        piece["span"][1] += 8
        lane = next(each for each in books["lanes"] if each["lane"] == "mask")
        lane["tail"], lane["produced"], lane["stored"] = (lane[n] + 8 for n in ("tail", "produced", "stored"))

    run.edit_both("BlockEnded", longer, -1)
    for user in ("alice", "bob"):
        run.books(user, more)


def rounds_moved_from_test_to_key(run: Tampered) -> None:
    def move(block: Json) -> None:
        block["counts"]["n_key"] += 5
        block["counts"]["n_test"] -= 5

    run.edit_both("BlockEnded", move)


def epsilon_edited(run: Tampered) -> None:
    run.books("bob", lambda books: books["epsilons"][0].update(sec=books["epsilons"][0]["sec"] / 2))


def tags_of_a_weaker_epsilon(run: Tampered) -> None:
    run.edit_both("BlockEnded", lambda block: block["spent"].update(eps_cor=block["spent"]["eps_cor"] / 1e6))


def ledger_gap(run: Tampered) -> None:
    run.books("alice", lambda books: books["reservations"].pop(0))


def ledger_gap_booked_as_burnt(run: Tampered) -> None:
    def burnt(books: Json) -> None:
        gone = books["reservations"].pop(0)["span"][1]
        lane = next(each for each in books["lanes"] if each["lane"] == "mask")
        lane["delivered"] -= gone
        lane["burnt"] += gone

    run.books("alice", burnt)


def two_purposes(run: Tampered) -> None:
    """Bob's end of a pad left for another context, in its store and its records."""
    run.books("bob", lambda books: books["reservations"][0].update(context="ab" * 32))
    run.edit("bob", "PadsTaken", lambda pads: pads.update(context="ab" * 32))


def range_released_twice(run: Tampered) -> None:
    """The second round's masks are the first one's at both ends."""
    for user in ("alice", "bob"):
        first = run.records(user)
        span = next(each for each in first if each["type"] == "PadsTaken")["ranges"]
        run.edit(user, "PadsTaken", lambda pads, span=span: pads.update(ranges=span), 1)
        run.books(user, lambda books: books["reservations"][1].update(span=books["reservations"][0]["span"]))


def block_out_of_one_store(run: Tampered) -> None:
    run.edit_file(run.home("alice") / "books.json", lambda books: books["blocks"].pop())


def store_changed_while_its_node_rested(run: Tampered) -> None:
    def burn(books: Json) -> None:
        lane = next(each for each in books["lanes"] if each["lane"] == "mask")
        lane["stored"] -= 8
        lane["burnt"] += 8
        [each for each in books["pieces"] if each["lane"] == "mask"][-1]["span"][1] -= 8

    run.edit_file(run.home("bob") / "books.json", burn)


def tag_key_used_twice(run: Tampered) -> None:
    spans = [each["auth"] for each in run.records("alice") if each["type"] == "BlockEnded"]
    run.edit("alice", "BlockEnded", lambda block: block.update(auth=spans[0]), 1)


def light_taken_out(run: Tampered) -> None:
    records = run.records("relay")
    first = next(each for each in records if each["type"] == "LightServed")
    run.write("relay", [each for each in records if each is not first])


def lease_taken_out(run: Tampered) -> None:
    records = run.records("orchestrator")
    first = next(each for each in records if each["type"] == "LeaseEnded")
    run.write("orchestrator", [each for each in records if each is not first])


def leases_in_another_order(run: Tampered) -> None:
    records = run.records("orchestrator")
    places = [n for n, each in enumerate(records) if each["type"] == "LeaseEnded"]
    records[places[0]], records[places[1]] = records[places[1]], records[places[0]]
    run.write("orchestrator", records)


def calibration_light_made_key(run: Tampered) -> None:
    run.edit("relay", "LightServed", lambda light: light.update(purpose="calibrate:phase"))
    run.edit("orchestrator", "LeaseEnded", lambda lease: lease.update(purpose="calibrate:phase"))


def another_announcement(run: Tampered) -> None:
    run.edit("relay", "LightServed", lambda light: light.update(announcements="cd" * 32))


def pulses_edited(run: Tampered) -> None:
    run.edit_both("BlockEnded", lambda block: block.update(pulses=block["pulses"] * 2))


def calibration_edited_after_use(run: Tampered) -> None:
    digest = next(each for each in run.records("alice") if each["type"] == "BlockEnded")["testbed"]
    run.edit_file(
        path_of_testbed(run.home("alice"), digest), lambda data: data["calibration"].update(visibility=0.999)
    )


def model_swapped(run: Tampered) -> None:
    np.save(run.state / "model-00002.npy", run.array("model-00000.npy"))


def model_swapped_and_recorded(run: Tampered) -> None:
    model_swapped(run)
    digest = model_digest(run.array("model-00002.npy")).hex()
    run.edit("fl-server", "SumKept", lambda kept: kept.update(model_after=digest), 1)
    for client in ("fl-alice", "fl-bob"):
        run.edit(client, "ModelFollowed", lambda followed: followed.update(model=digest), 1)


def sum_edited(run: Tampered) -> None:
    total = run.array("aggregate-00001.npy")
    total[3] += 1
    np.save(run.state / "aggregate-00001.npy", total)


def upload_swapped(run: Tampered) -> None:
    run.edit("fl-server", "SumKept", lambda kept: kept["uploads"].update(bob="ef" * 32))


def round_taken_out(run: Tampered) -> None:
    run.edit_file(run.state / "run.json", lambda state: state["rounds"].pop())
    run.edit_file(run.folder / "results.json", lambda results: results["rounds"].pop())


def accuracy_edited_in_the_state(run: Tampered) -> None:
    run.edit_file(run.state / "run.json", lambda state: state["rounds"][0].update(accuracy=0.99))


def results_edited(run: Tampered) -> None:
    run.edit_file(run.folder / "results.json", lambda results: results["final"].update(accuracy_mean=0.99))


def accuracy_made_up_everywhere(run: Tampered) -> None:
    run.edit_file(run.state / "run.json", lambda state: state["rounds"][1].update(accuracy=0.99))
    run.edit("fl-server", "SumKept", lambda kept: kept.update(accuracy=0.99), 1)

    def better(results: Json) -> None:
        results["final"]["accuracy_mean"] = 0.99
        for rows in (results["rounds"], *(each["rounds"] for each in results["runs"])):
            rows[1]["accuracy"] = 0.99

    run.edit_file(run.folder / "results.json", better)


def pad_too_short(run: Tampered) -> None:
    def shorter(pads: Json) -> None:
        pads["ranges"] = {peer: [start, n_bits - 8] for peer, (start, n_bits) in pads["ranges"].items()}

    run.edit("alice", "PadsTaken", shorter)


def settings_edited(run: Tampered) -> None:
    run.edit_file(run.state / "run.json", lambda state: state["config"].update(levels=63))


PLANTS: list[tuple[Callable[[Tampered], None], set[str], str]] = [
    (block_told_twice, {"leases", "authentication bits", "epsilons"}, "was told before"),
    (block_reused_under_another_lease, {"leases"}, "relay has no record of the light of block 1/77"),
    (qber_edited, {"figures of blocks from their counts", "blocks of both users"}, "QBER of block/1/"),
    (
        errors_edited_by_one,
        {"blocks of both users", "secret lengths by the protocol's bound"},
        "test_errors of block/1/",
    ),
    (errors_edited_by_both, {"secret lengths by the protocol's bound"}, "its counts give"),
    (
        leak_edited_by_both,
        {"figures of blocks from their counts", "secret lengths by the protocol's bound"},
        "disclosed bits of block/1/",
    ),
    (
        key_longer_than_secret,
        {"secret lengths by the protocol's bound"},
        "secret bits on record; its counts give",
    ),
    (
        rounds_moved_from_test_to_key,
        {"secret lengths by the protocol's bound", "figures of blocks from their counts"},
        "its labels give",
    ),
    (epsilon_edited, {"epsilons"}, "eps_sec"),
    (tags_of_a_weaker_epsilon, {"secret lengths by the protocol's bound", "epsilons"}, "was verified by"),
    (ledger_gap, {"books of key stores", "key stores against records"}, "of them for a known context"),
    (ledger_gap_booked_as_burnt, {"key stores against records"}, "the store nothing"),
    (two_purposes, {"both ends of each pair", "key of the rounds"}, "left alice's store for"),
    (range_released_twice, {"books of key stores", "both ends of each pair"}, "overlap"),
    (
        block_out_of_one_store,
        {"books of key stores", "both ends of each pair", "key stores against records"},
        "unknown",
    ),
    (store_changed_while_its_node_rested, {"books of key stores"}, "not those that it put on record"),
    (tag_key_used_twice, {"authentication bits"}, "was used up to"),
    (light_taken_out, {"leases"}, "relay has no record of"),
    (lease_taken_out, {"leases"}, "orchestrator has no record of lease"),
    (leases_in_another_order, {"leases"}, "follows"),
    (calibration_light_made_key, {"leases"}, "comes from light for calibrate:phase"),
    (another_announcement, {"announcements"}, "the announcement of lease"),
    (pulses_edited, {"leases", "secret lengths by the protocol's bound"}, "pair, frames and pulses"),
    (
        calibration_edited_after_use,
        {"testbeds by digest", "secret lengths by the protocol's bound"},
        "the plan of block/1/",
    ),
    (
        model_swapped,
        {"models from round to round", "accuracy of the final model"},
        "does not follow from the one before",
    ),
    (
        model_swapped_and_recorded,
        {"models from round to round", "accuracy of the final model"},
        "does not follow from the one before",
    ),
    (sum_edited, {"models from round to round"}, "the sum of round 1"),
    (upload_swapped, {"uploads"}, "the upload of bob in round 1"),
    (round_taken_out, {"rounds of the learning server", "reported figures"}, "not in the run's state"),
    (
        accuracy_edited_in_the_state,
        {"rounds of the learning server", "reported figures"},
        "accuracy of round 1",
    ),
    (results_edited, {"reported figures"}, "the final accuracy is told as"),
    (accuracy_made_up_everywhere, {"accuracy of the final model"}, "reported are 0.9900"),
    (pad_too_short, {"key of the rounds", "key stores against records"}, "took 248 bits, not 256"),
    (settings_edited, {"reported figures", "models from round to round"}, "was agreed on as"),
]


@pytest.mark.parametrize(("plant", "checks", "word"), PLANTS, ids=lambda each: getattr(each, "__name__", ""))
def test_what_was_planted_is_named(
    run: Tampered, plant: Callable[[Tampered], None], checks: set[str], word: str
) -> None:
    plant(run)
    run.seal_again()
    audit = run.audit()
    assert failing(audit) == checks, list(lines(audit))
    assert any(word in found.what for check in audit.checks for found in check.findings), list(lines(audit))


def test_an_edit_without_new_hashes_breaks_the_chain_and_the_seal(run: Tampered) -> None:
    path = run.home("relay") / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"lost_frames":[]', b'"lost_frames":[1]', 1))
    audit = run.audit()
    assert {"chains of records", "files of the run"} <= failing(audit)


def test_files_that_change_or_go_after_the_end_show(run: Tampered) -> None:
    (run.state / "model-00001.npy").unlink()
    (run.folder / "plan.json").write_text("{}")
    audit = run.audit()
    found = [each.what for check in audit.checks for each in check.findings]
    assert f"state/fl-server/{RUN_ID}/model-00001.npy is gone" in found
    assert failing(audit) == {"files of the run", "models from round to round"}


def test_the_end_taken_off_a_chain_shows_in_the_store(run: Tampered) -> None:
    """A chain proves nothing about what comes after its end; the store and the others do."""
    records = run.records("alice")
    last = max(n for n, each in enumerate(records) if each["type"] == "BlockEnded")
    run.write("alice", records[:last])
    run.seal_again()
    audit = run.audit()
    assert {"key stores against records", "epsilons"} <= failing(audit)
    assert any("no record tells of it" in found.what for check in audit.checks for found in check.findings)


def test_a_half_written_last_record_is_said_and_no_fraud(run: Tampered) -> None:
    with (run.home("bob") / "records.jsonl").open("ab") as file:
        file.write(b'{"before":"0a')
    run.seal_again()
    audit = run.audit()
    assert audit.passed, list(lines(audit))
    assert any("bob was killed while it wrote" in note for check in audit.checks for note in check.notes)


def test_roles_whose_records_are_elsewhere_leave_things_unchecked_and_not_failed(run: Tampered) -> None:
    shutil.rmtree(run.home("bob"))
    shutil.rmtree(run.home("relay"))
    run.seal_again()
    audit = run.audit()
    assert audit.passed, list(lines(audit))
    states = {check.name: check.state for check in audit.checks}
    assert states["announcements"] == states["both ends of each pair"] == "not checkable here"
    notes = [note for check in audit.checks for note in check.notes]
    assert any("the records of bob are not here" in note for note in notes)


@pytest.mark.parametrize("damage", ["null", '{"rounds":', "[" * 3000])
def test_damaged_files_are_told_and_do_not_end_the_audit(run: Tampered, damage: str) -> None:
    (run.home("alice") / "books.json").write_text(damage)
    (run.folder / "results.json").write_text(damage)
    (run.folder / "report.json").write_text(damage)
    path = run.home("alice") / "records.jsonl"
    path.write_text(path.read_text() + damage + "\n")
    audit = run.audit()
    assert {"chains of records", "files of the run"} <= failing(audit)


def test_the_command_says_each_check_in_a_line_and_its_exit_code_what_came_out(
    run: Tampered, qunetlab: Command
) -> None:
    said = qunetlab("audit", str(run.folder))
    assert said.returncode == 0
    assert "passed               secret lengths by the protocol's bound" in said.stdout
    model_swapped(run)
    said = qunetlab("audit", str(run.folder), "--json")
    assert said.returncode == 1
    found = msgspec.json.decode(said.stdout, type=Audit)
    assert "files of the run" in failing(found)
    said = qunetlab("audit", str(run.folder / "none"))
    assert (said.returncode, said.stdout) == (2, "")
    assert "is no folder: name that of a run" in said.stderr


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="holds no records"):
        audited(tmp_path)
    with pytest.raises(AuditError, match="is no folder"):
        audited(tmp_path / "none")


def test_no_key_is_in_the_records_of_a_run(sound: Path) -> None:
    """The sealed store is opened with its owner's key, and its bits are looked for in every file of the run."""
    from audited_run import stored_key

    files = [path.read_bytes() for path in sorted(sound.rglob("*")) if path.is_file()]
    for user in ("alice", "bob"):
        pieces = stored_key(sound.parent / "made", user)
        assert pieces
        for start in (each[n : n + 16] for each in pieces for n in range(0, len(each) - 16, 16)):
            assert not any(start in data or start.hex().encode() in data for data in files)
