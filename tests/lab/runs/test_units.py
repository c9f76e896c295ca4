"""systemd units: what a role needs of its machine and no more; judged by systemd itself where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.guard import GUARD_LIMIT_S
from lab.runs.roles.service_manager import FED_PER_TIMEOUT
from lab.runs.services.units import CLAIMS, TARGET, Places, UnitError, claims, file_name, target, unit
from lab.runs.services.writing import make_ready, systemd_version, units_here, write_units
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed

PLACES = Places(
    Path("/srv/ring"),
    ("/opt/qunetlab/bin/python", "-P", "-m", "lab.cli.main"),
    (Path("/opt/qunetlab"),),
    "qunetlab",
)
SIMULATED = load_testbed(template_path("simulated-four-node"))
REAL = load_testbed(template_path("physical-ring-example"))
ALWAYS = [
    "",
    "Type=notify",
    "Restart=on-failure",
    "RestartPreventExitStatus=2",
    "KillMode=control-group",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallFilter=@system-service",
    "LimitCORE=1",
    "MemorySwapMax=0",
    "PrivateTmp=yes",
    "",
]
MOST_EXPOSED = 2.2
"""What `systemd-analyze security` says, of 10; see docs/several-machines.md."""
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here (package systemd)"
)


def lines(text: str) -> list[str]:
    return text.splitlines()


def value(text: str, name: str) -> str:
    (found,) = [line.partition("=")[2] for line in lines(text) if line.startswith(f"{name}=")]
    return found


@pytest.mark.parametrize("role", ["simulate", *SIMULATED.roles()[:-1]])
def test_every_role_has_a_unit_that_is_watched_restarted_and_confined(role: str) -> None:
    text = unit(SIMULATED, role, PLACES)
    assert set(filter(None, ALWAYS)) <= set(lines(text))
    assert float(value(text, "WatchdogSec")) / FED_PER_TIMEOUT > 1, "a loop turns once a second"
    assert value(text, "ExecStart").startswith("/opt/qunetlab/bin/python -P -m lab.cli.main ")
    assert value(text, "User") == "qunetlab"


def test_what_is_no_service_is_refused() -> None:
    with pytest.raises(
        UnitError, match="'observer' runs as no service; roles are simulate, orchestrator, relay"
    ):
        unit(SIMULATED, "observer", PLACES)
    with pytest.raises(UnitError, match="nothing to simulate"):
        unit(REAL, "simulate", PLACES)
    with pytest.raises(UnitError, match="cannot stand in a unit file"):
        unit(SIMULATED, "relay", replace(PLACES, home=Path("/srv/a\nUser=root")))


def test_paths_with_specifiers_quotes_and_spaces_stay_one_word() -> None:
    text = unit(SIMULATED, "relay", replace(PLACES, home=Path('/srv/50% "of" $HOME ring')))
    assert value(text, "ExecStart").endswith('relay "/srv/50%% \\"of\\" $$HOME ring" --json')
    assert value(text, "ReadWritePaths") == '"/srv/50%% \\"of\\" $HOME ring"'
    with pytest.raises(UnitError, match="without colons"):
        unit(SIMULATED, "relay", replace(PLACES, home=Path("/srv/a:b")))


def test_only_roles_with_serial_or_usb_instruments_get_devices() -> None:
    assert "PrivateDevices=yes" in lines(unit(REAL, "orchestrator", PLACES))
    assert "DeviceAllow" not in unit(REAL, "fl-server", PLACES)
    relay = unit(REAL, "relay", PLACES)
    assert "DeviceAllow=char-ttyUSB rw" in lines(relay)
    assert "DeviceAllow=char-usb_device rw" not in lines(relay)
    assert "PrivateDevices=yes" not in lines(relay)
    assert value(relay, "SupplementaryGroups") == "dialout plugdev"
    assert "SupplementaryGroups" not in unit(REAL, "relay", replace(PLACES, groups=()))
    entries = tuple(
        entry.model_copy(update={"address": "USB::0x1313::0x8078::P0001::INSTR"})
        if entry.owner == "alice" and entry.model == "keysight-8163b"
        else entry
        for entry in REAL.instruments
    )
    assert "DeviceAllow=char-usb_device rw" in lines(
        unit(REAL.model_copy(update={"instruments": entries}), "alice", PLACES)
    )


def test_claims_on_instruments_meet_though_each_unit_has_its_own_tmp() -> None:
    for role in ("relay", "alice"):
        text = unit(REAL, role, PLACES)
        assert "BindPaths=/tmp/qunetlab-instruments" in lines(text)
        assert CLAIMS in set(value(text, "After").split()) & set(value(text, "Wants").split())
    assert "ExecStart=/usr/bin/install -d -m 1777 /tmp/qunetlab-instruments" in lines(claims())
    assert "qunetlab-instruments" not in unit(REAL, "orchestrator", PLACES)
    assert "PrivateTmp" not in unit(REAL, "relay", replace(PLACES, home=Path("/tmp/ring")))


def test_a_role_sees_its_own_secrets_and_state_alone_and_only_users_change_theirs() -> None:
    def seen(role: str) -> list[str]:
        starts = ("TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths")
        found = lines(unit(SIMULATED, role, PLACES))
        return [line for line in found if line.startswith(starts) and "qunetlab-instruments" not in line]

    hidden = 'TemporaryFileSystem="/srv/ring/secrets:ro,mode=0755" "/srv/ring/state:ro,mode=0755"'
    assert seen("alice") == [
        hidden,
        'BindPaths="/srv/ring/secrets/alice"',
        'BindPaths="/srv/ring/state/alice"',
    ]
    assert seen("relay") == [
        hidden,
        'BindReadOnlyPaths="/srv/ring/secrets/relay"',
        'BindPaths="/srv/ring/state/relay"',
    ]
    assert seen("simulate") == [hidden, 'BindPaths="/srv/ring/state/simulator"']


def test_roles_reach_the_serial_lines_of_a_simulator_in_its_own_tmp() -> None:
    for role in ("relay", "alice"):
        assert value(unit(SIMULATED, role, PLACES), "JoinsNamespaceOf") == file_name("simulate")
        assert "JoinsNamespaceOf" not in unit(REAL, role, PLACES)
    assert "JoinsNamespaceOf" not in unit(SIMULATED, "orchestrator", PLACES)


def test_a_unit_has_longer_to_end_than_a_guard_may_take() -> None:
    assert float(value(unit(REAL, "relay", PLACES), "TimeoutStopSec")) > GUARD_LIMIT_S


def test_roles_start_behind_those_they_need_and_stop_before_them() -> None:
    def after(role: str) -> list[str]:
        return value(unit(SIMULATED, role, PLACES), "After").split()

    assert file_name("orchestrator") in after("relay")
    assert file_name("simulate") in after("alice")
    assert {file_name("alice"), file_name("fl-server")} <= set(after("fl-alice"))
    assert file_name("alice") not in after("orchestrator")
    assert value(target(["relay", "alice"]), "Wants") == "qunetlab-relay.service qunetlab-alice.service"


def test_a_sealed_store_key_is_a_credential_of_nodes_only() -> None:
    sealed = replace(PLACES, sealed_store=True)
    node = unit(REAL, "alice", sealed)
    assert value(node, "LoadCredentialEncrypted") == "store.key:/srv/ring/secrets/alice/store.cred"
    assert value(node, "ExecStart").endswith("node alice /srv/ring --json --store-key credential")
    assert "Credential" not in unit(REAL, "relay", sealed)


def test_growing_pauses_only_where_systemd_knows_them() -> None:
    assert "RestartSteps=6" in lines(unit(REAL, "relay", replace(PLACES, systemd=254)))
    assert "RestartSteps" not in unit(REAL, "relay", replace(PLACES, systemd=252))


def test_units_are_written_for_the_roles_that_are_here(tmp_path: Path) -> None:
    bench = create_folder(tmp_path / "bench", template_path("simulated-reference")).parent
    with pytest.raises(UnitError, match="there is no user 'nobody-of-that-name'"):
        units_here(bench, ["relay"], user="nobody-of-that-name")
    units = units_here(bench, [], user="daemon")
    assert TARGET in units
    assert {file_name("simulate"), file_name("relay")} < set(units)
    assert not any("fl-" in name for name in units)
    written = write_units(units, tmp_path)
    assert all(
        path.stat().st_mode & 0o777 == 0o644 and path.read_text() == units[path.name] for path in written
    )
    shutil.rmtree(bench / "secrets" / "relay")
    with pytest.raises(UnitError, match="write its unit on its own machine"):
        units_here(bench, ["relay"], user="daemon")
    user = load_testbed(bench / "testbed.toml").user_names()[0]
    with pytest.raises(UnitError, match=r"systemd-creds encrypt --name=store\.key"):
        units_here(bench, [user], user="daemon", sealed_store=True)


def test_units_are_written_for_whoever_owns_the_folder_and_reaches_the_program(tmp_path: Path) -> None:
    bench = create_folder(tmp_path / "bench", template_path("simulated-reference")).parent
    me = bench.owner()
    make_ready(bench, ["relay", "simulate"], user=me)
    assert sorted(path.name for path in (bench / "state").iterdir()) == ["relay", "simulator"]
    assert (bench / "state" / "relay").stat().st_mode & 0o777 == 0o700
    with pytest.raises(
        UnitError, match=f"belongs to {me}, and daemon is to run its roles: `chown -R daemon "
    ):
        make_ready(bench, [], user="daemon")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user: needs root")
def test_a_folder_behind_a_closed_one_is_no_service_s(tmp_path: Path) -> None:
    bench = create_folder(tmp_path / "bench", template_path("simulated-reference")).parent
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    bench = bench.rename(closed / "bench")
    shutil.chown(bench, "daemon")
    with pytest.raises(UnitError, match=r"daemon cannot reach .*: \S+ is closed to others"):
        make_ready(bench, [], user="daemon")


@needs_systemd
def test_systemd_takes_the_units_and_finds_them_confined(tmp_path: Path) -> None:
    bench = create_folder(tmp_path / "bench", template_path("simulated-full-bench")).parent
    written = write_units(units_here(bench, [], user="daemon"), tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, written)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "qunetlab" in line]
    assert not ours, ours
    for path in written:
        if path.suffix == ".service" and path.name != CLAIMS:  # one command of the system, a moment long
            exposed = exposure(path)
            print(f"{path.name}: {exposed}")
            assert exposed <= MOST_EXPOSED


@needs_systemd
def test_a_unit_that_lost_its_confinement_is_noticed(tmp_path: Path) -> None:
    text = unit(REAL, "orchestrator", replace(PLACES, systemd=systemd_version()))
    (tmp_path / "bare.service").write_text(re.sub(r"(?m)^(System|Protect|Restrict|Capab).*\n", "", text))
    assert exposure(tmp_path / "bare.service") > MOST_EXPOSED


def exposure(path: Path) -> float:
    """Of 10; systemd's own measure."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze judges no unit that is not installed: {done.stderr}")
    return float(found[1])
