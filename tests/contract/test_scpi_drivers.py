"""What every SCPI driver keeps to, with its simulated instrument: identity, safe state, faults, closing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pytest

from drivers.catalogue import driver_class, open_instrument
from drivers.links.errors import (
    InstrumentError,
    LinkBrokenError,
    LinkClosedError,
    LinkTimeoutError,
    MalformedReplyError,
    WrongInstrumentError,
)
from drivers.scpi import ScpiInstrument
from sim_backends.attenuators.keysight_n7752a import N7752ATwin
from sim_backends.attenuators.keysight_n7764a import N7764ATwin
from sim_backends.faults import FaultInjector
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin
from sim_backends.powermeters.keysight_8163b import Keysight8163BTwin
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin


class Twin(Protocol):
    faults: FaultInjector

    def serve(self, host: str, port: int = ...) -> str: ...

    def close(self) -> None: ...

    def state(self) -> dict[str, object]: ...


TWINS: dict[str, Callable[..., Twin]] = {
    "tektronix-awg70002a": AWG70002ATwin,
    "keysight-n7764a": N7764ATwin,
    "thorlabs-pm100d": PM100DTwin,
    "keysight-8163b": Keysight8163BTwin,
    "keysight-n7752a": N7752ATwin,
}


@dataclass
class Pair:
    model: str
    twin: Twin
    driver: ScpiInstrument


@pytest.fixture(params=TWINS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["fresh", "left_by_someone"])
def pair(model: str, request: pytest.FixtureRequest) -> Iterator[Pair]:
    twin = TWINS[model](left_by_someone=request.param)
    driver = open_instrument(model, "device", twin.serve("127.0.0.1", 0))
    assert isinstance(driver, ScpiInstrument)
    yield Pair(model, twin, driver)
    driver.close()
    twin.close()


def test_identity(pair: Pair) -> None:
    identity = pair.driver.identify()
    assert identity.model in type(pair.driver).MODELS
    assert identity.serial_number == "SIM00001"
    assert pair.driver.IDN()["serial"] == "SIM00001"


def test_the_constructor_opens_nothing(pair: Pair) -> None:
    idle = driver_class(pair.model)("idle", "TCPIP::203.0.113.1::9::SOCKET")
    idle.close()
    with pytest.raises(LinkClosedError, match="connect"):
        idle.identify()
    idle.close()


def test_safe_state_twice_then_closed(pair: Pair) -> None:
    pair.driver.safe_state()
    pair.driver.safe_state()
    pair.driver.close()
    with pytest.raises(LinkClosedError):
        pair.driver.identify()


def test_silence_garbage_and_disconnection_are_different_errors_and_are_survived(pair: Pair) -> None:
    faults = pair.twin.faults
    plans: list[tuple[Callable[[], None], type[InstrumentError]]] = [
        (lambda: faults.drop_replies(1), LinkTimeoutError),
        (lambda: faults.garbage(1), MalformedReplyError),
        (faults.disconnect, LinkBrokenError),
    ]
    for plant, expected in plans:
        pair.driver.link.timeout_s = 0.1
        plant()
        with pytest.raises(expected, match="device at TCPIP"):
            pair.driver.identify()
        pair.driver.link.timeout_s = 5.0
        assert pair.driver.identify().serial_number == "SIM00001"
    assert pair.driver.link.renewed == 4


def test_another_model_at_the_address_is_refused(pair: Pair) -> None:
    other = TWINS[pair.model](model="X1")
    address = other.serve("127.0.0.1", 0)
    with pytest.raises(WrongInstrumentError, match=r"X1, not as .*correct the address"):
        open_instrument(pair.model, "other", address)
    # The failed instrument is gone, so its name is free again.
    again = driver_class(pair.model)("other", address)
    again.close()
    other.close()


def test_every_parameter_says_its_unit_and_can_be_read(pair: Pair) -> None:
    parameters = [p for p in pair.driver.parameters.values() if p.name not in ("IDN", "timeout")]
    for module in pair.driver.submodules.values():
        parameters += list(module.parameters.values())
    assert len(parameters) >= 4
    for parameter in parameters:
        assert parameter.label
        assert parameter.get() is not None
        suffix = parameter.name.rpartition("_")[2]
        expected = {"db": "dB", "nm": "nm", "w": "W", "hz": "Hz", "vpp": "V"}.get(suffix)
        if expected:
            assert parameter.unit == expected


def test_no_error_is_left_in_the_queue_by_normal_use(pair: Pair) -> None:
    for parameter in pair.driver.parameters.values():
        parameter.get()
    pair.driver.safe_state()
    assert pair.twin.state()["errors"] == 0
