"""Rings of two, three, five and eight users: made, checked, described; and what cannot be a ring."""

from __future__ import annotations

import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fl.rounds.config import ConfigError
from fl.rounds.quantise import RingWidthError
from fl.workloads.base import TaskDefaults
from lab.runs.roles.processes import training_config
from lab.runs.testbeds.folder import FolderError, create_folder, template_path
from lab.runs.testbeds.machine import Machine
from lab.runs.testbeds.ring_size import (
    RingSizeError,
    check_every_pair_makes_key,
    pairs_without_key,
    user_names,
    with_users,
)
from lab.testbed import TestbedError, load_testbed, parse_testbed, write_testbed

FOUR = "simulated-four-node"


class Sketch:
    name, fingerprint = "sketch", ""
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=2)


@pytest.mark.parametrize(
    ("template", "count", "ring_width"),
    [(FOUR, 2, 9), (FOUR, 3, 10), (FOUR, 5, 11), (FOUR, 8, 11), ("simulated-reference", 5, 11)],
)
def test_a_ring_for_so_many_users_is_made_checked_and_summed(
    qunetlab: Any, template: str, count: int, ring_width: int, tmp_path: Path
) -> None:
    bench = tmp_path / "bench"
    made = qunetlab(
        "init",
        str(bench),
        "--template",
        template,
        "--users",
        str(count),
        "--host",
        "127.0.0.1",
        "--port",
        "5000",
    )
    assert made.returncode == 0, made.stderr
    testbed = load_testbed(bench / "testbed.toml")
    assert testbed.user_names() == tuple(user_names(count))
    assert set(testbed.keys) == set(testbed.roles())
    assert len(testbed.pairs()) == count * (count - 1) // 2
    assert len({entry.name for entry in testbed.instruments}) == 6 + 4 * count
    assert set(testbed.cabling.trigger_sinks) == {
        "tagger",
        *(f"awg_{name}" for name in ("relay", *testbed.user_names())),
    }
    assert [user.delivery for user in testbed.users] == [f"tcp://127.0.0.1:{5003 + k}" for k in range(count)]
    assert {path.name for path in bench.glob("secrets/alice/initial/*")} == {
        f"{name}.secret" for name in testbed.user_names()[1:]
    }
    assert all(one.position_km < other.position_km for one, other in pairwise(testbed.users))
    checked = qunetlab("check", str(bench), "--json")
    assert checked.returncode == 0, checked.stderr
    told = json.loads(checked.stdout)
    assert len(told["pairs"]) == len(testbed.pairs())
    if template == FOUR:
        assert told["pairs_without_key"] == []
    config = training_config(Sketch(), testbed.user_names(), {"rounds": 10, "run_id": "r"})
    assert config.ring_width == ring_width
    assert config.quorum == min(3, count)


def test_four_users_are_the_template_itself(tmp_path: Path) -> None:
    path = template_path(FOUR)
    data = tomllib.loads(path.read_text())
    assert with_users(data, 4, path) == data
    stations = [user["position_km"] for user in with_users(data, 3, path)["users"]]
    assert stations == pytest.approx([1.0, 3.0, 5.0], abs=0.0011)


@pytest.mark.parametrize(
    ("count", "told"),
    [
        ("1", "--users 1: a ring has 2 to 64 users"),
        ("0", "--users 0: a ring has 2 to 64 users"),
        ("-3", "--users -3: a ring has 2 to 64 users"),
        ("99999999999999999999", "a ring has 2 to 64 users"),
        ("30", "--users 30: alice and bob would make no key, since their light loses 4.4 dB and 22.3 dB"),
    ],
)
def test_a_number_that_makes_no_ring_is_refused_and_leaves_nothing(
    qunetlab: Any, count: str, told: str, tmp_path: Path
) -> None:
    said = qunetlab("init", str(tmp_path / "bench"), f"--users={count}")
    assert said.returncode == 2
    assert told in said.stderr
    assert "Traceback" not in said.stderr
    assert not (tmp_path / "bench").exists()


def test_instruments_with_addresses_and_ports_beyond_the_last_are_refused(
    qunetlab: Any, tmp_path: Path
) -> None:
    data = tomllib.loads(template_path(FOUR).read_text())
    data["instruments"][0]["address"] = "ASRL/dev/ttyUSB0"
    write_testbed(data, tmp_path / "real.toml")
    said = qunetlab(
        "init", str(tmp_path / "bench"), "--template", str(tmp_path / "real.toml"), "--users", "5"
    )
    assert said.returncode == 2
    assert "says where instruments are (laser)" in said.stderr
    crowd = tuple(map(str, ("init", tmp_path / "b", "--users", 8, "--host", "localhost", "--port", 65000)))
    assert qunetlab(*crowd).returncode == 0
    with pytest.raises(FolderError, match="begin at 65525 or below"):
        create_folder(tmp_path / "c", template_path(FOUR), host="localhost", port=65530, users=8)


def test_a_file_whose_pairs_make_no_key_is_told_by_check_and_refused_by_what_would_wait_for_ever(
    qunetlab: Any, tmp_path: Path
) -> None:
    data = tomllib.loads(template_path(FOUR).read_text())
    data["ring"]["bypass_loss_db"] = 6.0
    write_testbed(data, tmp_path / "lossy.toml")
    testbed = load_testbed(tmp_path / "lossy.toml")
    assert ("alice", "bob") in pairs_without_key(testbed, testbed.pairs())
    with pytest.raises(RingSizeError, match=r"alice and bob.*would make no key"):
        check_every_pair_makes_key(testbed)
    said = qunetlab("check", str(tmp_path / "lossy.toml"))
    assert said.returncode == 0
    assert "warning: alice and bob would make no key" in said.stdout
    said = qunetlab("demo", "--testbed", str(tmp_path / "lossy.toml"), "--out", str(tmp_path / "out"))
    assert said.returncode == 2, said.stderr
    assert "would make no key" in said.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "clash"),
    [("relay", "relay"), ("observer", "observer"), ("server", "fl-server"), ("fl-bob", "fl-bob")],
)
def test_a_user_with_the_name_of_another_role_is_refused(name: str, clash: str, tmp_path: Path) -> None:
    data = tomllib.loads(template_path(FOUR).read_text().replace('"alice"', f'"{name}"'))
    with pytest.raises(
        TestbedError, match=f"a user cannot be called '{name}': '{clash}' is another role's name"
    ):
        parse_testbed(data, tmp_path / "t.toml")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weights": [1, 0, 1]}, "weights of bob is 0: it must be at least 1"),
        ({"weights": [1, 1, 1 << 40]}, "weights of carol is 1099511627776: it must be at least 1"),
        ({"clip": "1"}, "clip is '1': it must be a number"),
        ({"clipping": 1}, "there is no setting 'clipping'"),
        ({"clips": 1}, "clip-of is 1: it must be a table of arrays and their clips"),
        ({"clips": {"head": "2"}}, "clip-of of head is '2': it must be a number"),
        ({"ring_width": 9}, "ring-width 9 is too narrow.*use b = 10"),
    ],
)
def test_a_setting_of_the_learning_server_is_refused_by_its_name(settings: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, RingWidthError), match=told):
        training_config(Sketch(), user_names(3), {"run_id": "r", **settings})


def test_a_pair_whose_name_could_be_two_is_asked_for(tmp_path: Path) -> None:
    """Users a, a-b, b-c and c: a-b-c may be a with b-c, or a-b with c; new secrets must not go to the wrong one."""
    text = template_path(FOUR).read_text()
    for old, new in (("alice", "a"), ("bob", "a-b"), ("carol", "b-c"), ("dave", "c")):
        text = text.replace(f'"{old}"', f'"{new}"')
    (tmp_path / "t.toml").write_text(text)
    machine = Machine(tmp_path / "t.toml", None)
    with pytest.raises(ValueError, match=r"a-b-c may be one of several pairs .* write a:b-c or a-b:c"):
        machine.pair("a-b-c")
    assert machine.pair("a:b-c") == machine.pair("b-c:a") == ("a", "b-c")
    assert machine.pair("c:a-b") == ("a-b", "c")
    assert machine.pair("a-c") == ("a", "c")
    with pytest.raises(ValueError, match="is no pair of"):
        machine.pair("a-d")
