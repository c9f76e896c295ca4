"""The catalogue of instruments: one row per model, from which everything that lists models is derived.

Testbed files are validated against it, stations make instruments safe in its order, roles find in it who offers the
kind they need, and the simulator finds in it where a model's twin stands and at which ports it answers.

A package that is not ours adds a model through the entry-point group ``qunetlab.instruments``: the name is the
model's, the object a :class:`Row`.

    [project.entry-points."qunetlab.instruments"]
    acme-laser = "acme_laser:ROW"

Names are read from the installed packages; a package is imported only when a testbed names its model.  Drivers and
twins are named as strings and imported on first use, so that a role loads only what it owns.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from drivers import kinds
from drivers.kinds import Kind
from drivers.powermeters import floors

if TYPE_CHECKING:
    # QCoDeS takes a second to import; roles without instruments read only the rows.
    from drivers.base import LabInstrument

GROUP = "qunetlab.instruments"
WHOLE = ("",)
"""The channel of an instrument that offers a kind as a whole."""


class CatalogueError(ValueError):
    """A model that is unknown, registered twice or half, or whose package fails to import; says where."""


class SafeOrder(IntEnum):
    """When a model is made safe, first to last: what emits, what stops light, what holds secrets, then the rest."""

    LIGHT = 1
    SHUTTER = 2
    SECRETS = 3
    ATTENUATION = 4
    BIAS = 5
    TRIGGER = 6
    PASSIVE = 7


class AddressKind(Enum):
    """What an address of the testbed file is: a VISA resource, ``host`` or ``host:port``, or a serial port."""

    VISA = "visa"
    HOST = "host"
    SERIAL = "serial"


@dataclass(frozen=True)
class Row:
    """One model.

    ``driver`` is ``module:Class`` of a :class:`drivers.base.LabInstrument`; ``offers`` names, per kind, the channels
    that offer it - attributes of the driver - or :data:`WHOLE`.  ``ports`` are those at which the instrument answers
    on the network, the one of its address first.  ``twin`` is the module with ``build`` (:mod:`sim_backends.site`);
    a model without one has real addresses only.  ``has_serial_number``: whether its identity tells one, by which a
    testbed file can expect it; ``sensor_floor_w``: the least power that its power sensors tell from none, None where that
    depends on the head.  Of a generator, for plans: ``edge_ns``, 10 to 90 % of its own edges where they are slower than what
    it drives, and ``bytes_per_sample`` that are sent for each sample of a frame.  Raises CatalogueError for a row that does
    not fit together.
    """

    model: str
    driver: str
    offers: Mapping[Kind[Any], tuple[str, ...]]
    safe_order: SafeOrder
    address: AddressKind
    ports: tuple[int, ...] = ()
    twin: str = ""
    has_serial_number: bool = True
    sensor_floor_w: float | None = None
    edge_ns: float = 0.0
    bytes_per_sample: int = 4

    def __post_init__(self) -> None:
        module, _, name = str(self.driver).partition(":")
        lacks = [
            f"its {each} is {getattr(self, each)!r:.60}, not {text}"
            for each, text, right in (
                ("model", "a name", isinstance(self.model, str) and self.model),
                ("driver", "'module:Class'", isinstance(self.driver, str) and module and name),
                ("offers", "a kind of drivers.kinds with a tuple of channels each", _are_offers(self.offers)),
                ("safe_order", "a SafeOrder", isinstance(self.safe_order, SafeOrder)),
                ("address", "an AddressKind", isinstance(self.address, AddressKind)),
                ("ports", "a tuple of numbers", _are(self.ports, int)),
                ("twin", "the name of a module", isinstance(self.twin, str)),
                ("sensor_floor_w", "watts or None", isinstance(self.sensor_floor_w, float | None)),
                ("edge_ns", "nanoseconds", isinstance(self.edge_ns, float) and self.edge_ns >= 0),
                (
                    "bytes_per_sample",
                    "1 or more",
                    _are((self.bytes_per_sample,), int) and self.bytes_per_sample > 0,
                ),
                ("has_serial_number", "true or false", isinstance(self.has_serial_number, bool)),
            )
            if not right
        ]
        if not lacks and not (self.offers and all(self.offers.values())):
            lacks.append("it offers no kind, or a kind on no channel")
        if not lacks and bool(self.ports) == (self.address is AddressKind.SERIAL):
            lacks.append("an instrument on the network has ports, one on a serial line has none")
        if lacks:
            raise CatalogueError(f"the row of {self.model!r} is half-declared: {'; '.join(lacks)}")

    def channels(self, kind: Kind[Any]) -> tuple[str, ...]:
        """The channels that offer ``kind``; none if the model does not."""
        return self.offers.get(kind, ())

    def floor_w(self, options: Mapping[str, Any]) -> float | None:
        """The least power that a power sensor with these options tells from none; None where nobody said it."""
        told: float | None = options.get("floor_w", self.sensor_floor_w)
        return told

    def kind_names(self) -> str:
        """The kinds it offers, for messages."""
        return ", ".join(kind.name for kind in self.offers)


def _are(values: object, kind: type) -> bool:
    return isinstance(values, tuple) and all(isinstance(each, kind) for each in values)


def _are_offers(offers: object) -> bool:
    return isinstance(offers, Mapping) and all(
        isinstance(kind, Kind) and _are(channels, str) for kind, channels in offers.items()
    )


OURS = (
    Row(
        model="nkt-basik",
        driver="drivers.lasers.nkt_basik:NKTBasik",
        offers={kinds.LASER: WHOLE},
        safe_order=SafeOrder.LIGHT,
        address=AddressKind.SERIAL,
        twin="sim_backends.lasers.nkt_basik",
    ),
    Row(
        model="toptica-dlc-pro",
        driver="drivers.lasers.toptica_dlc_pro:DLCPro",
        offers={kinds.LASER: WHOLE},
        safe_order=SafeOrder.LIGHT,
        address=AddressKind.HOST,
        ports=(1998,),
        twin="sim_backends.lasers.toptica_dlc_pro",
    ),
    Row(
        model="keysight-n7764a",
        driver="drivers.attenuators.keysight_n7764a:KeysightN7764A",
        offers={kinds.ATTENUATOR: ("ch1", "ch2", "ch3", "ch4")},
        safe_order=SafeOrder.SHUTTER,
        address=AddressKind.VISA,
        ports=(5025,),
        twin="sim_backends.attenuators.keysight_n7764a",
    ),
    Row(
        model="keysight-n7752a",
        driver="drivers.attenuators.keysight_n7752a:KeysightN7752A",
        offers={kinds.ATTENUATOR: ("ch1", "ch3"), kinds.POWER_SENSOR: ("ch5", "ch6")},
        safe_order=SafeOrder.SHUTTER,
        address=AddressKind.VISA,
        ports=(5025,),
        twin="sim_backends.attenuators.keysight_n7752a",
        sensor_floor_w=floors.KEYSIGHT_N7752A_W,
    ),
    Row(
        model="tektronix-awg70002a",
        driver="drivers.modulators.tektronix_awg70002a:AWG70002A",
        offers={kinds.PHASE_MODULATOR: WHOLE, kinds.PULSE_CARVER: WHOLE},
        safe_order=SafeOrder.SECRETS,
        address=AddressKind.VISA,
        ports=(4000,),
        twin="sim_backends.modulators.tektronix_awg70002a",
    ),
    Row(
        model="keysight-33622a",
        driver="drivers.modulators.keysight_33622a:Keysight33622A",
        offers={kinds.PHASE_MODULATOR: WHOLE},
        safe_order=SafeOrder.SECRETS,
        address=AddressKind.VISA,
        ports=(5025,),
        twin="sim_backends.modulators.keysight_33622a",
        edge_ns=2.9,
        bytes_per_sample=10,
    ),
    Row(
        model="oz-dd100",
        driver="drivers.attenuators.oz_dd100:OzDD100",
        offers={kinds.ATTENUATOR: WHOLE},
        safe_order=SafeOrder.ATTENUATION,
        address=AddressKind.SERIAL,
        twin="sim_backends.attenuators.oz_dd100",
    ),
    Row(
        model="single-quantum-websq",
        driver="drivers.detectors.websq:WebSQ",
        offers={kinds.PHOTON_DETECTORS: WHOLE},
        safe_order=SafeOrder.BIAS,
        address=AddressKind.HOST,
        ports=(12000, 12345),
        twin="sim_backends.detectors.websq",
        has_serial_number=False,
    ),
    Row(
        model="id-quantique-id900",
        driver="drivers.timetaggers.id900:ID900",
        offers={kinds.TIME_TAGGER: WHOLE},
        safe_order=SafeOrder.TRIGGER,
        address=AddressKind.HOST,
        ports=(5555, 6060),
        twin="sim_backends.timetaggers.id900",
    ),
    Row(
        model="thorlabs-mbx",
        driver="drivers.bias_controllers.thorlabs_mbx:ThorlabsMBX",
        offers={kinds.BIAS_CONTROLLER: WHOLE, kinds.ATTENUATOR: ("voa",)},
        safe_order=SafeOrder.ATTENUATION,
        address=AddressKind.SERIAL,
        twin="sim_backends.bias_controllers.thorlabs_mbx",
    ),
    Row(
        model="thorlabs-osw22",
        driver="drivers.switches.thorlabs_osw22:ThorlabsOSW22",
        offers={kinds.OPTICAL_SWITCH: WHOLE},
        safe_order=SafeOrder.PASSIVE,
        address=AddressKind.SERIAL,
        twin="sim_backends.switches.thorlabs_osw22",
        has_serial_number=False,
    ),
    Row(
        model="oz-epc-400",
        driver="drivers.polarization.oz_epc400:OzEPC400",
        offers={kinds.POLARIZATION_CONTROLLER: WHOLE},
        safe_order=SafeOrder.PASSIVE,
        address=AddressKind.SERIAL,
        twin="sim_backends.polarization.oz_epc400",
    ),
    Row(
        model="thorlabs-mpc320",
        driver="drivers.polarization.thorlabs_mpc320:ThorlabsMPC320",
        offers={kinds.POLARIZATION_CONTROLLER: WHOLE},
        safe_order=SafeOrder.PASSIVE,
        address=AddressKind.SERIAL,
        twin="sim_backends.polarization.thorlabs_mpc320",
    ),
    Row(
        model="thorlabs-pm100d",
        driver="drivers.powermeters.thorlabs_pm100d:ThorlabsPM100D",
        offers={kinds.POWER_SENSOR: WHOLE},
        safe_order=SafeOrder.PASSIVE,
        address=AddressKind.VISA,
        ports=(2000,),
        twin="sim_backends.powermeters.thorlabs_pm100d",
    ),
    Row(
        model="keysight-8163b",
        driver="drivers.powermeters.keysight_8163b:Keysight8163B",
        offers={kinds.POWER_SENSOR: ("slot1", "slot2")},
        safe_order=SafeOrder.PASSIVE,
        address=AddressKind.VISA,
        ports=(5025,),
        twin="sim_backends.powermeters.keysight_8163b",
        sensor_floor_w=floors.KEYSIGHT_81634B_W,
    ),
)


def row(model: str) -> Row:
    """The row of ``model``.

    Raises CatalogueError for a model that nobody or more than one registers, and naming the package for a row that
    cannot be loaded.
    """
    found = [each for each in OURS if each.model == model]
    foreign = _registered(tuple(sys.path)).get(model, ())
    if len(found) + len(foreign) > 1:
        places = ["qunetlab"] * len(found) + [_place(entry) for entry in foreign]
        raise CatalogueError(
            f"model {model!r} is registered by {' and by '.join(places)}; uninstall all but one"
        )
    if foreign:
        return _loaded(foreign[0])
    if not found:
        raise CatalogueError(f"no driver for {model!r}; known: {', '.join(models())}")
    return found[0]


def models() -> list[str]:
    """The names of all models, ours and registered ones."""
    return sorted({each.model for each in OURS} | set(_registered(tuple(sys.path))))


def place_of(model: str, what: str, dotted: str) -> str:
    """Words for what stands at ``dotted``, the driver or the twin of ``model``, and the package it is from."""
    packages = "".join(f" of {_place(entry)}" for entry in _registered(tuple(sys.path)).get(model, ()))
    return f"the {what} of {model!r}, {dotted}{packages},"


def run(place: str, code: Callable[[], Any]) -> Any:
    """What ``code`` of an instrument's package gives.

    Raises CatalogueError with ``place`` for whatever it raises, the wish to end the process included.
    """
    try:
        return code()
    except (Exception, SystemExit) as error:
        raise CatalogueError(f"{place} fails: {type(error).__name__}: {error}") from error


def driver_class(model: str) -> type[LabInstrument]:
    """Import and return the driver class of ``model``.  Raises CatalogueError if there is none."""
    from drivers.base import LabInstrument

    dotted = row(model).driver
    module, _, name = dotted.partition(":")
    place = place_of(model, "driver", dotted)
    driver = run(place, lambda: getattr(importlib.import_module(module), name))
    if not (isinstance(driver, type) and issubclass(driver, LabInstrument)):
        raise CatalogueError(f"{place} is no LabInstrument of drivers.base")
    return driver


def safe_order(driver: type) -> SafeOrder:
    """When an instrument of a driver class is made safe; first, for a class that no model of ours has."""
    lineage = [f"{each.__module__}:{each.__qualname__}" for each in driver.__mro__]
    return next((each.safe_order for each in OURS if each.driver in lineage), SafeOrder.LIGHT)


def create_instrument(model: str, name: str, address: str, **options: Any) -> LabInstrument:
    """The driver of ``model``, not connected.  Raises CatalogueError if it lacks a channel that its row names."""
    instrument = driver_class(model)(name, address, **options)
    named = {channel for channels in row(model).offers.values() for channel in channels}
    if lacking := [channel for channel in sorted(named) if channel and not hasattr(instrument, channel)]:
        instrument.close()
        raise CatalogueError(
            f"{place_of(model, 'driver', row(model).driver)} has no {' and no '.join(lacking)}, which its row offers"
        )
    return instrument


def open_instrument(model: str, name: str, address: str, **options: Any) -> LabInstrument:
    """Create the driver of ``model`` and connect it.

    Raises LinkError when nothing (sensible) answers and WrongInstrumentError for another model; the
    instrument is closed again in either case.
    """
    instrument = create_instrument(model, name, address, **options)
    try:
        instrument.connect()
    except BaseException:
        instrument.close()
        raise
    return instrument


@lru_cache(maxsize=1)
def _registered(path: tuple[str, ...]) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Entry points of our group by name, as found along ``path``, which is ``sys.path``."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def _loaded(entry: EntryPoint) -> Row:
    loaded = run(_place(entry), entry.load)
    if not isinstance(loaded, Row):
        raise CatalogueError(f"{_place(entry)} is a {type(loaded).__name__}, no Row of drivers.catalogue")
    if loaded.model != entry.name:
        raise CatalogueError(f"{_place(entry)} is the row of {loaded.model!r}; both names must be the same")
    for module in filter(None, (loaded.driver.partition(":")[0], loaded.twin)):
        if not _exists(module):
            raise CatalogueError(f"{_place(entry)} is half-declared: there is no module {module!r}")
    return loaded


def _exists(module: str) -> bool:
    """Whether Python finds a module; the packages around it are imported, itself is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _place(entry: EntryPoint) -> str:
    package = f"package {entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed package"
    return f"{package} (entry point {entry.name!r} = {entry.value!r})"
