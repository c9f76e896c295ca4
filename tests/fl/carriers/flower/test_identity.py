"""Proofs with CURVE keys: who is behind a Flower node, and who made a message."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

from flwr.app import Context, RecordDict

from fl.carriers.flower.counter import CounterError, RoundCounter
from fl.carriers.flower.identity import IdentityError, client_bond, server_bond
from fl.carriers.flower.participant import SetupError, TestbedKeys, participant_of
from fl.carriers.flower.records import CONFIG, Introduction, open_record, record_of
from fl.carriers.flower.roster import Roster
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed
from orchestrator.core_files import LIMIT_BYTES
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import generate_keys, load_keys

Make = Callable[..., Any]
MESSAGE, DIGEST = b"message", b"d" * 32


def test_both_ends_of_a_bond_make_the_same_proof_and_nobody_else() -> None:
    server, alice, mallory = generate_keys(), generate_keys(), generate_keys()
    tag = client_bond(alice, server.public).tag("to server", 1, 2, MESSAGE, DIGEST)
    check = server_bond(server, alice.public).check
    check(tag, "to server", 1, 2, MESSAGE, DIGEST)
    for wrong in [
        ("to client", 1, 2, MESSAGE, DIGEST),  # turned back to where it came from
        ("to server", 2, 2, MESSAGE, DIGEST),  # another run
        ("to server", 1, 3, MESSAGE, DIGEST),  # another Flower node
        ("to server", 1, 2, MESSAGE + b"!", DIGEST),
        ("to server", 1, 2, MESSAGE, b"e" * 32),  # another update beside it
        ("to server", 1, 2, DIGEST + MESSAGE, b""),  # bytes moved from one field to the next
    ]:
        with pytest.raises(IdentityError):
            check(tag, *wrong)  # type: ignore[arg-type]
    with pytest.raises(IdentityError):
        check(
            client_bond(mallory, server.public).tag("to server", 1, 2, MESSAGE, DIGEST),
            "to server", 1, 2, MESSAGE, DIGEST,
        )  # fmt: skip


@pytest.fixture
def testbed(tmp_path: Path) -> Path:
    return create_folder(tmp_path / "lab", template_path("simulated-four-node"), host="127.0.0.1", port=47900)


def test_the_testbed_file_is_read_as_the_rest_of_the_house_reads_it(testbed: Path) -> None:
    mine, theirs = TestbedKeys.read(testbed.parent), load_testbed(testbed)
    assert tuple(mine.users) == theirs.user_names()
    for user in theirs.user_names():
        assert mine.delivery(user) == theirs.user(user).delivery
        assert mine.clients()[user] == theirs.public_key(f"fl-{user}")
    with pytest.raises(SetupError, match="no public key of fl-mallory"):
        mine.public_key("fl-mallory")


def node(testbed: Path, user: str, **more: Any) -> Context:
    return Context(7, 9, {"user": user, "testbed": str(testbed), **more}, RecordDict(), {})


def test_a_node_config_names_a_user_whose_key_pair_is_there(testbed: Path, tmp_path: Path) -> None:
    alice = participant_of(node(testbed, "alice", mode="lightsecagg", state=str(tmp_path / "state")))
    assert (alice.user, alice.key_supply, alice.rules.mode) == ("alice", "node", "lightsecagg")
    assert alice.public_key == load_testbed(testbed).public_key("fl-alice")
    assert alice.state_folder == tmp_path / "state" / "fl-alice"
    assert "secret" not in repr(alice)
    with pytest.raises(Exception, match=r"fl-mallory"):
        participant_of(node(testbed, "mallory"))


def test_a_process_that_holds_a_users_keys_leaves_no_core_file(testbed: Path) -> None:
    """Flower starts it, with a command line that is not ours; so the mod sees to it before it loads the keys."""
    program = (
        "import resource, sys\n"
        "from flwr.app import Context, RecordDict\n"
        "from fl.carriers.flower.participant import participant_of\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        "participant_of(Context(7, 9, {'user': 'alice', 'testbed': sys.argv[1]}, RecordDict(), {}))\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(testbed)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert max(ast.literal_eval(done.stdout)) <= LIMIT_BYTES


def test_another_users_key_pair_is_no_identity(testbed: Path) -> None:
    secrets = testbed.parent / "secrets"
    for name in ("curve.public", "curve.secret"):
        (secrets / "fl-alice" / name).write_bytes((secrets / "fl-bob" / name).read_bytes())
    with pytest.raises(SetupError, match="not the one of fl-alice"):
        participant_of(node(testbed, "alice"))


def test_an_introduction_needs_the_proof_of_the_key_pair_in_the_file(testbed: Path, federation: Make) -> None:
    """Node 100 says it is alice; only with alice's key pair is it believed."""
    file = TestbedKeys.read(testbed)
    secrets = testbed.parent / "secrets"
    grid = federation(n_clients=1).grid
    own: dict[str, Any] = {}

    def introduce(reply: Any) -> Any:
        said, _, _ = open_record(reply.content, Introduction)
        answer = Introduction("alice", own["keys"].public, "node", own.get("nonce", said.nonce))
        tag = client_bond(own["keys"], file.public_key("fl-server")).tag(
            "to server", reply.metadata.run_id, own.get("node", 100), encode(answer)
        )
        reply.content[CONFIG] = record_of(answer, tag)
        return reply

    grid.answer = introduce
    for case in (
        {"keys": load_keys(secrets / "fl-bob")},
        {"keys": load_keys(secrets / "fl-alice"), "nonce": b"n" * 32},
        {"keys": load_keys(secrets / "fl-alice"), "node": 101},
    ):
        own.clear()
        own.update(case)
        roster = Roster.of_testbed(file.clients(), load_keys(secrets / "fl-server"))
        assert roster.greet(grid) == ()
    own.clear()
    own["keys"] = load_keys(secrets / "fl-alice")
    roster = Roster.of_testbed(file.clients(), load_keys(secrets / "fl-server"))
    assert roster.greet(grid) == ("alice",)
    assert roster.user_of(100) == "alice"


def test_simulated_clients_do_not_pass_for_users(testbed: Path, federation: Make) -> None:
    file = TestbedKeys.read(testbed)
    roster = Roster.of_testbed(file.clients(), load_keys(testbed.parent / "secrets" / "fl-server"))
    assert roster.greet(federation().grid) == ()


def test_round_numbers_are_durable_and_never_come_back(tmp_path: Path) -> None:
    assert [RoundCounter(tmp_path, "run").next() for _ in range(3)] == [1, 2, 3]
    assert RoundCounter(tmp_path, "other").next() == 1
    (tmp_path / "rounds-run.json").write_text("{")
    with pytest.raises(CounterError, match="numbers may have been used"):
        RoundCounter(tmp_path, "run").next()


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that is read-only, and a disk that is full."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CounterError, match=r"file/flwr: Not a directory\.  Give the server app a state folder"
    ):
        RoundCounter(tmp_path / "file" / "flwr", "run")
    counter = RoundCounter(tmp_path, "run")

    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("fl.carriers.flower.counter.replace_file", full)
    with pytest.raises(CounterError, match=r"rounds-run\.json: No space left on device.*has room"):
        counter.next()


def test_the_example_names_files_that_exist() -> None:
    import fl.carriers.flower

    folder = Path(fl.carriers.flower.__file__).parent / "example"
    app = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for component in app["components"].values():
        module = component.split(":")[0].replace(".", "/")
        assert (folder / f"{module}.py").exists()
