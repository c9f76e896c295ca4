"""What a session with an instrument does that somebody meets for the first time, step by step.

A whole session connects (identity and known state), reads every parameter once, writes every setting back with the
value that was read, and makes the instrument safe.  Nothing is switched on: a switch that is on is not written.  A
session that only reads asks for the identity and for the parameters, and changes nothing.  Somebody may then say lines of
their own.  The same steps are done again when a transcript is replayed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Arrays

from drivers.base import LabInstrument
from drivers.links.errors import InstrumentError
from drivers.links.limits import plain
from drivers.links.transcript import Outcome, Step

NOT_OF_THE_INSTRUMENT = ("IDN", "timeout")
"""Parameters that QCoDeS adds."""
_NUMBERS = count(1)


def unique_name(word: str) -> str:
    """A name for a driver that no other has."""
    return f"{word}_{next(_NUMBERS)}"


def what(step: Step) -> str:
    """A step in words."""
    return f"{step.do} {step.name}".rstrip()


def parameters(driver: LabInstrument) -> dict[str, Parameter[Any, Any]]:
    """Every readable parameter by name, those of channels with the channel before it; no curves."""
    holders = {"": driver, **driver.submodules}
    return {
        f"{holder}.{name}".lstrip("."): parameter
        for holder, instrument in holders.items()
        for name, parameter in instrument.parameters.items()
        if isinstance(parameter, Parameter)
        and name not in NOT_OF_THE_INSTRUMENT
        and parameter.gettable
        and not isinstance(parameter.vals, Arrays)
    }


def settings(driver: LabInstrument) -> list[str]:
    """The names of the parameters that can be set."""
    return [name for name, parameter in parameters(driver).items() if parameter.settable]


class Session:
    """The steps of a session with ``driver``; :meth:`perform` does one, :meth:`plan` says which are next."""

    def __init__(self, driver: LabInstrument, *, read_only: bool) -> None:
        self.driver = driver
        self.read_only = read_only
        self.reason = ""
        self._held: dict[str, Any] = {}
        if read_only:  # it brings nothing to any state
            for link in driver.every_link().values():
                link.bring_up = None

    def plan(self) -> Iterator[Step]:
        """The steps in their order; each must be performed before the next is asked for."""
        yield Step(0.0, "identify" if self.read_only else "connect")
        names = list(parameters(self.driver))
        for name in names:
            yield Step(0.0, "read", name)
        if not self.read_only:
            for name in settings(self.driver):
                if name in self._held and self._held[name] is not True:
                    yield Step(0.0, "set", name, self._held[name])

    def perform(self, step: Step) -> Outcome:
        """Do ``step``; errors of the instrument and of its driver are its outcome, and ``reason`` says more of them."""
        self.reason = ""
        try:
            return self._perform(step)
        except (InstrumentError, ValueError, TypeError) as error:
            self.reason = str(error)
            return Outcome(0.0, failed=type(error).__name__)

    def _perform(self, step: Step) -> Outcome:
        driver = self.driver
        if step.do == "connect":
            driver.connect()
        elif step.do == "identify":
            driver.identity = driver.identify()
        elif step.do == "safe_state":
            driver.safe_state()
        elif step.do == "ask":
            return Outcome(0.0, gave=driver.ask(step.name))
        elif step.do == "write":
            driver.write(step.name)
        elif step.do == "set":
            self._parameter(step.name).set(step.value)
        else:
            return self._read(step.name)
        return Outcome(0.0)

    def _parameter(self, name: str) -> Parameter[Any, Any]:
        found = parameters(self.driver)
        if name not in found:
            raise ValueError(f"the driver has no parameter {name!r}; it has {', '.join(found)}")
        return found[name]

    def _read(self, name: str) -> Outcome:
        parameter = self._parameter(name)
        value = plain(parameter.get())
        if not getattr(parameter, "_snapshot_get", True):  # it takes its time, and that is in the value
            return Outcome(0.0, kind=type(value).__name__)
        value = list(value) if isinstance(value, tuple) else value
        finite = not isinstance(value, float) or math.isfinite(value)  # others are no JSON
        if not (isinstance(value, bool | int | float | str | list) and finite):
            return Outcome(0.0, kind=type(value).__name__)
        self._held[name] = value
        return Outcome(0.0, gave=value)
