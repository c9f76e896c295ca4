"""Settings and readings of an instrument: QCoDeS parameters that never claim more than the instrument holds.

A **setting** takes a Python or NumPy value, checks it against its limits before anything is sent, sends it, and reads it
back: what the instrument holds must be what was asked for, to within the setting's resolution.  A **reading** only
reads.  Both know their resolution, so that a value is shown with as many digits as it has.  A **curve** is a reading of
many points over an axis, a histogram over time for example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np
import numpy.typing as npt
from qcodes.instrument import InstrumentBase
from qcodes.parameters import Parameter, ParameterWithSetpoints
from qcodes.validators import Arrays, Enum, Validator

from drivers.links.errors import InstrumentRefusedError, LimitError, WrongKindError
from drivers.links.limits import Words, plain


class Quantity(Parameter[Any, Any]):
    """A parameter with a ``resolution`` in its unit: the step of a setting or the last digit of a reading; 0: as it is."""

    def __init__(self, *args: Any, resolution: float = 0.0, **kwargs: Any) -> None:
        self.resolution = resolution
        super().__init__(*args, **kwargs)
        words = self.vals.valid_values if isinstance(self.vals, Enum) else ()
        if words and all(isinstance(word, str) for word in words):
            self.vals = Words(map(str, words))  # by which QCoDeS' data sets know a text

    def validate(self, value: Any) -> None:
        """As QCoDeS has it; LimitError and WrongKindError name instrument and address."""
        where = {
            "instrument": self.instrument.full_name if self.instrument is not None else "",
            "address": getattr(self.root_instrument, "address", ""),
        }
        try:
            super().validate(value)
        except ValueError as error:
            raise LimitError(str(error), **where) from error
        except TypeError as error:
            raise WrongKindError(str(error), **where) from error

    def _wrap_set(self, set_function: Callable[..., None]) -> Callable[..., None]:
        """What is set reaches limits, driver and cache as a Python value, whatever NumPy scalar it was."""
        as_ever = super()._wrap_set(set_function)

        @wraps(as_ever)
        def set_plain(value: Any, **kwargs: Any) -> None:
            as_ever(plain(value), **kwargs)

        return set_plain

    def unpack_self(self, value: Any) -> Any:
        """The value as QCoDeS' data sets take it: they hold no booleans, so on is 1 and off is 0."""
        return super().unpack_self(int(value) if isinstance(value, bool) else value)


class WithSettings(InstrumentBase):
    """Mixed into instruments and channels."""

    def add_parameter(self, name: str, parameter_class: Any = None, **kwargs: Any) -> Any:
        """As QCoDeS has it, a :class:`Quantity` by default."""
        return super().add_parameter(name, parameter_class or Quantity, **kwargs)

    def add_reading(
        self,
        name: str,
        *,
        label: str,
        get: Callable[[], Any],
        unit: str = "",
        resolution: float = 0.0,
        **kwargs: Any,
    ) -> Any:
        """A quantity that can be read; returns its :class:`Quantity`."""
        return self.add_parameter(
            name, Quantity, label=label, unit=unit, get_cmd=get, resolution=resolution, **kwargs
        )

    def add_setting(
        self,
        name: str,
        *,
        label: str,
        get: Callable[[], Any],
        put: Callable[[Any], object],
        limits: Validator[Any],
        unit: str = "",
        resolution: float = 0.0,
        **kwargs: Any,
    ) -> Any:
        """A quantity that can be set; returns its :class:`Quantity`.

        ``put`` sends a value and ``get`` reads it back; both are given and give values in ``unit``.  Setting raises
        LimitError outside ``limits`` (nothing is sent), and InstrumentRefusedError when what is held afterwards differs
        by more than ``resolution``.
        """
        return self.add_reading(
            name,
            label=label,
            get=get,
            unit=unit,
            resolution=resolution,
            set_cmd=partial(self._put_and_read_back, name, put, get),
            vals=limits,
            **kwargs,
        )

    def add_curve(
        self,
        name: str,
        *,
        label: str,
        unit: str,
        get: Callable[[], npt.NDArray[Any]],
        axis: str,
        axis_label: str,
        axis_unit: str,
        axis_points: Callable[[], npt.NDArray[Any]],
        **kwargs: Any,
    ) -> ParameterWithSetpoints[Any, Any]:
        """A reading over an axis of n points, which becomes a parameter ``axis`` of its own.

        ``get`` gives integers or float64 of shape (n,), ``axis_points`` the same of the axis; it is asked often and must
        not ask the instrument.  QCoDeS measures and plots such a curve with its axis; snapshots leave both out.
        """

        def points() -> int:
            return len(axis_points())

        along = self.add_parameter(
            axis,
            label=axis_label,
            unit=axis_unit,
            get_cmd=axis_points,
            vals=Arrays(shape=(points,), valid_types=(np.integer, np.floating)),
            snapshot_value=False,
        )
        curve: ParameterWithSetpoints[Any, Any] = self.add_parameter(
            name,
            ParameterWithSetpoints,
            label=label,
            unit=unit,
            get_cmd=get,
            setpoints=(along,),
            vals=Arrays(shape=(points,), valid_types=(np.integer, np.floating)),
            snapshot_value=False,
            **kwargs,
        )
        return curve

    def restore(self, *quantities: Parameter[Any, Any]) -> None:
        """Bring ``quantities`` back to what was last set or read, in this order."""
        for quantity in quantities:
            if quantity.cache.valid:  # what could not be set is told once, then read from the instrument
                quantity.set(quantity.cache.get())

    def _put_and_read_back(
        self, name: str, put: Callable[[Any], object], get: Callable[[], Any], value: Any
    ) -> None:
        quantity = self.parameters[name]
        assert isinstance(quantity, Quantity)
        quantity.cache.invalidate()  # until it is known what the instrument made of it
        put(value)
        held = get()
        if not same(value, held, quantity.resolution):
            raise InstrumentRefusedError(
                f"{name}: {shown(quantity, value)} {quantity.unit} was asked for, "
                f"{shown(quantity, held)} {quantity.unit} is what it holds".replace("  ", " "),
                instrument=self.full_name,
                address=getattr(self.root_instrument, "address", ""),
            )


def same(wanted: Any, held: Any, resolution: float) -> bool:
    """Whether a value is held: numbers to within ``resolution``, sequences element by element, the rest exactly."""
    if isinstance(wanted, bool) or isinstance(held, bool):
        return wanted is held
    if isinstance(wanted, int | float) and isinstance(held, int | float):
        return abs(wanted - held) <= max(resolution, abs(wanted) * 1e-9) * (1 + 1e-6)
    if isinstance(wanted, str) or isinstance(held, str):
        return bool(wanted == held)
    if isinstance(wanted, Sequence) and isinstance(held, Sequence):
        return len(wanted) == len(held) and all(
            same(w, h, resolution) for w, h in zip(wanted, held, strict=True)
        )
    return bool(wanted == held)


def shown(parameter: Parameter[Any, Any], value: Any) -> str:
    """``value`` as people read it: on or off, and floats with the digits that ``parameter`` resolves."""
    resolution = getattr(parameter, "resolution", 0.0)
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        if resolution > 0 and math.isfinite(value) and abs(value) < 1e15 * resolution:
            return f"{value:.{max(0, math.ceil(-math.log10(resolution) - 1e-9))}f}"
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(parameter, element) for element in value)}]"
    return str(value)
