"""Which differences between two machines' testbed files matter to both, and which to one alone."""

from __future__ import annotations

from typing import Any

import pytest

from lab.agreed import agreed_on
from lab.runs.testbeds.folder import template_path
from lab.testbed import parse_testbed, read_testbed

PATH = template_path("simulated-four-node")


def differing(change: Any) -> set[str]:
    """The sections whose digests a change moves."""
    before, data = agreed_on(parse_testbed(read_testbed(PATH), PATH)), read_testbed(PATH)
    change(data)
    after = agreed_on(parse_testbed(data, PATH))
    return {
        name for name in after.testbed | before.testbed if after.testbed.get(name) != before.testbed.get(name)
    }


def set_in(*places: Any, **values: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        table: Any = data
        for place in places:
            table = table[place]
        table.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "sections"),
    [
        (set_in(name="another-ring"), {"name"}),
        (set_in("protocol", pulses_per_block=1 << 40), {"protocol"}),
        (set_in("users", 1, position_km=1.5), {"users"}),
        (set_in("instruments", 0, name="other"), {"instruments"}),
        (set_in(interlock={"detector_cps": 1e6}), {"interlock"}),
        (set_in(keys={"relay": "x" * 40}), {"keys"}),
        (set_in("simulation", ring_seed=77), {"simulation"}),
    ],
)
def test_what_all_must_have_alike_moves_its_digest(change: Any, sections: set[str]) -> None:
    assert differing(change) == sections


@pytest.mark.parametrize(
    "change",
    [
        set_in(description="as seen from here"),
        set_in(hub={"control": "tcp://10.0.0.1:4000", "bulk": "tcp://10.0.0.1:4001"}),
        set_in(fl={"server": "tcp://10.0.0.1:4002"}),
        set_in("users", 0, delivery="tcp://127.0.0.1:4100", v_pi_v=4.0, rf_gain=20.0),
        set_in("instruments", 0, address="127.0.0.1:9999"),
        set_in("calibration", visibility=0.9),
        set_in("ring", relay_loss_db=1.5),
    ],
)
def test_what_one_machine_alone_needs_or_calibrates_moves_none(change: Any) -> None:
    assert differing(change) == set()


def test_a_default_that_is_written_out_is_no_difference() -> None:
    def write_out(data: dict[str, Any]) -> None:
        whole = parse_testbed(data, PATH).model_dump(mode="json", exclude_none=True)
        data.clear()
        data.update(whole)

    assert differing(write_out) == set()
