"""What commands print with ``--json``: one type for each, from which ``docs/commands.schema.json`` is made.

Types that the product has anyway are named by where they stand (``MODULE:NAME``; ``[MODULE:NAME]`` for a list) and are imported
when the schema is made; what a command alone puts together is declared here.  A command of groups (``status``, ``queue``) has a
schema of its own, and roles print events.  Tests hold every answer that they get against it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NotRequired, TypeAlias, TypedDict, get_type_hints

import msgspec

from lab.calibration.finding import Finding
from lab.cli.compare import ComparedRun
from lab.cli.data import DataRow
from lab.cli.train_options import ROWS, Asked
from lab.runs.doctor import Row
from lab.runs.first_contact.against_driver import DriverReport
from lab.runs.first_contact.against_twin import TwinReport
from lab.runs.keygen import BlockRow
from lab.scanning import Found
from orchestrator.wire.attack_control import AttackShown
from orchestrator.wire.control_socket import InterlockState
from sim_backends.attacks.table import AttackRow

Number: TypeAlias = float | int | None


class Made(TypedDict):
    """A new testbed folder."""

    testbed: str
    secrets: str
    uncalibrated: bool


class Exported(TypedDict):
    """A parcel for another machine; ``erased`` are the folders of secrets that went with it."""

    parcel: str
    roles: list[str]
    erased: list[str]


class BegunAnew(TypedDict):
    """New keys of roles whose machine is lost; ``without_certificate`` are nodes that serve applications and need one."""

    parcel: str
    public: str
    roles: list[str]
    without_certificate: list[str]


class Imported(TypedDict):
    """A parcel that has arrived; ``secrets`` are the folders that came with it."""

    testbed: str
    roles: list[str]
    secrets: list[str]


class Units(TypedDict):
    """Units by file name, and the paths at which they were written."""

    units: dict[str, str]
    written: list[str]


class CheckedPair(TypedDict):
    """Losses of both arms in dB; ``refusals`` are why it would make no key."""

    pair: list[str]
    loss_a_db: float
    loss_b_db: float
    refusals: list[str]
    launch_attenuation_db: NotRequired[float]


class Checked(TypedDict):
    """A testbed file that holds; ``stale`` are calibrated values that nothing should rest on.

    ``digest`` of it, and ``digests`` of its sections, are alike on every machine of the ring, ``secrets_here`` the roles whose secrets lie beside it.
    ``certificates`` says which of them cannot be used, or expire soon.
    """

    valid: bool
    name: str
    pairs: list[CheckedPair]
    pairs_without_key: list[list[str]]
    stale: list[str]
    digest: str
    digests: dict[str, str]
    secrets_here: list[str]
    certificates: list[str]


class Parameter(TypedDict):
    """``value`` in ``unit``; ``limits`` are empty or least and greatest; ``missing`` says why there is no value."""

    value: Any
    unit: str
    limits: list[float]
    shown: str
    missing: NotRequired[str]


class Instrument(TypedDict):
    """One that answered (``ok``), or why it did not."""

    name: str
    model: str
    owner: str
    address: str
    ok: bool
    serial_number: NotRequired[str]
    firmware: NotRequired[str]
    parameters: NotRequired[dict[str, Parameter]]
    in_use: NotRequired[bool]
    error: NotRequired[str]


class Instruments(TypedDict):
    """Those of the testbed file."""

    instruments: list[Instrument]


class PairKeyrate(TypedDict):
    """The plan of a pair of a testbed; further keys are figures of its protocol."""

    pair: str
    light: str
    monitoring: str
    tolerance_db: dict[str, float]
    launch_attenuation_db: float
    attenuation_db: dict[str, float]
    sensor_w: dict[str, dict[str, float]]
    backscatter_per_gate: float
    detector_rate_cps: float
    key_bits_per_light_second: float
    key_bits_per_bench_second: float


class KeyOfOneRing(TypedDict):
    """What a ring of one's own made; figures of a block by their names, with units in them."""

    pair: list[str]
    simulated: bool
    blocks: list[BlockRow]


class Refused(TypedDict):
    """Roles whose keys are refused, by the process that refuses them."""

    revoked: dict[str, list[str]]


class Certificate(TypedDict):
    """``holder`` is sae (an application) or kme (a user's node); ``state`` is valid, expired or revoked; quotas of 0 are none."""

    name: str
    holder: str
    user: str | None
    serial: str
    fingerprint: str
    expires: str
    days_left: int
    state: str
    revoked: str | None
    hosts: list[str]
    address: str | None
    """Where applications reach the node, as the testbed file says; null where the node chooses."""
    bits_per_day: int | None
    requests_per_s: float | None


class Certificates(TypedDict):
    """All that were signed where the authority is, else those that are here."""

    authority: str | None
    certificates: list[Certificate]


class DueStep(TypedDict):
    """A step of a calibration that is due."""

    step: str
    owner: str
    pair: list[str]


class CalibratedStep(DueStep):
    """One that was done; ``finding`` is None where it was ``refused``."""

    refused: str
    unrecorded: str
    finding: Finding | None


class Due(TypedDict):
    """With ``--dry-run``, or where nothing is."""

    due: list[DueStep]


class CalibratedNow(TypedDict):
    """What was done."""

    calibrated: list[CalibratedStep]


class Told(TypedDict):
    """What became of the interlock of a role; ``state`` is None where none answered."""

    role: str
    ok: bool
    text: str
    state: InterlockState | None


class Examined(TypedDict):
    """``verdict``: the worst of the rows."""

    verdict: str
    rows: list[Row]


class Looked(TypedDict):
    """What answers, by address."""

    found: list[Found]


class Ended(TypedDict):
    """What was made safe, in words."""

    ended: list[str]


class App(TypedDict):
    """A new app; ``run`` starts it, ``missing`` has to be installed first."""

    folder: str
    package: str
    run: str
    missing: list[str]


class Attacks(TypedDict):
    """Those that there are, and the one that is ``on``."""

    attacks: list[AttackRow]
    on: AttackShown | None
    problem: str


class Text(TypedDict):
    """What was done, in words."""

    text: str


class Fetched(TypedDict):
    """A data set that is here."""

    name: str
    folder: str


class DataSets(TypedDict):
    """All, and where they lie."""

    folder: str
    data: list[DataRow]


class Compared(TypedDict):
    """Training runs, each with the same figures."""

    runs: list[ComparedRun]


class Replayed(TypedDict):
    """What differs from a transcript."""

    model: str
    driver: DriverReport | None
    twin: TwinReport | None


class Backends(TypedDict):
    """That can be named."""

    local: list[str]
    service: list[str]
    note: str


class InLight(TypedDict):
    """Of ``monitor --lit``: what was seen since a knob was ``turned``; visibility and errors are None without clicks."""

    turned: str
    d1_cps: float
    d2_cps: float
    visibility: float | None
    error_ratio: float | None
    clicks: int
    light_s: float


class Scanned(TypedDict):
    """Where the data set of a scan is."""

    database: str
    run_id: int
    points: int
    read: list[str]


class OnRecord(TypedDict):
    """A record of a role, by the ``code`` of which version and commit; its further keys are those of its ``type``."""

    role: str
    code: str
    type: str


class CalibrationOnRecord(TypedDict):
    """What a data set of a calibration says of itself; its further keys are how things were at its time."""

    step: str
    owner: str
    partner: str
    ended: str
    light_s: float
    testbed_digest: str
    calibration_digest: str
    code_version: str
    code_commit: str
    finding: Finding
    database: str
    parameters: list[str]


_KINDS = get_type_hints(Asked, include_extras=True)
Options = msgspec.defstruct(
    "Options",
    [("task", str), *((row.field, _KINDS[row.field], None) for row in ROWS.values() if row.field != "task")],
    rename={row.field: row.name for row in ROWS.values()},
)
"""Of ``train --print-config``: its options by their names; what is left to the experiment is not there."""


ANSWERS: dict[str, tuple[Any, ...]] = {
    "acknowledge": (list[Told],),
    "alarms show": (["lab.cli.alarms:StandingAlarm"],),
    "attack": (Attacks, Text),
    "audit": ("lab.runs.audit.findings:Audit",),
    "bench": (dict[str, dict[str, Any]],),
    "calibrate": (CalibratedNow, Due),
    "check": (Checked,),
    "compare": (Compared,),
    "dashboard": ("orchestrator.events.process:DashboardServing",),
    "data fetch": (Fetched,),
    "data list": (DataSets,),
    "demo": ("lab.runs.demo_told:DemoReport",),
    "doctor": (Examined,),
    "down": (Ended,),
    "init": (Made, Exported, Imported, BegunAnew),
    "instruments list": (Instruments,),
    "instruments replay": (Replayed,),
    "instruments scan": (Looked,),
    "keycost": ("lab.runs.key_cost:KeyCost",),
    "keygen": (KeyOfOneRing, "orchestrator.wire.queue_control:QueueShown"),
    "keyrate": (PairKeyrate, dict[str, Number]),
    "keys audit": ("lab.cli.keys_looked:AuditedStores",),
    "keys events": ("lab.runs.records.key_history:KeyHistory",),
    "keys revoke": (Refused,),
    "keys show": ("lab.cli.keys:Stores",),
    "keys use": ("lab.cli.keys_looked:UseOfKeys",),
    "monitor --lit": (InLight,),
    "new": (App,),
    "qpu backends": (Backends,),
    "qpu estimate": (["fl.qpu.cost:CostEstimate"],),
    "qpu jobs": (["fl.qpu.journal:JobRecord"],),
    "qpu mitigation": ("fl.qpu.mitigations:Mitigated",),
    "qpu run": ("fl.qpu.evaluate:QpuRun",),
    "qpu train": ("lab.cli.qpu_train:TrainedOnBackend",),
    "runs list": (["lab.runs.records.listing:Listed"],),
    "runs show": (list[OnRecord], ["orchestrator.wire.queue_control:QueueRow"], list[CalibrationOnRecord]),
    "sae list": (Certificates,),
    "scan": (Scanned,),
    "set": ("lab.runs.knobs:Turned",),
    "stop": (list[Told],),
    "systemd": (Units,),
    "train": ("fl.experiments.results:Results", Options),
}
"""The answers that a command may give, the more special first."""
ELSEWHERE = {
    "status.schema.json": ("status", "monitor"),
    "queue.schema.json": tuple(
        f"queue {each}" for each in ("add", "list", "history", "abort", "hold", "resume", "move")
    ),
    "events.schema.json": ("simulate", "orchestrator", "relay", "node", "fl server", "fl client"),
}
"""Commands whose answers, a line each, have a schema of their own."""


def answers_of(command: str) -> tuple[Any, ...]:
    """The types of a command's answers; an import for those that stand elsewhere."""
    return tuple(map(_found, ANSWERS[command]))


def _found(declared: Any) -> Any:
    if isinstance(declared, list):
        return list[_found(declared[0])]  # type: ignore[misc]
    if not isinstance(declared, str):
        return declared
    module, _, name = declared.partition(":")
    return getattr(import_module(module), name)
