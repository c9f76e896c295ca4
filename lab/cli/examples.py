"""One table of examples, and of the groups of the top help page: each command's help page ends with its own lines."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from typer.models import CommandInfo

PANELS = {
    "Start here": "demo init up down dashboard",
    "Operate": "attack status stop acknowledge alarms queue keygen keys metrics runs audit set monitor",
    "Set up and calibrate": "check keyrate instruments calibrate scan doctor sae",
    "Learn": "train compare fl data qpu new keycost",
    "Roles and tools": "simulate orchestrator relay node systemd bench compile",
}
"""Which group of the top help page a command stands in; what is in none stands below them."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "acknowledge": ("qunetlab acknowledge bench", "qunetlab acknowledge bench relay"),
    "alarms acknowledge": ("qunetlab alarms acknowledge alice/low-water/bob --testbed bench",),
    "alarms shelve": ("qunetlab alarms shelve alice/low-water/bob --for 30m --testbed bench",),
    "alarms show": ("qunetlab alarms bench",),
    "attack": (
        "qunetlab attack bench",
        "qunetlab attack bench tap --strength 20",
        "qunetlab attack bench --stop",
    ),
    "audit": (
        "qunetlab audit qunetlab-demo",
        "qunetlab audit qunetlab-demo --out audit.html",
        "qunetlab audit bench --json",
    ),
    "bench": ("qunetlab bench --json",),
    "calibrate": (
        "qunetlab calibrate --testbed bench --dry-run",
        "qunetlab calibrate phase visibility --pair alice-bob --testbed bench",
    ),
    "check": ("qunetlab check simulated-four-node", "qunetlab check bench --json"),
    "compare": ("qunetlab compare run-a run-b --out curves.html",),
    "compile": ("qunetlab compile",),
    "dashboard": ("qunetlab dashboard bench", "qunetlab dashboard bench --listen 127.0.0.1:9000"),
    "data fetch": ("qunetlab data fetch mnist",),
    "data list": ("qunetlab data list",),
    "demo": ("qunetlab demo", "qunetlab demo --rounds 3 --dashboard"),
    "doctor": ("qunetlab doctor", "qunetlab doctor bench"),
    "down": ("qunetlab down bench",),
    "fl client": ("qunetlab fl client alice bench --mode otp",),
    "fl consent": ("qunetlab fl consent run-description.json --user alice --testbed bench",),
    "fl server": (
        "qunetlab fl server bench --task digits --rounds 10",
        "qunetlab fl server bench --config run.toml",
    ),
    "init": (
        "qunetlab init bench",
        "qunetlab init bench --template physical-ring-example --host 192.168.1.10",
        "qunetlab init bench --export alice",
        "qunetlab init bench --import bench-alice.tar",
        "qunetlab init bench --anew alice",
        "qunetlab init bench --sae app1@alice --sae app2@bob",
    ),
    "instruments list": ("qunetlab instruments bench", "qunetlab instruments bench --owner relay --json"),
    "instruments record": ("qunetlab instruments record laser --out laser.txt --testbed bench --read-only",),
    "instruments replay": ("qunetlab instruments replay laser.txt",),
    "instruments scan": ("qunetlab instruments scan --host 192.168.1.20",),
    "keycost": ("qunetlab keycost model.safetensors --clients 4 --rounds 10",),
    "keygen": (
        "qunetlab keygen alice bob",
        "qunetlab keygen alice bob --testbed bench --bits 250k --due-in 30m",
    ),
    "keyrate": (
        "qunetlab keyrate --testbed simulated-four-node --pair alice-bob",
        "qunetlab keyrate --loss-db-a 5 --loss-db-b 5 --optimize --pulses 1e9",
    ),
    "keys audit": ("qunetlab keys audit bench",),
    "keys events": (
        "qunetlab keys events bench --pair alice-bob --last 100",
        "qunetlab keys events bench --follow",
    ),
    "keys meet": ("qunetlab keys meet alice-bob --testbed bench",),
    "keys replace": ("qunetlab keys replace bench-alice-anew.public --testbed bench",),
    "keys reseed": (
        "qunetlab keys reseed alice-bob --new --testbed bench",
        "qunetlab keys reseed alice-bob --secret bob.secret --testbed bench",
    ),
    "keys revoke": ("qunetlab keys revoke fl-dave --testbed bench", "qunetlab keys revoke --list"),
    "keys show": ("qunetlab keys bench",),
    "keys use": ("qunetlab keys use bench",),
    "metrics": ("qunetlab metrics bench --listen 127.0.0.1:9464",),
    "monitor": (
        "qunetlab monitor bench --role relay",
        "qunetlab monitor simulated-four-node --lit alice-bob",
    ),
    "new": ("qunetlab new my-app", "qunetlab new my-app --keys simulated-ring"),
    "node": ("qunetlab node alice bench",),
    "orchestrator": ("qunetlab orchestrator bench",),
    "qpu backends": ("qunetlab qpu backends --local",),
    "qpu estimate": ("qunetlab qpu estimate --backend fake_manila --sentences 20",),
    "qpu jobs": ("qunetlab qpu jobs qunetlab-runs/qpu",),
    "qpu mitigation": ("qunetlab qpu mitigation --backend fake_manila",),
    "qpu run": ("qunetlab qpu run --backend fake_manila --sentences 20",),
    "qpu train": ("qunetlab qpu train --backend fake_manila --steps 1",),
    "queue abort": ("qunetlab queue abort 3 --testbed bench",),
    "queue add": (
        "qunetlab queue add key alice-bob --bits 1M --testbed bench",
        "qunetlab queue add calibration phase --pair alice-bob --testbed bench",
    ),
    "queue history": ("qunetlab queue history --testbed bench",),
    "queue hold": ("qunetlab queue hold 3 --testbed bench",),
    "queue list": ("qunetlab queue list --testbed bench",),
    "queue move": ("qunetlab queue move 3 --before 2 --testbed bench",),
    "queue resume": ("qunetlab queue resume 3 --testbed bench",),
    "relay": ("qunetlab relay bench",),
    "runs list": ("qunetlab runs --testbed bench --kind block --since 2h",),
    "runs show": ("qunetlab runs show block/7/3 --testbed bench",),
    "sae approve": ("qunetlab sae approve request.pem --testbed bench",),
    "sae authority": (
        "qunetlab sae authority --testbed bench",
        "qunetlab sae authority --testbed bench --authority-key passphrase",
    ),
    "sae install": (
        "qunetlab sae install sae-app1.pem",
        "qunetlab sae install crl.pem --testbed bench",
    ),
    "sae list": ("qunetlab sae list --testbed bench",),
    "sae renew": (
        "qunetlab sae renew app1 --testbed bench",
        "qunetlab sae renew alice --kme --testbed bench",
    ),
    "sae request": ("qunetlab sae request app1", "qunetlab sae request alice --kme --testbed bench"),
    "sae seal": ("qunetlab sae seal --testbed bench",),
    "sae revoke": ("qunetlab sae revoke app1 --testbed bench",),
    "scan": (
        "qunetlab scan simulated-four-node voa_alice.attenuation_db:1:20:20 --lit alice-bob",
        "qunetlab scan bench laser.power_mw:1:3:5 voa_alice.attenuation_db:1:20:5 --lit alice-bob --read light.visibility",
        "qunetlab scan bench launch.ch1.attenuation_db:20:40:5 --read launch.ch1.attenuation_db",
    ),
    "set": (
        "qunetlab set bench voa_alice.attenuation_db 12",
        "qunetlab set bench switch_alice.crossed on --keep",
    ),
    "simulate": ("qunetlab simulate bench --resolved resolved.toml",),
    "status": ("qunetlab status bench --watch", "qunetlab status bench --check"),
    "stop": ('qunetlab stop bench --reason "fibre open"', "qunetlab stop bench relay"),
    "systemd": (
        "qunetlab systemd alice --testbed bench",
        "qunetlab systemd --all --testbed bench --out /etc/systemd/system --user qunetlab",
    ),
    "train": (
        "qunetlab train digits --quick",
        "qunetlab train digits --mode lightsecagg --clients 8 --rounds 20 --out my-run",
        "qunetlab train digits --testbed bench --live",
        "qunetlab train --config run.toml --rounds 3 --print-config",
    ),
    "up": ("qunetlab up bench", "qunetlab up bench --detach"),
}


def shown_on_pages(app: typer.Typer) -> None:
    """Give every command of ``app`` its examples, and its place on the top help page."""
    panels = {name: panel for panel, names in PANELS.items() for name in names.split()}
    for command in app.registered_commands:
        command.rich_help_panel = panels.get(name_of(command), command.rich_help_panel)
    for group in app.registered_groups:
        group.rich_help_panel = panels.get(group.name or "", "Commands")
    for path, command in commands_of(app):
        if lines := EXAMPLES.get(path):
            command.epilog = "\n\n".join(("Examples:" if len(lines) > 1 else "Example:", *lines))


def commands_of(app: typer.Typer, prefix: str = "") -> Iterator[tuple[str, CommandInfo]]:
    """Every command with its whole name."""
    for command in app.registered_commands:
        yield prefix + name_of(command), command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from commands_of(group.typer_instance, f"{prefix}{group.name} ")


def name_of(command: CommandInfo) -> str:
    """As it is typed."""
    return command.name or getattr(command.callback, "__name__", "").replace("_", "-")
