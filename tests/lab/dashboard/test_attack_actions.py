"""The attack range at the page: begun and ended with the token, and of simulated rings alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from lit_ring import lit
from served_dashboard import LIMIT_S, Served

from lab.runs.attacks.carrying import SIMULATOR, LightAttacks
from lab.runs.testbeds.machine import Machine
from lab.testbed import read_testbed, write_testbed
from orchestrator.wire.control_socket import ControlSocket

Serve = Callable[..., Served]


def wait_for(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_an_attack_is_begun_seen_and_ended_at_the_page(machine: Machine, serve: Serve) -> None:
    ring, folder = lit(), machine.folder(SIMULATOR)
    folder.mkdir(parents=True)
    honest = ring.sensor_power_w("alice", "cw")
    served = serve(machine)
    wait_for(lambda: "no process listens" in (served.board.get("problem/attack") or ""))
    with ControlSocket(folder, LightAttacks(ring, ()).answer):
        wait_for(lambda: (served.board.get("attack") or {}).get("name") == "")
        assert served.act("attack", {"name": "tap"}, token="wrong" * 8)[0] == 403
        assert ring.sensor_power_w("alice", "cw") == honest
        status, told = served.act("attack", {"name": "tap", "strength": 50.0})
        assert (status, told["answer"]["text"]) == (200, "Tap on the fibre, 50 % of the light: on")
        assert ring.sensor_power_w("alice", "cw") < 0.6 * honest
        wait_for(lambda: served.board.get("attack")["name"] == "tap")
        for asked in ({"name": "tap"}, {"name": "nothing"}, {"name": "tap", "strength": 400.0}, {}):
            assert served.act("attack", asked)[0] == 400, asked
        status, told = served.act("attack-end", {})
        assert status == 200
        assert ring.sensor_power_w("alice", "cw") == honest
    wait_for(lambda: served.board.get("attack") is None)


def test_a_real_ring_has_neither_page_nor_switch(machine: Machine, serve: Serve) -> None:
    data = read_testbed(machine.path)
    del data["simulation"]
    write_testbed(data, machine.path)
    served = serve(Machine(machine.path, None))
    assert served.ask("GET", "/attacks")[0] == 404
    pages = [name for name, _ in json.loads(served.ask("GET", "/api/board")[2])["set"]["pages"][1]]
    assert "attacks" not in pages
    assert "log" in pages
    status, told = served.act("attack", {"name": "tap"})
    assert status == 400
    assert "is not simulated" in told["error"]
    assert served.board.get("attacks") is None
