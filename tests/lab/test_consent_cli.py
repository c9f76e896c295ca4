"""``qunetlab fl consent``: what an operator reads, what a yes leaves, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from fl.rounds.aggregation import described
from fl.rounds.config import FLConfig
from fl.rounds.consent_words import explained, told
from fl.workloads import load_task
from lab.cli.main import app
from lab.runs.consent import ConsentMissingError, book_of, consent_of_simulated, missing_consents
from lab.runs.testbeds.folder import template_path
from orchestrator.delivery.consent import RunDescription
from orchestrator.delivery.consent_book import write_run_file

USERS = ("alice", "bob", "carol", "dave")


def run_of(**changes: Any) -> RunDescription:
    task = load_task("digits")
    chosen = {"run_id": "run-1", "rounds": 2, **changes}
    return described(FLConfig.for_task(task, chosen.pop("users", USERS), **chosen), task)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consent")
    (folder / "testbed.toml").write_bytes(template_path("simulated-four-node").read_bytes())
    for user in USERS:
        (folder / "secrets" / f"fl-{user}").mkdir(parents=True)
    write_run_file(folder / "run.json", run_of())
    return folder


def test_an_operator_reads_what_it_is_and_a_yes_is_kept(qunetlab: Any, place: Path, tmp_path: Path) -> None:
    arguments = ("fl", "consent", str(place / "run.json"), "--user", "alice", "--testbed", str(place))
    state = ("--state", str(tmp_path))
    no = CliRunner().invoke(app, [*arguments, *state], input="n\n")
    assert no.exit_code == 1
    assert "nothing was written" in no.stdout
    assert not book_of("alice", tmp_path).consents()
    yes = CliRunner().invoke(app, [*arguments, *state], input="y\n")
    assert yes.exit_code == 0, yes.stdout
    for words in (
        "with bob, carol, dave",
        "for 2 rounds",
        "all weights are 1",
        "the sum of the updates",
        run_of().name,
    ):
        assert words in yes.stdout
    (consent,) = book_of("alice", tmp_path).consents()
    assert (consent.user, consent.description) == ("alice", run_of())
    assert qunetlab(*arguments, *state, "--yes").returncode == 0, "the same once more changes nothing"


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("eve", "--user eve: no such user in"),
        (None, "say whose consent this is, with --user: on this machine are alice, bob, carol, dave"),
    ],
)
def test_a_user_that_is_unknown_or_not_named_is_told(
    qunetlab: Any, place: Path, tmp_path: Path, user: str | None, words: str
) -> None:
    who = () if user is None else ("--user", user)
    said = qunetlab("fl", "consent", str(place / "run.json"), "--testbed", str(place), *who, "--yes")
    assert said.returncode == 2
    assert words in said.stderr
    said = qunetlab(
        "fl", "consent", str(place / "run.json"), "--user", "eve", "--state", str(tmp_path), "--yes"
    )
    assert said.returncode == 2
    assert "not among the participants of run run-1: alice, bob, carol, dave" in said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place_in_file", "value", "words"),
    [
        (("weights", 1), 0, r"weights"),
        (("weights", 1), 1 << 40, r"weights"),
        (("rounds",), 4, "was edited"),
        (("clip",), 0.5, "was edited"),
        (("participants", 3), "eve", "was edited"),
    ],
)
def test_a_run_file_that_was_edited_is_refused_with_its_place(
    qunetlab: Any, tmp_path: Path, place_in_file: tuple[Any, ...], value: Any, words: str
) -> None:
    path = tmp_path / "run.json"
    write_run_file(path, run_of())
    data = json.loads(path.read_text())
    inner = data["description"]
    for key in place_in_file[:-1]:
        inner = inner[key]
    inner[place_in_file[-1]] = value
    path.write_text(json.dumps(data))
    state = tmp_path / "state"
    said = qunetlab("fl", "consent", str(path), "--user", "alice", "--state", str(state), "--yes")
    assert said.returncode == 2
    assert str(path) in said.stderr
    assert words in said.stderr
    assert not state.exists()


def test_another_set_over_the_same_data_is_agreed_to_by_naming_what_it_tells(
    qunetlab: Any, tmp_path: Path
) -> None:
    state = ("--user", "alice", "--state", str(tmp_path / "state"), "--yes")
    write_run_file(tmp_path / "one.json", run_of())
    write_run_file(tmp_path / "two.json", run_of(users=USERS[:3], run_id="run-2"))
    assert qunetlab("fl", "consent", str(tmp_path / "one.json"), *state).returncode == 0
    refused = qunetlab("fl", "consent", str(tmp_path / "two.json"), *state)
    assert refused.returncode == 2
    for words in ("dave took part in one of them only", "approximately known (correlation about .8)"):
        assert words in refused.stderr
    assert len(book_of("alice", tmp_path / "state").consents()) == 1
    agreed = qunetlab("fl", "consent", str(tmp_path / "two.json"), *state, "--accept-leak", "run-1")
    assert agreed.returncode == 0, agreed.stderr
    assert "accepted: alice takes part in run 'run-1'" in agreed.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"users": USERS[:2]}, "each learns the other's update"),
        ({}, "if 2 of the participants tell the server"),
        ({"mode": "lightsecagg"}, "clients may be missing, and then the missing client's last update"),
        ({"mode": "expanded"}, "computational: it rests on a cipher"),
        ({"mode": "plain"}, "the learning server sees every update"),
        ({"mode": "otp"}, "if a participant is away the run pauses"),
        ({}, "of a single one of the 4 clients only what follows here"),
        ({}, "in which of four bands the shares of its values lie"),
        ({}, "no client can check a published sum"),
        ({}, "whoever is not in a run is not asked about it"),
        ({"weights": (1, 2, 4, 1)}, "the heavier it is beside the others"),
        ({"mode": "lightsecagg"}, "the more rounds it repeats from one model the better"),
    ],
)
def test_what_leaks_is_said_in_plain_words(changes: dict[str, Any], words: str) -> None:
    assert any(words in line for line in told(run_of(**changes)))


def test_what_only_the_server_says_is_called_the_servers_words() -> None:
    known, unknown = run_of(), msgspec.structs.replace(run_of(), task_fingerprint="")
    assert not any("the server's" in line for line in explained(known, "alice")[:3])
    assert "the one that seed 0 gives" in explained(known, "alice")[2]
    first, _, model, *_ = explained(unknown, "alice")
    assert "the server's words" in first
    assert model.startswith("the first model is the server's (")


def test_what_it_costs_is_said() -> None:
    lines = explained(run_of(), "alice")
    assert any(
        f"{1810 * 10} bits with each of 3 in a round, {1810 * 10 * 2 * 3} bits in all" in each
        for each in lines
    )


def test_a_run_consents_for_its_simulated_users_and_for_no_real_one(tmp_path: Path) -> None:
    for run in (run_of(), run_of(run_id="run-2", users=USERS[:3])):
        write_run_file(tmp_path / "run.json", run)
        assert consent_of_simulated(tmp_path / "run.json", USERS[:2], tmp_path) == USERS[:2]
    assert len(book_of("bob", tmp_path).consents()) == 2
    with pytest.raises(
        ConsentMissingError, match=r"carol have not consented.*\n.*--user carol.*\n.*--resume"
    ):
        missing_consents(tmp_path / "run.json", ("alice", "carol"), tmp_path / "testbed.toml", tmp_path)
    write_run_file(tmp_path / "run.json", msgspec.structs.replace(run_of(), run_id="run-3"))
    with pytest.raises(ConsentMissingError, match="alice"):
        missing_consents(tmp_path / "run.json", ("alice",), tmp_path / "testbed.toml", tmp_path)
