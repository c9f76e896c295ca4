"""``qunetlab queue`` and ``keygen`` on a ring that runs: the commands of operators, their words and their exit codes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from queue_ring import Light, agent_at, parties
from typer.testing import CliRunner

from lab.calibration.book import Value, read_book, write_book
from lab.calibration.steps import LEASED, STEPS, Step
from lab.cli import queue
from lab.cli.errors import explain
from lab.cli.main import app
from lab.cli.queue import bits_of, seconds_of, stale_steps
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator import runtime
from orchestrator.events.process import HubServing
from orchestrator.processes.orchestrator_process import run_orchestrator
from orchestrator.wire.curve import load_keys
from orchestrator.wire.queue_control import HistoryShown, QueueShown

pytestmark = pytest.mark.early

USERS = ("alice", "bob", "carol")


class Bench:
    """A testbed folder whose orchestrator runs in a thread, with parties whose light is a meeting."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.path = create_folder(folder / "bench", template_path("simulated-reference"))
        secrets, state = self.path.parent / "secrets", self.path.parent / "state" / "orchestrator"
        state.mkdir(parents=True)
        stop, serving = threading.Event(), runtime.future()

        def emit(event: Any) -> None:
            if isinstance(event, HubServing):
                serving.set_result(event)

        testbed = load_testbed(self.path)
        thread = threading.Thread(
            target=run_orchestrator, args=(testbed, secrets / "orchestrator", state, stop, emit)
        )
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        hub = serving.result(20.0)
        keys = {role: load_keys(secrets / role) for role in ("orchestrator", "relay", *USERS)}
        self.light = Light()
        agents = {
            role: agent_at(stack, role, keys, hub.control, hub.bulk, testbed) for role in ("relay", *USERS)
        }
        self.parties = parties(stack, agents.__getitem__, self.light)
        stack.callback(self.light.shining.set)

    def run(self, *arguments: str, as_json: bool = True) -> Any:
        """``qunetlab ARGUMENTS`` for this testbed, its answer as JSON; raises what it raises."""
        command = [*arguments, "--testbed", str(self.path), *(["--json"] if as_json else [])]
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.splitlines()[-1]) if as_json else done.output

    def refused(self, *arguments: str) -> tuple[int, str]:
        """Exit code and words of a command that is refused."""
        done = CliRunner().invoke(app, [*arguments, "--testbed", str(self.path)])
        if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
            return explain(done.exception)
        return done.exit_code, done.output


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, stack)


def test_a_day_at_the_queue(bench: Bench) -> None:
    bench.run("queue", "hold", "--owner", "olga")
    assert bench.run("queue", "list")["held_by"] == "olga"
    (key,) = bench.run("queue", "add", "key", "bob-alice", "--bits", "2k", "--owner", "olga")["entries"]
    assert (key["number"], key["what"], key["owner"]) == (1, "2,000 bits for alice-bob", "olga")
    (stock,) = bench.run(
        "queue", "add", "run", "carol,alice,bob", "--bits", "1000", "--until-stock", "--priority", "2"
    )["entries"]
    assert stock["what"] == "run: stock up to 1,000 bits for every pair of alice, bob, carol"
    (lock,) = bench.run("queue", "add", "maintenance", "--note", "fibre", "--owner", "olga")["entries"]
    code, text = bench.refused("queue", "add", "maintenance", "--owner", "pete")
    assert code == 1
    assert "olga waits for the bench since" in text
    assert "(entry 3: fibre)" in text
    assert bench.run("queue", "abort", str(lock["number"]), "--owner", "olga")["done"].startswith(
        "entry 3 is aborted"
    )
    moved = bench.run("queue", "move", "1", "--priority", "-1", "--due-in", "2h")["entries"]
    assert [(row["number"], row["priority"]) for row in moved] == [(1, -1), (2, 2)]
    assert "the queue is resumed" in bench.run("queue", "resume", as_json=False)
    deadline = time.monotonic() + 30.0
    while {row["state"] for row in bench.run("queue", "list", "--closed", "5")["entries"]} != {
        "done",
        "aborted",
    }:
        assert time.monotonic() < deadline
    page = bench.run("queue", "list", "--closed", "5", as_json=False)
    assert "2,000 bits for alice-bob" in " ".join(page.split())
    lines = bench.run("queue", "history")["lines"]
    assert [line["what"] for line in lines if line["entry"] == 3] == ["added: maintenance", "aborted"]
    assert lines[0]["what"] == "holds the queue"
    assert lines[0]["who"] == "olga"
    told = bench.run("queue", "history", "1", as_json=False)
    assert "entry 1: moved to priority -1, due in 7200 s" in told


def test_all_that_is_stale_for_a_pair_is_one_entry_and_the_list_fits_eighty_columns(bench: Bench) -> None:
    bench.run("queue", "hold", "--owner", "olga")
    (row,) = bench.run("queue", "add", "calibration", "visibility", "phase", "--pair", "alice-bob")["entries"]
    assert row["steps"] == ["phase", "visibility"]
    assert (row["ring_s"], row["unmeasured_steps"]) == (None, ["phase", "visibility"])
    asked = ["queue", "add", "calibration", "--pair", "bob-alice", "--testbed", str(bench.path), "--json"]
    done = CliRunner().invoke(app, asked, catch_exceptions=False)
    (stale,) = json.loads(done.stdout.splitlines()[-1])["entries"]
    # Nobody here has a polarisation controller.
    assert stale["steps"] == [step for step in STEPS if step in LEASED and step is not Step.POLARIZATION]
    assert "intensity: not through the queue, but with `qunetlab calibrate`" in " ".join(done.stderr.split())
    bench.run("queue", "add", "key", "alice-carol", "--bits", "1M", "--note", "for the demonstration " * 5)
    page = (
        CliRunner(env={"COLUMNS": "80"}).invoke(app, ["queue", "list", "--testbed", str(bench.path)]).stdout
    )
    assert max(map(len, page.splitlines())) <= 80
    words = " ".join(page.split())
    assert "1: the ring rests: olga holds the queue since" in words
    assert "how long phase, visibility takes is unknown until it was done once" in words
    assert "0 of 2" in words


def test_what_is_stale_is_what_the_book_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.now(UTC).replace(microsecond=0)
    machine = Machine(bench.path, None)
    v_pi_v = machine.testbed.user("alice").v_pi_v

    def calibrated(user: str, age_h: float) -> None:
        measured = at - timedelta(hours=age_h)
        value = Value(value=v_pi_v, uncertainty=0.01, step=Step.PHASE, measured=measured)
        book = read_book(bench.path, read_testbed(bench.path))
        write_book(bench.path, book.with_values(user, {"v_pi_v": value}))

    calibrated("alice", 0.0)
    assert "phase" in stale_steps(machine, ("alice", "bob"))[0]
    calibrated("bob", 0.0)
    assert "phase" not in stale_steps(machine, ("alice", "bob"))[0]
    calibrated("bob", STEPS[Step.PHASE].valid_h + 1.0)
    assert "phase" in stale_steps(machine, ("alice", "bob"))[0]
    monkeypatch.setattr(queue, "stale_steps", lambda machine, pair: ([], []))
    told = bench.run("queue", "add", "calibration", "--pair", "alice-bob", as_json=False)
    assert "nothing that the queue can calibrate is stale for alice-bob" in told
    assert bench.run("queue", "list")["entries"] == []


def schema_text() -> str:
    """The JSON Schema of what ``queue list`` and ``queue history`` print with ``--json``, without docstrings."""
    kinds, parts = msgspec.json.schema_components((QueueShown, HistoryShown), ref_template="#/$defs/{name}")
    for part in parts.values():
        part.pop("description", None)
    draft = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps({"$schema": draft, "anyOf": kinds, "$defs": parts}, indent=1) + "\n"


def test_what_the_queue_prints_for_programs_is_as_its_published_schema_says(bench: Bench) -> None:
    published = (Path(__file__).parents[2] / "docs/queue.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "write what schema_text() says there"
    validator = jsonschema.Draft202012Validator(json.loads(published))
    bench.run("queue", "hold", "--owner", "olga")
    bench.run("queue", "add", "calibration", "phase", "--pair", "alice-bob")
    bench.run("queue", "add", "key", "alice-bob", "--bits", "2k", "--due-in", "1h")
    validator.validate(bench.run("queue", "list", "--closed", "9"))
    validator.validate(bench.run("queue", "history"))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"entries": []})


def test_keygen_on_a_ring_that_runs_becomes_an_entry_and_is_followed(bench: Bench) -> None:
    done = CliRunner().invoke(
        app,
        ["keygen", "bob", "alice", "--bits", "3k", "--testbed", str(bench.path), "--json"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout.splitlines()[-1])["entries"]
    assert (row["state"], row["made_bits"]) == ("done", 3000)
    assert bench.light.blocks == {("alice", "bob"): 3}
    assert "entry 1: done, 3,000 of 3,000 bits" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("queue", "add", "key", "alice-mallory", "--bits", "1k"), 2, "alice-mallory is no pair of"),
        (("queue", "add", "key", "alice-bob", "--bits", "many"), 2, "'many' is no number of bits"),
        (("queue", "add", "key", "alice-bob"), 2, "of --bits N"),
        (("queue", "add", "key", "--bits", "1k"), 2, "name the pair"),
        (("queue", "add", "run", "alice,zoe", "--bits", "1k"), 2, "zoe: no users of"),
        (("queue", "add", "run", "alice", "--bits", "1k"), 2, "two users or more"),
        (
            ("queue", "add", "calibration", "colour", "--pair", "alice-bob"),
            1,
            "no calibration is called 'colour'",
        ),
        (
            ("queue", "add", "key", "alice-bob", "--bits", "1k", "--due-in", "soon"),
            2,
            "'soon' is no duration",
        ),
        (
            ("queue", "add", "key", "alice-bob", "--bits", "1k", "--priority", "99"),
            1,
            "a priority is -10 to 10",
        ),
        (("queue", "abort", "9"), 1, "there is no entry 9"),
        (("queue", "resume"), 1, "the queue is not held"),
        (("queue", "history", "9"), 1, "there is no entry 9"),
        (("keygen", "alice", "bob"), 2, "give --bits"),
        (("keygen", "alice", "bob", "--bits", "1k", "--blocks", "2"), 2, "not both"),
        (("keygen", "alice", "mallory", "--bits", "1k"), 2, "is no pair of this testbed"),
    ],
)
def test_what_cannot_be_is_told_with_what_to_do(
    bench: Bench, arguments: tuple[str, ...], code: int, told: str
) -> None:
    found = bench.refused(*arguments)
    assert found[0] == code
    assert told in " ".join(found[1].split())
    assert bench.run("queue", "list", "--closed", "5")["entries"] == []


def test_without_an_orchestrator_the_history_is_there_and_all_else_says_what_to_start(tmp_path: Path) -> None:
    with ExitStack() as stack:
        bench = Bench(tmp_path, stack)
        bench.run("queue", "hold", "--owner", "olga")
    assert [line["what"] for line in bench.run("queue", "history")["lines"]] == ["holds the queue"]
    code, text = bench.refused("queue", "list")
    assert code == 2
    assert "no orchestrator runs on this machine" in text
    assert "qunetlab orchestrator" in text
    code, text = bench.refused("keygen", "alice", "bob", "--bits", "1k", "--priority", "2")
    assert code == 2
    assert "no orchestrator listens at" in text


def test_a_physical_ring_is_never_simulated(tmp_path: Path) -> None:
    path = create_folder(tmp_path / "bench", template_path("simulated-reference"))
    data = read_testbed(path)
    del data["simulation"]
    write_testbed(data, path)
    done = CliRunner().invoke(app, ["keygen", "alice", "bob", "--bits", "1k", "--testbed", str(path)])
    assert done.exception is not None
    code, told = explain(done.exception) if isinstance(done.exception, Exception) else (0, "")
    assert code == 2
    assert "is no simulated testbed and its orchestrator does not run on this machine" in told


@pytest.mark.parametrize(
    ("text", "bits"), [("1", 1), ("250k", 250_000), ("1.5M", 1_500_000), ("2G", 2 * 10**9)]
)
def test_amounts(text: str, bits: int) -> None:
    assert bits_of(text) == bits


@pytest.mark.parametrize("text", ["", "0", "-1", "k", "1e6", "0.2", "1 M", "inf"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="no number of bits"):
        bits_of(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("30m", 1800.0), ("2h", 7200.0), ("0.5d", 43200.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    with pytest.raises(ValueError, match="no duration"):
        seconds_of(text[:-1])
