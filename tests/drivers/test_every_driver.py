"""One walk over all drivers of the catalogue: what every one of them keeps to, at its twin.

The rows of the catalogue say which there are; what their settings and readings are is asked of the drivers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, get_origin

import numpy as np
import pytest
from every_driver import KNOWN, MODELS, Known, Rig, rigged
from qcodes.instrument import Instrument
from qcodes.utils import NumpyJSONEncoder
from wires import Piece

from drivers.catalogue import create_instrument, driver_class, row
from drivers.kinds import POWER_SENSOR
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    LinkError,
    NoReadingError,
    NotReadyError,
    WrongKindError,
)
from drivers.links.limits import ListWithin, Within
from drivers.options import option_types

pytestmark = pytest.mark.early

UNITS = {
    "a": "A", "c": "degC", "db": "dB", "dbm": "dBm", "hz": "Hz", "ma": "mA", "ms": "ms", "mv": "mV", "mw": "mW", "nm": "nm",
    "ns": "ns", "pm": "pm", "ps": "ps", "s": "s", "ua": "uA", "v": "V", "vpp": "V", "w": "W",
}  # fmt: skip
TIMED = frozenset({"speed_db_per_s"})


@pytest.fixture(scope="module", params=MODELS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """One for all tests that leave a driver as they found it."""
    with rigged(request.param) as made:
        yield made


@pytest.fixture(params=MODELS)
def own_rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with rigged(request.param) as made:
        yield made


def which(**wanted: str) -> list[str]:
    """Models whose entry in the table says something about all of ``wanted``."""
    return [model for model in MODELS if all(getattr(KNOWN.get(model, Known()), name) for name in wanted)]


def bounds(setting: Any) -> tuple[float, float] | None:
    """Least and greatest number that a setting takes."""
    values = [
        value for each in getattr(setting.vals, "valid_values", ()) or () for value in np.atleast_1d(each)
    ]
    numbers = [float(value) for value in values if isinstance(value, int | float | np.number)]
    return (
        (min(numbers), max(numbers))
        if len(numbers) >= 2 and not isinstance(values[0], bool | np.bool_)
        else None
    )


def like(held: Any, number: float) -> Any:
    """``number`` as a setting that holds ``held`` takes it: a list of as many, or an integer."""
    if isinstance(held, list | tuple):
        return [number] * len(held)
    return int(number) if isinstance(held, int) and number == int(number) else number


def other(setting: Any, held: Any) -> Any:
    """A value that the setting may have and has not; None where there is none."""
    if isinstance(held, bool):
        return not held
    limits = bounds(setting)
    if limits is not None:
        low, high = max(limits[0], -1e5), min(limits[1], 1e10)
        first = held[0] if isinstance(held, list) else held
        number = low + (high - low) * (0.25 if first > (low + high) / 2 else 0.75)
        return like(held, round(number) if isinstance(held, int) else number)
    words = [word for word in (setting.val_mapping or {}) if word != held]
    return words[0] if words else None


# Who it is


def test_identity_is_asked_and_kept(rig: Rig) -> None:
    identity = rig.driver.identify()
    assert identity == rig.driver.identity
    assert identity.vendor
    assert identity.model
    assert rig.driver.IDN()["model"] == identity.model
    assert rig.driver.IDN()["serial"] == identity.serial_number
    assert bool(identity.serial_number) == row(rig.model).has_serial_number


def test_the_constructor_asks_nothing(rig: Rig) -> None:
    rig.desk.listen()
    driver = create_instrument(rig.model, "idle", rig.address)
    driver.close()
    driver.close()
    assert rig.desk.replies == []


def test_the_channels_of_its_kinds_are_there(rig: Rig) -> None:
    for kind, channels in row(rig.model).offers.items():
        for channel in channels:
            assert not channel or channel in rig.driver.submodules, f"{kind.name}: {channel}"


def test_a_sensor_has_the_floor_that_plans_take_for_it(rig: Rig) -> None:
    for channel in row(rig.model).channels(POWER_SENSOR):
        floor_w = rig.parameter(f"{channel}.floor_w".lstrip(".")).get()
        assert floor_w > 0
        assert row(rig.model).floor_w(rig.driver.made_with) in (floor_w, None)


# Units and values


def test_every_quantity_has_a_label_and_its_unit(rig: Rig) -> None:
    assert len(rig.parameters()) >= 3
    for name, parameter in rig.parameters().items():
        assert parameter.label, name
        suffix = name.rpartition(".")[2].rpartition("_")[2]
        if name.rpartition(".")[2] not in TIMED and suffix in UNITS:
            assert parameter.unit == UNITS[suffix], name
        with suppress(NoReadingError):
            if isinstance(parameter.get(), float):
                assert parameter.unit, name


@pytest.mark.parametrize("beyond", ["below", "above", "nan", "infinite"])
def test_nothing_is_sent_beyond_a_limit(rig: Rig, beyond: str) -> None:
    for name, setting in rig.settings().items():
        limits = bounds(setting)
        if limits is None:
            continue
        held, state = setting.get(), rig.twin.state()
        step = 1 + 1e-3 * (limits[1] - limits[0])
        wrong = {"below": limits[0] - step, "above": limits[1] + step, "nan": math.nan, "infinite": math.inf}[
            beyond
        ]
        rig.desk.listen()
        with pytest.raises((ValueError, TypeError)):
            setting.set(
                like(held, wrong)
                if math.isfinite(wrong)
                else [wrong] * len(held)
                if isinstance(held, list)
                else wrong
            )
        assert rig.desk.replies == [], name
        assert {**rig.twin.state(), "requests": 0} == {**state, "requests": 0}, name


@pytest.mark.parametrize("end", [0, 1])
def test_a_limit_itself_is_taken_or_refused_with_words(rig: Rig, end: int) -> None:
    """The unit may allow less than its driver; what it takes it holds."""
    for name, setting in rig.settings().items():
        limits = bounds(setting)
        if limits is None:
            continue
        before = setting.get()
        wanted = like(before, limits[end])
        expected = before
        with suppress(InstrumentError):
            setting.set(wanted)
            expected = wanted
        coarse = getattr(setting, "resolution", 0.0)
        assert setting.get() == pytest.approx(expected, rel=1e-6, abs=coarse), name
        setting.set(before)


def test_a_setting_takes_no_text_and_no_nothing(rig: Rig) -> None:
    for name, setting in rig.settings().items():
        for wrong in ("much", None):
            rig.desk.listen()
            with pytest.raises((ValueError, TypeError, KeyError)):
                setting.set(wrong)
            assert rig.desk.replies == [], name


def as_numpy(value: Any) -> list[Any]:
    """A value in the forms in which NumPy may hold it."""
    if isinstance(value, bool):
        return [np.bool_(value)]
    if isinstance(value, int):
        return [np.int64(value), np.int16(value)]
    if isinstance(value, float):
        whole = [np.int64(round(value))] if value == round(value) else []
        return [np.float64(value), np.float32(value), *whole]
    if isinstance(value, list | tuple) and value:
        return [np.array(value), np.array(value, np.float32), [np.float32(each) for each in value]]
    return []


def test_numpy_scalars_are_taken_by_every_setting(rig: Rig) -> None:
    for name, setting in rig.settings().items():
        before = setting.get()
        for value in as_numpy(before):
            setting.set(value)
            assert setting.get() == pytest.approx(
                before, rel=1e-5, abs=getattr(setting, "resolution", 0.0)
            ), name
            assert type(setting.cache.get()) is type(before), name


@pytest.mark.parametrize("model", which(store="", strict=""))
def test_stored_set_points_are_held_against_the_limits(model: str) -> None:
    known = KNOWN[model]
    with rigged(model, prepare=known.store, **known.strict) as rig:
        with pytest.raises(LimitError):
            rig.unsafe()
        assert rig.twin.is_safe()


# What the instrument does by itself


@pytest.mark.parametrize("model", MODELS)
def test_found_as_somebody_left_it(model: str) -> None:
    """Old errors, other units, outputs on: what it says is true, and nothing goes on with a value beyond a limit."""
    with rigged(model, left=True) as rig:
        assert rig.twin.state().get("errors", 0) == 0
        rig.check_truth()
        for name, setting in rig.settings().items():
            value = setting.get()
            try:
                setting.validate(value)
            except LimitError:
                with pytest.raises(LimitError):
                    rig.unsafe()
                assert rig.twin.is_safe(), name
                value = other(setting, value)
            setting.set(value)
            assert setting.get() == value, name
        rig.driver.safe_state()
        assert rig.twin.is_safe()
        rig.unsafe()
        rig.driver.safe_state()
        assert rig.twin.is_safe()


@pytest.mark.parametrize("model", which(lose=""))
def test_a_missing_reading_is_missing_alone(model: str) -> None:
    with rigged(model) as rig:
        rig.known.lose(rig.twin)  # type: ignore[misc]
        with pytest.raises(NoReadingError, match=r"device\d+ at"):
            rig.parameter(rig.known.lost).get()
        for name, parameter in rig.parameters().items():
            if name != rig.known.lost:
                parameter.get()
        assert rig.driver.identify()
        rig.driver.safe_state()


@pytest.mark.parametrize("model", which(queue_error=""))
def test_old_errors_are_nobodys(model: str) -> None:
    queue = KNOWN[model].queue_error
    assert queue is not None
    with rigged(model, prepare=lambda twin: (queue(twin), queue(twin))) as rig:
        assert rig.twin.state()["errors"] == 0
        for setting in rig.settings().values():
            queue(rig.twin)
            setting.set(setting.get())
        queue(rig.twin)
        rig.unsafe()
        queue(rig.twin)
        rig.driver.safe_state()
        assert rig.twin.is_safe()


@pytest.mark.parametrize("model", which(acknowledge=""))
def test_what_is_not_held_is_an_error(model: str) -> None:
    """The instrument acknowledges every setting as it always does, and changes nothing."""
    with rigged(model) as rig:
        for name, setting in rig.kinds_of_settings().items():
            held = setting.get()
            wanted = other(setting, held)
            if wanted is None:
                continue
            rig.desk.hear = rig.known.acknowledge  # type: ignore[assignment]
            with pytest.raises((InstrumentRefusedError, NotReadyError), match=r"device\d+"):
                setting.set(wanted)
            rig.desk.hear = lambda request: None
            assert setting.cache.get() == held, name


def test_a_restart_between_two_requests_is_noticed(own_rig: Rig) -> None:
    """The instrument woke up anew: what comes next is true, and nothing is switched on by itself."""
    rig = own_rig
    rig.unsafe()
    rig.restart()
    with suppress(LinkError):  # a connection may end in the midst of a request
        next(iter(rig.parameters().values())).get()
    assert rig.twin.is_safe()
    rig.change(7)
    rig.check_truth()
    rig.unsafe()
    rig.driver.safe_state()
    assert rig.twin.is_safe()


# Safe state


def test_safe_twice_and_after_a_failure(own_rig: Rig) -> None:
    rig = own_rig
    rig.unsafe()
    rig.driver.safe_state()
    rig.driver.safe_state()
    assert rig.twin.is_safe()
    rig.unsafe()
    rig.hurry(0.1)
    rig.desk.listen(lambda number, reply: [Piece()])
    with pytest.raises(InstrumentError, match=r"device\d+ at"):
        next(iter(rig.parameters().values())).get()
    rig.desk.listen()
    rig.hurry(2.0)
    rig.driver.safe_state()
    assert rig.twin.is_safe()


def test_safe_without_ever_having_been_connected(own_rig: Rig) -> None:
    """What the guard does after a crash: somebody else left the instrument on."""
    rig = own_rig
    rig.unsafe()
    rig.driver.leave_on()
    options = rig.driver.made_with
    rig.driver.close()
    if rig.known.queue_error is not None:
        rig.known.queue_error(rig.twin)
    rig.driver = create_instrument(rig.model, "device", rig.address, **options)
    rig.driver.safe_state()
    assert rig.twin.is_safe()


# For people


def test_a_snapshot_goes_to_json_and_back(rig: Rig) -> None:
    snapshot = json.loads(json.dumps(rig.driver.snapshot(update=True), cls=NumpyJSONEncoder))
    assert snapshot["parameters"]["IDN"]["value"]["model"] == rig.driver.identity.model
    shown = dict(snapshot["parameters"])
    for channel, content in snapshot.get("submodules", {}).items():
        shown |= {f"{channel}.{name}": each for name, each in content["parameters"].items()}
    for name, setting in rig.settings().items():
        before = setting.get()
        assert shown[name]["value"] == before, name
        assert shown[name]["unit"] == setting.unit
        setting.set(shown[name]["value"])
        assert setting.get() == before, name


def test_a_number_that_no_float_can_be_is_outside_every_limit() -> None:
    with pytest.raises(LimitError, match=r"inf dB is outside 0\.\.10 dB"):
        Within(0.0, 10.0, "dB").validate(10**400)
    with pytest.raises(LimitError, match=r"element 1: -inf uA is outside -40\.\.40 uA"):
        ListWithin(-40.0, 40.0, "uA").validate([0.0, -(10**400)])


WRONG_OPTIONS: dict[type, Sequence[Any]] = {
    float: ("2", True, math.nan, math.inf, [1.0], None),
    int: ("2", True, 2.5, 2.0, math.nan, [1], None),
    str: (5, True, ["x"]),
    bool: (1, 0.0, "yes", None),
}


@pytest.mark.parametrize("model", MODELS)
def test_options_of_another_type_are_refused_with_name_and_address(model: str) -> None:
    """By the driver itself: a notebook and a station's file ask nobody else."""
    known = option_types(driver_class(model))
    assert known
    for option, hint in known.items():
        other = (3.7, "anything", True) if get_origin(hint) is Literal else ({"of": 1},)
        for wrong in WRONG_OPTIONS.get(hint, other):
            with pytest.raises(InstrumentError) as caught:
                create_instrument(model, "misled", "nowhere", **{option: wrong})
            assert (caught.value.instrument, caught.value.address) == ("misled", "nowhere"), (option, wrong)
            assert option in str(caught.value), (option, wrong)
        if option.endswith("_s") and not option.endswith("_per_s"):
            for wrong in (-1, 1e9):
                with pytest.raises(LimitError, match=option):
                    create_instrument(model, "misled", "nowhere", **{option: wrong})
    with pytest.raises(WrongKindError, match="no such option"):
        create_instrument(model, "misled", "nowhere", timeout=3.0)
    assert not Instrument.exist("misled")


def test_refused_values_name_instrument_and_address(rig: Rig) -> None:
    for name, setting in rig.settings().items():
        for wrong in ("much", None, object()):
            with pytest.raises(InstrumentError) as caught:
                setting.set(wrong)
            assert caught.value.address == rig.driver.address, name
            assert caught.value.instrument.startswith(rig.driver.name), name


def test_arrays_of_no_dimensions_are_taken_as_the_number_that_they_hold(rig: Rig) -> None:
    for name, setting in rig.kinds_of_settings().items():
        held = setting.get()
        if isinstance(held, bool | int | float):
            setting.set(np.array(held))
            assert setting.get() == held, name
            assert type(setting.cache.get()) is type(held), name


def test_on_and_off_are_no_numbers(rig: Rig) -> None:
    for name, setting in rig.settings().items():
        held = setting.get()
        if not isinstance(held, bool):
            with pytest.raises(WrongKindError):
                setting.set(True)
            assert setting.get() == held, name
