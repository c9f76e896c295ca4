"""The command line as its user sees it: exit codes, messages, machine-readable output."""

from __future__ import annotations

import json
import os
import socket
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from command_line import run_qunetlab

from drivers.catalogue import AddressKind, row
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, write_testbed
from orchestrator.keystore.pair_secret import PairSecret

pytestmark = pytest.mark.early


def test_init_makes_a_folder_that_checks_and_keeps_its_secrets_private(qunetlab: Any, tmp_path: Path) -> None:
    made = qunetlab("init", str(tmp_path / "bench"), "--json")
    assert made.returncode == 0, made.stderr
    testbed = load_testbed(Path(json.loads(made.stdout)["testbed"]))
    assert set(testbed.keys) == set(testbed.roles())
    secret_files = [path for path in (tmp_path / "bench" / "secrets").rglob("*") if path.is_file()]
    private = [path for path in secret_files if path.suffix != ".public"]
    certificates = 4 * 4 + (3 + 4)  # of the nodes, and the authority's with what it issued
    assert len(private) == len(testbed.roles()) + 4 + 12 + certificates
    for path in private:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    halves = [
        PairSecret.read(tmp_path / "bench/secrets/alice/initial/bob.secret"),
        PairSecret.read(tmp_path / "bench/secrets/bob/initial/alice.secret"),
    ]
    assert [half.holder for half in halves] == ["alice", "bob"]
    assert len({(half.auth_ab.reveal_bytes(), half.auth_ba.reveal_bytes()) for half in halves}) == 1
    assert qunetlab("check", str(tmp_path / "bench")).returncode == 0
    text = (tmp_path / "bench" / "testbed.toml").read_text()
    for path in private:
        assert path.read_bytes().hex() not in text


def test_init_for_a_host_leaves_no_endpoint_open(qunetlab: Any, tmp_path: Path) -> None:
    made = qunetlab("init", str(tmp_path / "bench"), "--host", "192.168.1.10", "--port", "5000")
    assert made.returncode == 0, made.stderr
    testbed = load_testbed(tmp_path / "bench" / "testbed.toml")
    assert testbed.hub.control == "tcp://192.168.1.10:5000"
    assert testbed.hub.bulk == "tcp://192.168.1.10:5001"
    assert testbed.fl.server == "tcp://192.168.1.10:5002"
    assert [user.delivery for user in testbed.users] == [f"tcp://127.0.0.1:{5003 + k}" for k in range(4)]


FILES = {
    "bad.toml": "{bad",
    "eve.toml": 'clients = ["alice", "eve"]',
    "near.toml": "ring_width = 9\nweights = 3",
}


@pytest.mark.parametrize(
    ("command", "more", "code", "told"),
    [
        (["fl", "client", "alice"], [], 2, "users.alice.delivery is 'auto'"),
        (["relay"], [], 3, "laser: ValueError: address is 'auto'"),
        (["fl", "server"], ["--config", "bench/bad.toml"], 2, "bad.toml is no TOML"),
        (["fl", "server"], ["--config", "bench/eve.toml"], 2, "no user 'eve' in"),
        (
            ["fl", "server"],
            ["--config", "bench/near.toml"],
            2,
            "there is no option 'ring_width'; is ring-width meant?\n  weights is 3: it must be a list",
        ),
        (["fl", "server"], ["--rounds", "0"], 2, "0 is not in the range x>=1"),
        (
            ["fl", "server"],
            ["--clip", "-1"],
            2,
            "clip is -1.0: it must be greater than 0",
        ),
        (["fl", "server"], ["--task", "nowhere_at_all:Task"], 2, "there is no module nowhere_at_all"),
        (
            ["fl", "client", "alice"],
            ["--task", "nowhere_at_all:Task"],
            2,
            "there is no module nowhere_at_all",
        ),
        (["fl", "server"], ["--data", "nowhere"], 2, "data nowhere: there is no such file or folder"),
        (["fl", "server"], ["--config", "nowhere"], 2, "nowhere: No such file or directory"),
    ],
)
def test_what_a_role_lacks_is_told_in_words(
    qunetlab: Any, command: list[str], more: list[str], code: int, told: str, tmp_path: Path
) -> None:
    assert qunetlab("init", str(tmp_path / "bench")).returncode == 0
    for name, text in FILES.items():
        (tmp_path / "bench" / name).write_text(text)
    said = run_qunetlab(*command, str(tmp_path / "bench"), *more, cwd=tmp_path)
    assert said.returncode == code, said.stderr
    assert told in said.stderr
    assert "Traceback" not in said.stderr


def test_two_orchestrators_at_one_endpoint_are_told_apart(qunetlab: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        folder = str(tmp_path / "bench")
        assert qunetlab("init", folder, "--host", "127.0.0.1", "--port", str(port)).returncode == 0
        said = run_qunetlab("orchestrator", folder)
    assert said.returncode == 1
    assert str(port) in said.stderr
    assert "Traceback" not in said.stderr


def test_init_never_overwrites(qunetlab: Any, tmp_path: Path) -> None:
    assert qunetlab("init", str(tmp_path / "bench")).returncode == 0
    again = qunetlab("init", str(tmp_path / "bench"))
    assert again.returncode == 2
    assert "already holds a testbed" in again.stderr


def test_check_tells_pairs_of_hyphenated_users_apart(qunetlab: Any, tmp_path: Path) -> None:
    text = template_path("simulated-four-node").read_text(encoding="utf-8")
    for old, name in (("alice", "a"), ("bob", "a-b"), ("carol", "b-c"), ("dave", "c")):
        text = text.replace(f'"{old}"', f'"{name}"')
    (tmp_path / "hyphens.toml").write_text(text)
    checked = qunetlab("check", str(tmp_path / "hyphens.toml"))
    assert checked.returncode == 0, checked.stderr
    assert "  a:b-c: " in checked.stdout
    assert "  a-b:c: " in checked.stdout


def test_check_names_calibrated_values_that_nothing_should_rest_on(qunetlab: Any, tmp_path: Path) -> None:
    from datetime import timedelta

    from lab.calibration.book import Value, now, read_book, write_book
    from lab.calibration.steps import STEPS, Step
    from lab.testbed import read_testbed

    assert qunetlab("init", str(tmp_path / "bench")).returncode == 0
    path = tmp_path / "bench" / "testbed.toml"
    book = read_book(path, read_testbed(path))
    for owner, at in (
        ("alice", now() + timedelta(days=3)),
        ("bob", now() - timedelta(hours=STEPS[Step.PHASE].valid_h + 1)),
        ("carol", now()),
    ):
        value = Value(value=0.1, uncertainty=0.01, step=Step.PHASE, measured=at)
        book = book.with_values(owner, {"loop_phase_rad": value})
    write_book(path, book)
    checked = qunetlab("check", str(path), "--json")
    assert checked.returncode == 0, checked.stderr
    ahead, old = json.loads(checked.stdout)["stale"]
    assert ahead.startswith("phase of alice has a date ahead of this machine's clock")
    assert old.startswith("phase of bob is ")
    assert f"warning: {old}" in qunetlab("check", str(path)).stdout


def test_check_lists_every_mistake_and_exits_with_2(qunetlab: Any, tmp_path: Path) -> None:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"]["clock_hz"] = -1.0
    data["users"][0]["v_pi_v"] = "four"
    write_testbed(data, tmp_path / "wrong.toml")
    checked = qunetlab("check", str(tmp_path / "wrong.toml"))
    assert checked.returncode == 2
    assert "2 mistakes" in checked.stderr
    assert "protocol.clock_hz" in checked.stderr
    assert "users[0].v_pi_v" in checked.stderr
    assert "Traceback" not in checked.stderr


@pytest.mark.parametrize("command", [["check"], ["simulate"], ["orchestrator"], ["relay"], ["node", "alice"]])
def test_a_missing_testbed_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    ended = run_qunetlab(*command, str(tmp_path / "nowhere.toml"))
    assert ended.returncode == 2
    assert "qunetlab init" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_unreachable_instruments_are_all_named_and_exit_with_3(qunetlab: Any, tmp_path: Path) -> None:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    for index, entry in enumerate(data["instruments"]):
        serial = row(entry["model"]).address is AddressKind.SERIAL
        port = (
            f"TCPIP::127.0.0.{index + 1}::9::SOCKET"
            if entry["model"]
            not in (
                "single-quantum-websq",
                "id-quantique-id900",
            )
            else f"127.0.0.{index + 1}:9"
        )
        entry["address"] = str(tmp_path / f"tty{index}") if serial else port
    write_testbed(data, tmp_path / "t.toml")
    listed = qunetlab("instruments", str(tmp_path / "t.toml"), "--owner", "relay", "--json")
    assert listed.returncode == 3
    rows = json.loads(listed.stdout)["instruments"]
    assert len(rows) == 6
    assert not any(row["ok"] for row in rows)
    assert all(row["error"] for row in rows)
    relay = run_qunetlab("relay", str(tmp_path / "t.toml"))
    assert relay.returncode == 3
    for name in ("laser", "launch", "awg_relay", "bias_relay", "detectors", "tagger"):
        assert name in relay.stderr
    assert "addresses in the testbed file" in relay.stderr


def test_keyrate_answers_with_the_agreed_fields(qunetlab: Any) -> None:
    ended = qunetlab(
        *[
            "keyrate",
            "--protocol",
            "four-phase",
            "--loss-db-a",
            "9.5",
            "--loss-db-b",
            "9.5",
            "--mu-a",
            ".006",
            "--mu-b",
            ".006",
            "--p-x",
            ".9",
        ],
        *["--visibility", ".99", "--dark-count", "1e-7", "--f-ec", "1.16", "--pulses", "1e9", "--json"],
    )
    report = json.loads(ended.stdout)
    assert set(report) == {
        *("gain", "qber", "delta", "phase_error", "key_rate_per_pulse", "key_bits", "mu_a", "mu_b", "p_x")
    }
    assert report["key_bits"] == 162402
    assert report["phase_error"] == pytest.approx(0.241574, abs=1e-6)


@pytest.mark.parametrize(
    "charged", ["--phase-uncertainty-rad .02", "--intensity-tolerance-db .5", "--extinction-db 35"]
)
def test_keyrate_charges_what_is_uncertain_of_the_light(qunetlab: Any, charged: str) -> None:
    arms = ("keyrate", "--loss-db-a", "5", "--loss-db-b", "5", "--optimize", "--json")
    ideal, real = (json.loads(qunetlab(*arms, *more).stdout) for more in ((), charged.split()))
    assert 0.5 < real["key_rate_per_pulse"] / ideal["key_rate_per_pulse"] < 0.98


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--loss-db-a 5 --loss-db-b 5", "--optimize"),
        ("--loss-db-a -5 --loss-db-b 5 --optimize", "--loss-db-a must be a loss of 0 dB"),
        ("--loss-db-a 5 --loss-db-b 4000 --optimize", "--loss-db-b must be a loss of 0 dB"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --pulses 1e300", "--pulses must be 1 to 1e+18"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --pulses 0", "--pulses must be 1 to 1e+18"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --pulses inf", "--pulses must be a whole number"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --pulses nan", "--pulses must be a whole number"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --eps-cor 1e-300", "--eps-cor must lie in [1e-80, 1)"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --eps-cor 0", "--eps-cor must lie in"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --eps-sec 1e-300", "--eps-sec must lie in"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --eps-sec 1", "--eps-sec must lie in"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --protocol bb84", "four-phase"),
        ("--loss-db-a 5 --loss-db-b 5 --mu-a 9 --mu-b .1 --p-x .9", "--mu-a"),
        ("--loss-db-a 5 --loss-db-b 5 --optimize --pulses 1.5", "whole"),
        (
            "--loss-db-a 5 --loss-db-b 5 --optimize --extinction-db 25",
            "--extinction-db must be 30 dB or more",
        ),
        (
            "--loss-db-a 5 --loss-db-b 5 --optimize --phase-uncertainty-rad 2",
            "--phase-uncertainty-rad must be",
        ),
        (
            "--loss-db-a 5 --loss-db-b 5 --optimize --intensity-tolerance-db -1",
            "--intensity-tolerance-db must be",
        ),
    ],
)
def test_keyrate_refuses_what_makes_no_sense(qunetlab: Any, options: str, text: str) -> None:
    ended = qunetlab("keyrate", *options.split())
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_folder_named_like_a_package_does_not_shadow_it(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("raise RuntimeError('the wrong lab')")
    assert run_qunetlab("--help", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("task", ["digitz"])
def test_a_demo_with_an_unknown_task_fails_before_anything_starts(
    qunetlab: Any, task: str, tmp_path: Path
) -> None:
    ended = qunetlab("demo", "--task", task, "--out", str(tmp_path / "out"))
    assert ended.returncode == 2
    assert "digits" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_mnist_without_data_says_how_to_get_it(
    qunetlab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "QUNETLAB_DATA", str(tmp_path))
    ended = qunetlab("demo", "--task", "mnist", "--out", str(tmp_path / "out"))
    assert ended.returncode == 2
    assert "data fetch mnist" in ended.stderr
