"""Readings of many points as QCoDeS users take them: measured with their axis, swept, plotted with units."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from qcodes.dataset import (
    LinSweep,
    Measurement,
    dond,
    initialise_or_create_database_at,
    load_or_create_experiment,
)
from qcodes.instrument import Instrument
from qcodes.parameters import ManualParameter
from qcodes.validators import Bool

from drivers.links.errors import LimitError
from drivers.settings import WithSettings


class Counter(WithSettings, Instrument):
    """Counts in bins of 0.1 ns."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.bins = 5
        self.add_parameter("gain", ManualParameter, initial_value=1)
        self.histogram = self.add_curve(
            "histogram",
            label="Histogram",
            unit="counts",
            get=lambda: np.arange(self.bins) * int(self.gain()),
            axis="delay_ns",
            axis_label="Delay",
            axis_unit="ns",
            axis_points=lambda: np.arange(self.bins) * 0.1,
        )


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Counter]:
    initialise_or_create_database_at(str(tmp_path / "data.db"))
    load_or_create_experiment("curves", "none")
    counter = Counter("counter")
    yield counter
    counter.close()


def test_a_curve_is_stored_over_its_axis_whose_length_may_change(counter: Counter) -> None:
    for counter.bins in (5, 7):
        measurement = Measurement()
        measurement.register_parameter(counter.histogram)
        with measurement.run(write_in_background=False) as run:
            run.add_result((counter.histogram, counter.histogram()))
        stored = run.dataset.get_parameter_data()["counter_histogram"]
        assert stored["counter_delay_ns"].ravel() == pytest.approx(np.arange(counter.bins) * 0.1)
        assert list(stored["counter_histogram"].ravel()) == list(range(counter.bins))
        assert run.dataset.paramspecs["counter_delay_ns"].unit == "ns"


def test_a_curve_is_swept(counter: Counter) -> None:
    sweep = LinSweep(counter.parameters["gain"], 1, 3, 3, 0)
    data, _, _ = dond(sweep, counter.histogram, show_progress=False, do_plot=False)
    found = data.to_xarray_dataset()["counter_histogram"]
    assert found.shape == (3, 5)
    assert found.sel(counter_gain=2).values.tolist() == [0, 2, 4, 6, 8]


def test_a_snapshot_holds_no_curve(counter: Counter) -> None:
    assert "value" not in counter.snapshot(update=True)["parameters"]["histogram"]


def test_switches_and_words_are_stored_too(counter: Counter) -> None:
    switch = counter.add_setting(
        "switch", label="Switch", get=lambda: True, put=lambda on: None, limits=Bool(), initial_value=True
    )
    clock = counter.add_parameter(
        "clock", get_cmd=lambda: "INT", val_mapping={"internal": "INT", "external": "EXT"}
    )
    measurement = Measurement()
    measurement.register_parameter(switch)
    measurement.register_parameter(clock)
    with measurement.run(write_in_background=False) as run:
        run.add_result((switch, switch()), (clock, clock()))
    stored = run.dataset.get_parameter_data()
    assert stored["counter_switch"]["counter_switch"] == [1]
    assert stored["counter_clock"]["counter_clock"] == ["internal"]
    with pytest.raises(LimitError, match="'rubidium' is none of internal, external"):
        clock.validate("rubidium")
