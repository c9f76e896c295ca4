"""The testbed file: one public TOML file that every process reads, validated strictly and as a whole.

It names the users in ring order, the instruments with their owners and addresses, the calibrated channel,
the protocol's parameters and the public CURVE key of every role; it holds no secret.  The address of an
instrument is the only difference between a real and a simulated one: ``auto`` means "the simulator picks",
and only ``qunetlab simulate`` accepts that word.

:func:`load_testbed` reports every mistake at once, each with the path of its key.  A field that carries a physical
quantity declares beside it which magnitudes are plausible (:mod:`lab.quantities`).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, model_validator

from lab.alarms.table import AlarmRow, table_with
from lab.calibration.book import BOOK_FILE, BookError, book_path, calibrated, read_book
from lab.consistency import Mistake, content_mistakes, mistakes_between
from lab.key_delivery import Application, KeyDelivery, SaeId
from lab.light_budget import BACKSCATTER_DB, LATCHING_CPS
from lab.needs import Server, servers
from lab.quantities import Plausible, implausible
from lab.refused import refused
from lab.sections import NonNegative, Positive, Section
from orchestrator.durable import replace_file
from orchestrator.events.status import AlarmName
from orchestrator.protocols.catalogue import DEFAULT

SCHEMA_VERSION = 4
AUTO = "auto"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
InstrumentName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
"""QCoDeS wants identifiers."""
NotBefore = Annotated[int, Field(ge=0)]
"""A delay: nothing arrives before the trigger that it counts from."""
Options = dict[str, str | int | float | bool | list[int] | list[float]]


class TestbedError(Exception):
    """A testbed file with mistakes; ``problems`` lists ``(key path, message)``."""

    __test__ = False

    def __init__(self, path: Path, problems: list[Mistake]) -> None:
        self.path = path
        self.problems = problems
        if [place for place, _ in problems] == [""]:  # it is no file to have mistakes
            lines = [f"{path}: {problems[0][1]}"]
        else:
            lines = [
                f"{path}: {len(problems)} mistake{'s' if len(problems) != 1 else ''} in the testbed file"
            ]
            lines += [f"  {place}: {message}" if place else f"  {message}" for place, message in problems]
        super().__init__("\n".join(lines))


class UnknownNameError(KeyError):
    """A name that the testbed file does not have."""

    def __str__(self) -> str:
        """The message as it is; KeyError would show its ``repr``."""
        return str(self.args[0])


class Hub(Section):
    """Where the orchestrator listens (ZeroMQ endpoints, or ``auto`` for ports of its own choice)."""

    control: str = AUTO  # for messages of roles and observers
    bulk: str = AUTO  # for announcements of clicks and other long messages


class Protocol(Section):
    """What both nodes of a pair fix before a block."""

    name: str = DEFAULT  # a row of orchestrator/protocols/catalogue.py
    clock_hz: Annotated[Positive, Plausible(1e5, 1e11)] = 100e6  # slots per second
    slots_per_frame: Annotated[int, Field(ge=2048, le=2**24)] = 2**22  # played for one trigger
    samples_per_slot: Annotated[int, Field(ge=2, le=64)] = 2  # of the generators
    pulses_per_block: Annotated[int, Field(ge=2048, le=10**13)] = 100_000_000  # up to whole frames
    eps_sec: Annotated[float, Field(ge=1e-80, lt=1)] = 1e-10  # that it is secret
    eps_cor: Annotated[float, Field(ge=1e-80, lt=1)] = 1e-15  # that both ends agree
    f_ec: Annotated[float, Field(ge=1, le=2)] = 1.05  # of reconciliation, planned
    gate_ns: Annotated[Positive, Plausible(1e-3, 1e4)] = 1.0  # around a pulse, in which clicks count
    light: Literal["assumed", "gated", "counted"] = "assumed"
    """What is believed of the relay's light in the other direction: steady, or counted by a user's own counter."""
    monitoring: Literal["monitored", "calibrated"] = "monitored"
    """Whether users read their own light while pulses fly, or trust the last calibration."""
    qber_limit: Annotated[float, Field(gt=0, lt=0.5)] = 0.06  # beyond it no key is made
    lost_frames_limit: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Part of a block's frames that may be lost; beyond it the block is given up."""
    auth_refill_bits: Annotated[int, Field(ge=0)] = 4096  # of every block, for each authentication lane
    p_x: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Fixed basis probability, a multiple of 1/128; left out, the planner chooses the best."""
    mu: Positive | None = None
    """Fixed photons per pulse of both users; left out, the planner chooses the best for each."""


class Ring(Section):
    """The fibre ring and the light the relay launches into it."""

    length_km: Annotated[Positive, Plausible(0.01, 2000)]  # once around
    fibre_loss_db_per_km: Annotated[NonNegative, Plausible(0.01, 20)]  # of the loop
    bypass_loss_db: Annotated[NonNegative, Plausible(1e-3, 60)]
    """One pass of a station's switch: what a station costs that does not take part."""
    relay_loss_db: Annotated[NonNegative, Plausible(1e-3, 60)]
    """From a loop end to a detector, the coupler's splitting and the detector's efficiency left out."""
    backscatter_db_per_m: Annotated[float, Field(ge=-100, le=-40)] = BACKSCATTER_DB
    """Light scattered back by a metre of fibre over light in it."""
    laser_power_mw: Annotated[Positive, Plausible(0.02, 1000)]  # what the laser is set to
    launch_loss_db: Annotated[NonNegative, Plausible(0.1, 120)]
    """From the laser into one direction of the loop with the launch attenuators at 0 dB, pulses carved."""
    wavelength_nm: Annotated[Positive, Plausible(350, 2500)] = 1550.12  # of the laser


class Carver(Section):
    """The modulator that cuts the laser's light into pulses, and its generator channel."""

    v_pi_v: Annotated[Positive, Plausible(0.1, 100)] = 4.0  # from dark to bright, at the modulator
    rf_gain: Annotated[Positive, Plausible(0.1, 1000)] = 16.0  # of its driver, volts over volts
    awg_amplitude_vpp: Annotated[Positive, Plausible(0.01, 20)] = 0.5  # of the generator's channel
    pulse_ns: Annotated[Positive, Plausible(1e-3, 100)] = 0.4
    """Width of the pulses at half their height."""
    extinction_db: Annotated[Positive, Plausible(10, 80)] = 35.0
    """Light of a pulse over what passes within one gate between pulses."""
    attenuation_db: Annotated[NonNegative, Plausible(0.01, 60)] = 1.0
    """What the attenuator inside the bias controller, if it has one, is set to while light passes: its least."""


class Calibration(Section):
    """The channel as calibrated; what the nodes plan their blocks with."""

    visibility: Annotated[float, Field(gt=0, le=1), Plausible(0.01, 1)]  # dark counts taken off
    dark_count_probability: Annotated[float, Field(ge=0, lt=1), Plausible(1e-15, 0.1)]  # of a gate
    detector_efficiency: Annotated[float, Field(gt=0, le=1), Plausible(1e-3, 1)]  # mean of both
    detector_delays_ps: Annotated[tuple[NotBefore, NotBefore], Plausible(1, 1e9)]
    """From the trigger's edge to the light of slot 0, at each detector."""
    detector_ratio: Annotated[float, Field(ge=0.5, le=2)] = 1.0  # counts of D2 over D1 for the same light
    loop_phase_rad: float = 0.0
    """Phase between the two ways around with all modulators at rest."""
    arm_offsets_cw_db: tuple[float, ...] = ()  # as the next key, of clockwise light
    arm_offsets_ccw_db: tuple[float, ...] = ()
    """Of each user, in ring order: losses by its own sensor beyond the file's; 0: unmeasured (:mod:`lab.calibration.arm_loss`)."""


class Uncertainty(Section):
    """What calibrated values may be wrong by; the planner charges all of it."""

    phase_rad: Annotated[NonNegative, Plausible(1e-4, 1)] = 0.02
    """Of each phase of a symbol: V_pi, driver gain, the generator's levels."""
    sensor_scale_db: Annotated[NonNegative, Plausible(1e-3, 6)] = 0.21  # of a reading
    sensor_zero_pw: Annotated[NonNegative, Plausible(1e-4, 1e3)] = 0.05  # absolute, of a reading
    attenuator_db: Annotated[NonNegative, Plausible(1e-3, 6)] = 0.1  # of a setting
    drift_db: Annotated[NonNegative, Plausible(1e-3, 6)] = 0.14
    """How far an intensity may be off its plan before the block ends."""
    calibrated_db: Annotated[NonNegative, Plausible(1e-3, 6)] = 0.5
    """Of an intensity that nobody reads while pulses fly."""
    visibility: Annotated[NonNegative, Plausible(1e-5, 0.5)] = 0.001
    """Not charged: errors beyond it say that the ring is not as calibrated."""


class Detectors(Section):
    """How the relay runs its two detectors and the time tagger's inputs."""

    channels: tuple[int, int] = (1, 2)  # inputs of the tagger for D1 and D2
    bias_ua: Annotated[tuple[float, float], Plausible(0.5, 200)]  # of D1 and D2
    trigger_mv: Annotated[tuple[float, float], Plausible(1, 5000)]  # level of the controller's own counters
    threshold_v: Annotated[float, Plausible(1e-3, 10)] = 0.1  # of the tagger's inputs


class User(Section):
    """One user station; stations stand in the file in ring order, clockwise from the relay."""

    name: Name  # stands in commands, messages and files
    position_km: Annotated[Positive, Plausible(1e-3, 2000)]  # of fibre, clockwise from the relay
    v_pi_v: Annotated[Positive, Plausible(0.1, 100)]  # of the phase modulator
    rf_gain: Annotated[Positive, Plausible(0.1, 1000)]  # of its driver, volts over volts
    awg_amplitude_vpp: Annotated[Positive, Plausible(0.01, 20)]  # of the generator's channel
    phase_uncertainty_rad: Annotated[NonNegative, Plausible(1e-5, 1)] | None = None
    """What each phase of this user's symbols may be wrong by, where a calibration found it; else [uncertainty] says it."""
    loop_phase_rad: float | None = None
    """The loop's phase as this user finds it, clockwise light ahead; else [calibration] says it."""
    attenuation_db: Annotated[NonNegative, Plausible(0.01, 60)] = 0.0
    """What the attenuator is set to while light passes: its least, or what trims the light of pairs that are too bright."""
    attenuator_slope: Annotated[Positive, Plausible(0.5, 2)] = 1.0
    """What the attenuator really takes per dB that is set beyond that."""
    station_loss_db: Annotated[NonNegative, Plausible(0.1, 60)] = 11.92
    """Of the station taken in, with that setting; the same both ways."""
    sensor_to_output_db: Annotated[tuple[float, float], Plausible(0.01, 60)] = (8.31, 8.31)
    """From the reading of a sensor to the light of its direction at the station's output, with that setting: cw, ccw."""
    modulator_delays_ps: Annotated[tuple[NotBefore, NotBefore], Plausible(1, 1e9)]
    """From the first sample of a triggered waveform at the modulator to the pulse of slot 0 there: cw, ccw."""
    delivery: str = AUTO  # where this user's learning client reaches the node
    etsi014: str = AUTO  # HOST:PORT where applications reach the node; auto: a port of its own choice on its machine alone


class InstrumentEntry(Section):
    """One instrument: what it is, whose it is, where it answers.

    ``serial_number``: the one that must answer there; any does where it is left out.  Addresses that follow the
    order in which instruments were plugged in need it, or two of a kind may stand for each other.
    ``serves``: channel by need of its role, to be said where several could serve (:mod:`lab.needs`).
    """

    name: InstrumentName  # as in commands, logs and notebooks
    model: str  # a row of the catalogue, or of an installed package
    owner: Name  # the role that alone opens it: relay or a user
    address: str = AUTO  # VISA resource, host, host:port or serial port
    serial_number: Annotated[str, Field(max_length=64)] = ""
    serves: dict[str, str] = Field(default_factory=dict)
    options: Options = Field(default_factory=dict)  # of the driver

    @property
    def has_address(self) -> bool:
        """Whether it stands somewhere already; the simulator picks an address otherwise."""
        return self.address != AUTO


class Interlock(Section):
    """Where a role goes dark by itself until an operator says otherwise."""

    detector_cps: Annotated[Positive, Plausible(1e3, 1e9)] = LATCHING_CPS
    """Counts per second of a detector; sensors are held against the light that would give as many."""


class AlarmLimits(Section):
    """Limits of one alarm, in the place of those of :data:`lab.alarms.table.TABLE`."""

    low_major: float | None = None  # below it: major
    low_minor: float | None = None  # below it: minor
    high_minor: float | None = None  # above it: minor
    high_major: float | None = None  # above it: major
    drift: Positive | None = None  # away from where it was by more than this: minor
    stale_s: Positive | None = None  # a value older than this is invalid


class Cabling(Section):
    """Electrical lines between instruments.

    ``trigger_source`` fires one edge per frame to the trigger inputs of ``trigger_sinks``; one source of 10 MHz feeds
    the reference inputs of ``reference``.
    """

    trigger_source: InstrumentName
    trigger_sinks: tuple[InstrumentName, ...]
    reference: tuple[InstrumentName, ...]


class BuiltStation(Section):
    """A simulated station as it was ordered."""

    name: Name  # that of a user
    position_km: Positive  # as ordered
    v_pi_v: Positive = 4.0  # as ordered
    rf_gain: Positive = 20.0  # as ordered


class Simulation(Section):
    """The simulated ring as it was ordered; what it really became is drawn around that and told nobody.

    ``ring_seed`` seeds what differs from the order, by ``spread`` times the usual tolerances of such parts (0: nothing
    differs); ``seed`` seeds what happens: clicks, noise.  What it became holds when the simulator starts, and drifts
    then: ``drift`` times as far as such rings do (0: not at all), ``time_scale`` seconds in each second of the bench.
    """

    seed: Annotated[int, Field(ge=0)] = 1
    ring_seed: Annotated[int, Field(ge=0)] = 1
    spread: Annotated[float, Field(ge=0, le=3)] = 1.0
    drift: Annotated[float, Field(ge=0, le=10)] = 1.0
    time_scale: Annotated[float, Field(gt=0, le=1e5)] = 1.0
    sensor_speed: Annotated[float, Field(ge=1, le=1e5)] = 1.0
    """Readings and zeros of power sensors take their time divided by this, as blocks of a simulated ring are short."""
    length_km: Annotated[Positive, Plausible(0.01, 2000)]  # as ordered
    stations: Annotated[tuple[BuiltStation, ...], Field(min_length=2)]
    fibre_loss_db_per_km: NonNegative = 0.2  # as ordered
    relay_loss_db: Annotated[NonNegative, Plausible(1e-3, 60)]  # as ordered
    carver_extinction_db: Positive = 35.0  # as ordered
    visibility: Annotated[float, Field(gt=0, le=1), Plausible(0.01, 1)]  # as ordered
    detector_efficiency: Annotated[float, Field(gt=0, le=1), Plausible(1e-3, 1)]  # as ordered, at the plateau
    dark_count_probability: Annotated[float, Field(ge=0, lt=1), Plausible(1e-15, 0.1)]  # as ordered
    splitter_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5  # of the relay's coupler
    phase_noise_rad: NonNegative = 0.0  # from pulse to pulse
    loop_phase_rad: float = 0.0  # between both ways, at the start
    loop_phase_drift_rad: Annotated[NonNegative, Plausible(1e-6, 10)] = 1e-3
    """Order of the loop phase's drift: a milliradian on a spool, up to a radian in deployed fibre."""
    dead_time_ns: Annotated[NonNegative, Plausible(0.1, 1e4)] = 20.0  # of a detector, not prolonged by light
    jitter_ps: Annotated[NonNegative, Plausible(0.1, 1e4)] = 30.0  # of a time stamp, one sigma
    afterpulse_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0  # after a click


class FederatedLearning(Section):
    """Where the federated-learning server listens."""

    server: str = AUTO  # endpoint, or auto for a port of its own choice


class Testbed(Section):
    """A whole, consistent testbed; ``keys`` has the public CURVE key of every role, written by ``init``."""

    __test__ = False

    schema_version: Literal[4]  # files of other versions are refused
    name: Name  # of the ring
    description: str = ""  # for people
    hub: Hub = Hub()
    protocol: Protocol = Protocol()
    ring: Ring
    carver: Carver = Carver()
    calibration: Calibration
    uncertainty: Uncertainty = Uncertainty()
    detectors: Detectors
    users: Annotated[tuple[User, ...], Field(min_length=2)]
    instruments: tuple[InstrumentEntry, ...]
    cabling: Cabling
    interlock: Interlock = Interlock()
    alarms: dict[AlarmName, AlarmLimits] = Field(default_factory=dict)
    simulation: Simulation | None = None
    fl: FederatedLearning = FederatedLearning()
    key_delivery: KeyDelivery = KeyDelivery()
    sae: dict[SaeId, Application] = Field(default_factory=dict)
    keys: dict[str, Annotated[str, Field(min_length=40, max_length=40)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        self.alarm_table()
        return self

    def alarm_table(self) -> dict[AlarmName, AlarmRow]:
        """Every kind of alarm with its limits on this testbed."""
        changed = {name: limits.model_dump() for name, limits in self.alarms.items()}
        return table_with(changed, self.interlock.detector_cps, self.protocol.qber_limit)

    def user_names(self) -> tuple[str, ...]:
        """Users in ring order."""
        return tuple(user.name for user in self.users)

    def user(self, name: str) -> User:
        """The user of that name; KeyError if there is none."""
        for user in self.users:
            if user.name == name:
                return user
        raise UnknownNameError(
            f"no user {name!r} in testbed {self.name!r}; users are {', '.join(self.user_names())}"
        )

    def loop_phase_rad(self, name: str) -> float:
        """Phase between the two ways around as a user has found it, or as it was calibrated for all."""
        own_rad = self.user(name).loop_phase_rad
        return self.calibration.loop_phase_rad if own_rad is None else own_rad

    def applications_of(self, user: str) -> tuple[str, ...]:
        """The SAE ids of the applications that a user's node serves, in the file's order."""
        return tuple(name for name, entry in self.sae.items() if entry.user == user)

    def pairs(self) -> list[tuple[str, str]]:
        """All pairs, each as (first, second) in ring order."""
        return list(combinations(self.user_names(), 2))

    def roles(self) -> list[str]:
        """Every role that has a CURVE key."""
        users = self.user_names()
        return ["orchestrator", "relay", *users, "fl-server", *(f"fl-{user}" for user in users), "observer"]

    def owned_by(self, owner: str) -> tuple[InstrumentEntry, ...]:
        """The instruments of one role."""
        return tuple(entry for entry in self.instruments if entry.owner == owner)

    def servers(self, owner: str) -> dict[str, Server]:
        """Which instrument and channel serves each need of a role, by the need's name."""
        return servers(owner, self.owned_by(owner))

    def public_key(self, role: str) -> str:
        """The z85 CURVE key of a role; KeyError says what to do when it is missing."""
        try:
            return self.keys[role]
        except KeyError:
            raise UnknownNameError(
                f"testbed {self.name!r} has no public key for role {role!r} under [keys]; "
                f"create the folder with `qunetlab init`"
            ) from None

    def frames_per_block(self) -> int:
        """Frames that make at least ``pulses_per_block`` pulses."""
        return -(-self.protocol.pulses_per_block // self.protocol.slots_per_frame)


def load_testbed(path: Path) -> Testbed:
    """Read and validate a testbed file.

    Raises TestbedError with every mistake found, and FileNotFoundError as it comes.
    """
    return parse_testbed(read_testbed(path), path)


def read_testbed(path: Path) -> dict[str, Any]:
    """The content of a testbed file, not validated, with what was calibrated beside it (:mod:`lab.calibration.book`).

    Raises TestbedError for a file that is no TOML, and for calibrated values that cannot be used.
    """
    data = _read_toml(path)
    if not book_path(path).exists():
        return data
    try:
        return calibrated(data, read_book(path, data))
    except BookError as error:
        raise TestbedError(path, [(BOOK_FILE, str(error))]) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except UnicodeDecodeError as error:
        raise TestbedError(
            path, [("", f"not UTF-8 at byte {error.start}; save the file in that encoding")]
        ) from error
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TestbedError(path, [("", f"not valid TOML: {error}")]) from error
    if too_long := list(_too_long("", data)):
        raise TestbedError(
            path, [(place, "a whole number of TOML has at most 64 bits") for place in too_long]
        )
    return data


def _too_long(place: str, value: object) -> Iterator[str]:
    """Where whole numbers stand that TOML 1.0 does not have; Python's reader takes any."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _too_long(f"{place}.{key}" if place else key, each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _too_long(f"{place}[{index}]", each)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield place


def parse_testbed(data: Mapping[str, Any], path: Path) -> Testbed:
    """Validate the parsed content of a testbed file; ``path`` is for messages only."""
    testbed, problems = examine(data, path)
    if testbed is None or problems:
        raise TestbedError(path, problems)
    return testbed


def examine(data: Mapping[str, Any], path: Path) -> tuple[Testbed | None, list[Mistake]]:
    """A testbed with every mistake that can be told without drivers; none where fields are not well-formed.

    Raises TestbedError for a version that is not known.
    """
    version = data.get("schema_version")
    if isinstance(version, int) and 1 <= version < SCHEMA_VERSION:
        text = (
            f"version {version} describes a ring without carver, switches, clocks and delays, which this release cannot "
            "make up; make a file with `qunetlab init` and carry addresses and calibrated values over"
        )
        raise TestbedError(path, [("schema_version", text)])
    if isinstance(version, int) and version != SCHEMA_VERSION:
        text = f"version {version} is not known to this release, which reads version {SCHEMA_VERSION}"
        raise TestbedError(path, [("schema_version", text)])
    told = [*implausible(Testbed, data), *content_mistakes(data)]
    try:
        testbed = Testbed.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        places = {place for place, _ in told}
        problems = refused(error)
        return None, [each for each in problems if each[0] not in places] + told
    return testbed, told + list(mistakes_between(testbed))


def write_testbed(data: Mapping[str, Any], path: Path) -> None:
    """Write testbed content as TOML; the file is there whole or as it was."""
    replace_file(path, tomli_w.dumps(data).encode())


def resolve_addresses(data: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, Any]:
    """The same content with the address of every instrument named in ``addresses`` filled in."""
    resolved = dict(data)
    resolved["instruments"] = [
        {**entry, "address": addresses.get(entry["name"], entry.get("address", AUTO))}
        for entry in data["instruments"]
    ]
    return resolved
