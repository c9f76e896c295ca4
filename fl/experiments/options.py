"""What a user may ask of ``qunetlab train``, as it is kept with the run so that a resumed run is the same run.

Everything left out (None) is filled in by the experiment of the task.  Each field says here, once, what it is called as an
option, what it is for and what it may be; command line, configuration file, help and the page of options follow from it
(:mod:`lab.cli.train_options`).  What a whole run allows is for :class:`fl.rounds.config.FLConfig` to say.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.inspect import Field, Metadata, NoneType, StructType, Type, UnionType

from fl.modes.table import MODES, IfShort, ModeName

WHAT, PROTECTION, SENT, KEYS, MACHINE = (
    "What is trained",
    "How updates are protected",
    "What is sent",
    "Where keys come from",
    "This machine",
)
"""Groups of options."""
Some: TypeAlias = Annotated[int, Meta(ge=1)]
Whole: TypeAlias = Annotated[int, Meta(ge=0)]
MODES_IN_WORDS = ", ".join(
    f"{each.name} ({each.hint})" if each.hint else each.name for each in MODES.values()
)


class OptionsError(ValueError):
    """Options that contradict each other or the run they should continue."""


def said(text: str, group: str, *, option: str = "", metavar: str = "") -> Meta:
    """What an option is for, in which group of the help page it stands, and what it is called if not as its field."""
    return Meta(description=text, extra={"group": group, "option": option, "metavar": metavar})


class TrainOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a run.  ``task`` is the whole name ``TASK:MODEL@SPLIT``; ``seeds`` counts seeds from
    ``first_seed`` on; ``clips`` are clips of single arrays by name or pattern; ``max_wait_s`` is the longest that the key of the run may take to make."""

    task: Annotated[str, said("What is trained.", WHAT)]
    mode: Annotated[ModeName | None, said(MODES_IN_WORDS, PROTECTION)] = None
    clients: Annotated[Some | None, said("Number of clients.", WHAT)] = None
    rounds: Annotated[Some | None, said("Training rounds.", WHAT)] = None
    seeds: Annotated[Annotated[int, Meta(ge=1, le=10_000)] | None, said("Number of seeds.", WHAT)] = None
    first_seed: Annotated[Whole, said("The first seed.", WHAT, option="seed")] = 1
    quick: Annotated[bool, said("About two minutes; not the full experiment, and says so.", WHAT)] = False
    baselines: Annotated[bool, said("Run what the result is compared with as well.", WHAT)] = True
    levels: Annotated[int | None, said("Quantisation levels on either side of zero.", SENT)] = None
    ring_width: Annotated[int | None, said("Bits of an integer on the wire; the fewest without.", SENT)] = (
        None
    )
    clip: Annotated[float | None, said("Largest update that is sent.", SENT)] = None
    clips: Annotated[
        dict[str, float] | None,
        said(
            "Clip of the model's arrays with that name or pattern, 0: not in the sum; repeatable.",
            SENT,
            option="clip-of",
            metavar="ARRAY=CLIP",
        ),
    ] = None
    clip_decay: Annotated[float | None, said("Factor on the clip after every round.", SENT)] = None
    keep: Annotated[float | None, said("Share of the parameters sent in a round.", SENT)] = None
    error_feedback: Annotated[
        bool | None, said("Keep what was cut or rounded away for later rounds.", SENT)
    ] = None
    drop_outs: Annotated[
        Whole, said("Clients that vanish in every round (lightsecagg, simulated).", PROTECTION)
    ] = 0
    colluders: Annotated[int | None, said("T of lightsecagg.", PROTECTION)] = None
    survivors: Annotated[int | None, said("U of lightsecagg.", PROTECTION)] = None
    if_short: Annotated[
        IfShort,
        said("When keys run short: wait, stop, or expanded (computational security).", KEYS),
    ] = "wait"
    max_wait_s: Annotated[
        Annotated[float, Meta(ge=0.0)] | None,
        said("Longest time the key of the run may take to make, s.", KEYS, option="max-wait"),
    ] = None
    testbed: Annotated[
        str | None,
        said("Testbed whose keys are used: bundled name, file or folder.", KEYS, metavar="TESTBED"),
    ] = None
    live: Annotated[bool, said("Make the keys on the ring while training.", KEYS)] = False


class Row(msgspec.Struct, frozen=True):
    """One option: ``name`` is the key of a configuration file and, behind two dashes, the word of the command line.

    ``kind`` is what its value may be, None aside; ``default`` None is filled in by the task's experiment.
    """

    field: str
    name: str
    kind: Type
    text: str
    group: str
    metavar: str
    default: Any


def rows_of(struct: type[TrainOptions]) -> tuple[Row, ...]:
    """The options of ``struct`` in its order."""
    declared = msgspec.inspect.type_info(struct)
    assert isinstance(declared, StructType)
    return tuple(map(_row, declared.fields))


def _row(field: Field) -> Row:
    about = field.type
    assert isinstance(about, Metadata), field.name
    assert about.extra is not None, field.name
    assert about.extra_json_schema is not None, field.name
    kinds = about.type.types if isinstance(about.type, UnionType) else (about.type,)
    return Row(
        field=field.name,
        name=about.extra["option"] or field.name.replace("_", "-"),
        kind=next(each for each in kinds if not isinstance(each, NoneType)),
        text=about.extra_json_schema["description"],
        group=about.extra["group"],
        metavar=about.extra["metavar"],
        default=None if field.required else field.default,
    )


def option_of(setting: str) -> str:
    """The option of ``qunetlab train`` that a setting of a run is; its own name where there is none."""
    return next(
        (f"--{row.name}" for row in rows_of(TrainOptions) if setting in (row.field, row.name)), setting
    )
