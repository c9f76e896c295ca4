"""systemd units of the roles of one machine: pure, from a testbed and places to text.

A unit runs one role as :mod:`lab.runs.roles.service_manager` tells it (``Type=notify``), restarts it with growing pauses, and
leaves it what it needs of the machine: its testbed folder, the network, and a serial line or USB where an instrument of
its own hangs on one.  Why each setting stands there, and which are missing, is in docs/several-machines.md.

The guard process of a role that owns instruments is in the role's unit.  It ignores SIGTERM and SIGABRT, and goes when it has
nothing left to make safe; so the whole control group gets signals (``KillMode=control-group``) and has longer to end than a guard
may take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drivers.catalogue import AddressKind, row
from drivers.guard import GUARD_LIMIT_S
from lab.claims import LOCKS
from lab.runs.attacks.places import SIMULATOR
from lab.runs.roles.service_manager import loop_limit_s
from lab.runs.testbeds.folder import SECRETS, STATE, TESTBED_FILE
from lab.runs.testbeds.store_key import KEY_FILE
from lab.testbed import Testbed

SIMULATE = "simulate"
TARGET = "qunetlab.target"
CLAIMS = "qunetlab-claims.service"
CREDENTIAL = "store.cred"
"""In a user's secrets folder: ``store.key``, sealed by ``systemd-creds encrypt``."""
STOP_S = round(GUARD_LIMIT_S) + 30
"""A role tries to make its instruments safe, and then its guard."""
GROWING_PAUSES = 254
"""The version of systemd that knows RestartSteps=."""
HIDING = ":ro,mode=0755"
"""Options of the empty file system over secrets and states."""
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


DEVICE_GROUPS = ("dialout", "uucp", "plugdev")
"""Who may open serial lines and USB, on one distribution or another; a unit that names a group which is not there does not start."""


class UnitError(ValueError):
    """A role that no unit can be written for."""


@dataclass(frozen=True)
class Places:
    """Where things are on this machine: absolute paths, who runs the roles, and the version of its systemd."""

    home: Path
    command: tuple[str, ...]
    program: tuple[Path, ...]
    """Folders of interpreter and packages: nothing of them is written."""
    user: str
    systemd: int = GROWING_PAUSES
    sealed_store: bool = False
    groups: tuple[str, ...] = ("dialout", "plugdev")
    """Those of :data:`DEVICE_GROUPS` that this machine has."""


def file_name(role: str) -> str:
    """Of a role's unit."""
    return f"qunetlab-{role}.service"


def unit(testbed: Testbed, role: str, places: Places) -> str:
    """The unit of ``role``; what belongs to others of this machine, it cannot reach.

    Raises UnitError for no role, or one that is none in this place.
    """
    sections = {
        "Unit": list(_unit(testbed, role)),
        "Service": [*_running(testbed, role, places), *_hardening(testbed, role, places)],
        "Install": [f"WantedBy={TARGET}"],
    }
    return "\n\n".join("\n".join((f"[{name}]", *lines)) for name, lines in sections.items()) + "\n"


def target(roles: Sequence[str]) -> str:
    """What starts and stops the roles of this machine together."""
    wants = " ".join(map(file_name, roles))
    return f"[Unit]\nDescription=qunetlab: {', '.join(roles)}\nWants={wants}\n\n[Install]\nWantedBy=multi-user.target\n"


def claims() -> str:
    """What makes the folder of claims before a role starts that has instruments: nothing of a role's own unit can, as its
    ``/tmp`` is its own, and is there with that folder in it or not at all."""
    return (
        "[Unit]\nDescription=qunetlab: where instruments are claimed, in one folder for all users of this machine\n\n"
        f"[Service]\nType=oneshot\nExecStart=/usr/bin/install -d -m 1777 {LOCKS}\n"
    )


def before(testbed: Testbed, role: str) -> list[str]:
    """The roles that are up before this one where they are on the same machine; the other way round at the end."""
    users = list(testbed.user_names())
    if role == SIMULATE:
        return []
    if role == "orchestrator":
        return [SIMULATE]
    if role in ("relay", *users):
        return [SIMULATE, "orchestrator"]
    if role == "fl-server":
        return ["orchestrator"]
    if role.removeprefix("fl-") in users:
        return [role.removeprefix("fl-"), "fl-server"]
    raise UnitError(f"{role!r} runs as no service; roles are {', '.join([SIMULATE, *testbed.roles()[:-1]])}")


def _unit(testbed: Testbed, role: str) -> Iterator[str]:
    yield f"Description=qunetlab {role} of {_escaped(testbed.name)}"
    first = ["network-online.target", *([CLAIMS] if has_instruments(testbed, role) else [])]
    yield f"Wants={' '.join(first)}"
    yield f"After={' '.join([*first, 'time-sync.target', *map(file_name, before(testbed, role))])}"
    if testbed.simulation is not None and has_instruments(testbed, role):
        yield f"JoinsNamespaceOf={file_name(SIMULATE)}"  # serial lines of the simulator lie in its /tmp
    yield f"PartOf={TARGET}"
    yield "StartLimitIntervalSec=600"
    yield "StartLimitBurst=30"


def _running(testbed: Testbed, role: str, places: Places) -> Iterator[str]:
    home = places.home
    watchdog_s = loop_limit_s(role)
    yield f"SyslogIdentifier=qunetlab-{role}"
    yield "Type=notify"
    yield "NotifyAccess=main"
    yield f"ExecStart={' '.join(map(_word, (*places.command, *_arguments(testbed, role, places))))}"
    yield f"WorkingDirectory={_escaped(str(home))}"
    yield f"User={places.user}"
    if role in testbed.user_names() and places.sealed_store:
        yield f"LoadCredentialEncrypted={KEY_FILE}:{_escaped(str(home / SECRETS / role / CREDENTIAL))}"
    yield "TimeoutStartSec=180"
    yield f"TimeoutStopSec={STOP_S}"
    yield f"WatchdogSec={watchdog_s}"
    yield "Restart=on-failure"
    yield "RestartSec=1"
    if places.systemd >= GROWING_PAUSES:
        yield "RestartSteps=6"
        yield "RestartMaxDelaySec=60"
    # Exit code 2: the file or the command is wrong, and will be so a second later.
    yield "RestartPreventExitStatus=2"
    yield "KillMode=control-group"
    yield "OOMPolicy=continue"


def _arguments(testbed: Testbed, role: str, places: Places) -> list[str]:
    home, users = str(places.home), testbed.user_names()
    if role == SIMULATE:
        if testbed.simulation is None:
            raise UnitError(f"{testbed.name} has no [simulation]: there is nothing to simulate")
        resolved = str(places.home / TESTBED_FILE)
        return [SIMULATE, home, "--json", "--resolved", resolved, "--state", str(places.home / STATE)]
    if role in users:
        return ["node", role, home, "--json", *(("--store-key", "credential") if places.sealed_store else ())]
    if role == "fl-server":
        return ["fl", "server", home, "--json"]
    if role.startswith("fl-"):
        return ["fl", "client", role.removeprefix("fl-"), home, "--json"]
    return [role, home, "--json"]


def has_instruments(testbed: Testbed, role: str) -> bool:
    """Whether the role owns some, and so has a guard and claims."""
    return bool(testbed.owned_by(role))


def own_folders(testbed: Testbed, role: str) -> dict[str, str]:
    """How the role has its folders below the testbed's: initial secrets go when they are used, nobody else writes in ``secrets``."""
    if role == SIMULATE:
        return {f"{STATE}/{SIMULATOR}": "BindPaths"}
    reading = "BindPaths" if role in testbed.user_names() else "BindReadOnlyPaths"
    return {f"{SECRETS}/{role}": reading, f"{STATE}/{role}": "BindPaths"}


def devices(testbed: Testbed, role: str) -> list[str]:
    """The devices that the role's instruments hang on, as DeviceAllow= names them.

    By class and not by name, so that a controller that was unplugged is found again.
    """
    found = set[str]()
    for entry in testbed.owned_by(role):
        address = entry.address.upper()
        if address.startswith(("USB", "GPIB")):
            found.add("char-usb_device rw")
        if row(entry.model).address is AddressKind.SERIAL or address.startswith("ASRL"):
            found |= {"char-ttyUSB rw", "char-ttyACM rw"}
            if address.removeprefix("ASRL").startswith("/DEV/TTYS"):
                found.add("char-ttyS rw")
            if testbed.simulation is not None:
                found.add("char-pts rw")
    return sorted(found)


def _hardening(testbed: Testbed, role: str, places: Places) -> Iterator[str]:
    home = places.home
    homes = any(path.is_relative_to(each) for path in (home, *places.program) for each in HOMES)
    allowed = devices(testbed, role)
    yield "NoNewPrivileges=yes"
    yield "CapabilityBoundingSet="
    yield "AmbientCapabilities="
    yield "ProtectSystem=strict"
    yield f"ProtectHome={'read-only' if homes else 'yes'}"
    yield f"ReadWritePaths={_place(home)}"
    # Of what lies beside each other below these two, a role sees its own, whatever arrives there later.
    yield f"TemporaryFileSystem={_place(home / SECRETS, HIDING)} {_place(home / STATE, HIDING)}"
    for folder, binds in own_folders(testbed, role).items():
        yield f"{binds}={_place(home / folder)}"
    if not any(home.is_relative_to(each) for each in TEMPORARY):
        yield "PrivateTmp=yes"
        if has_instruments(testbed, role):
            yield f"BindPaths={LOCKS}"
    elif has_instruments(testbed, role):
        yield f"ReadWritePaths={LOCKS}"
    if allowed:
        yield "DevicePolicy=closed"
        yield from (f"DeviceAllow={each}" for each in allowed)
        if groups := [each for each in DEVICE_GROUPS if each in places.groups]:
            yield f"SupplementaryGroups={' '.join(groups)}"
    elif role == SIMULATE:
        yield "DevicePolicy=closed"
        yield "DeviceAllow=char-pts rw"
    else:
        yield "PrivateDevices=yes"
    for each in ("KernelTunables", "KernelModules", "KernelLogs", "ControlGroups", "Clock", "Hostname"):
        yield f"Protect{each}=yes"
    yield "ProtectProc=invisible"
    yield "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
    for each in (
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "RemoveIPC",
    ):
        yield f"{each}=yes"
    yield "KeyringMode=private"
    yield "SystemCallArchitectures=native"
    yield "SystemCallFilter=@system-service"
    yield "SystemCallFilter=~@privileged"
    yield "SystemCallErrorNumber=EPERM"
    yield "UMask=0077"
    yield "LimitCORE=1"  # bytes: none for a handler either (orchestrator.core_files)
    yield "MemorySwapMax=0"


def _word(text: str) -> str:
    """One word of a command line (systemd.service(5): specifiers, variables and quotes)."""
    plain = _escaped(text).replace("$", "$$")
    if all(each.isalnum() or each in "/._-:=@+,%" for each in plain):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _place(path: Path, options: str = "") -> str:
    """One word of a list of paths (systemd.exec(5): specifiers and quotes, no variables, options behind a colon)."""
    plain = _escaped(str(path))
    if ":" in plain:
        raise UnitError(f"{path} cannot stand in a unit file: use a path without colons")
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + options + '"'


def _escaped(text: str) -> str:
    """With no specifier of systemd in it; raises UnitError for what no unit file can hold on a line."""
    if any(ord(each) < 32 for each in text):
        raise UnitError(f"{text!r} cannot stand in a unit file: use a path without line breaks and tabs")
    return text.replace("%", "%%")
