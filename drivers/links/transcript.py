"""Transcripts of sessions with an instrument: what was done, and every byte that passed on each of its links.

A transcript is a text file of JSON lines.  The first line is the :class:`Header`; each further one is an entry with the
time since the beginning:

    {"at_s": 0.1, "do": "read", "name": "power_w"}              a step of the session (:class:`Step`)
    {"at_s": 0.1, "link": 0, "sent": "MEASure:POWer?\\n"}        bytes on a link (:class:`Passed`): text where they are
    {"at_s": 0.1, "link": 0, "received_hex": "0da10108..0a"}     text, else hexadecimal
    {"at_s": 0.1, "link": 0, "block_bytes": 9600}               of samples only how many bytes they have
    {"at_s": 0.1, "gave": 1.2e-06}                              how the step ended (:class:`Outcome`)

``link`` counts the header's ``links``.  Within a link the order is that of the wire.  Times are for people and for the
pace of a replay; nothing is judged by them.

What a transcript must not hold is taken out before an entry is made (:class:`Redactor`): hosts, addresses and names of
the machine, and the contents of blocks.  Samples of waveforms never even reach a link's tap.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from drivers.links.ieee488 import MAX_BLOCK_BYTES
from drivers.links.link import NO_TEXT, Direction

VERSION = 1
HOST = "HOST"
"""What stands in the place of every host name and network address."""
LinkKind = Literal["visa", "tcp", "serial", "zeromq"]

_NOT_READABLE = re.compile(NO_TEXT.pattern.replace(rb"\x0e-\x1f", rb"\x0e-\x16\x18-\x1f"))
"""As NO_TEXT, but for 0x17, by which WebSQ controllers end their messages."""
_BLOCK = re.compile(rb"#([1-9])(\d{1,9})", re.DOTALL)
_LOCAL_ADDRESS = re.compile(
    rb"(?<![\d.])(?:10|127|169\.254|172\.(?:1[6-9]|2\d|3[01])|192\.168)(?:\.\d{1,3}){2,3}(?![\d.])"
)
"""IPv4 addresses of local networks; four numbers that are none of these may be a version."""


class TranscriptError(ValueError):
    """A file that is no transcript of this version; says in which line."""


class LinkInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One link: its kind, and the driver's option that says where it leads ("" for the address itself)."""

    option: str
    kind: LinkKind


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the bytes of a transcript stand that was not recorded: a public repository and its files.

    ``note`` says which of them are quoted there, and which only follow from how the source reads them; ``only`` names
    whom they can be held against, where it is not both.
    """

    repository: str
    paths: tuple[str, ...]
    note: str = ""
    only: Literal["", "driver", "twin"] = ""


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who answered: the identity in the driver's words."""

    vendor: str
    model: str
    serial_number: str
    firmware: str


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a transcript is of; ``options`` are those of the driver, without places."""

    transcript: int
    model: str
    links: tuple[LinkInfo, ...]
    driver: str = ""
    qunetlab: str = ""
    date: str = ""
    identity: Recorded | None = None
    options: dict[str, Any] = {}
    read_only: bool = False
    source: Source | None = None
    ended: str = ""
    """Why the session ended early; empty when it came to its end."""


class Passed(msgspec.Struct, frozen=True):
    """What passed on a link; of a block ``data`` is its length in digits."""

    at_s: float
    link: int
    direction: Direction
    data: bytes


class Step(msgspec.Struct, frozen=True):
    """Something the session did: ``connect``, ``identify``, ``read``, ``set``, ``ask``, ``write`` or ``safe_state``."""

    at_s: float
    do: Literal["connect", "identify", "read", "set", "ask", "write", "safe_state"]
    name: str = ""
    value: Any = None


class Outcome(msgspec.Struct, frozen=True):
    """How a step ended: what it ``gave``, of which ``kind`` where the value depends on our clock, or what it raised."""

    at_s: float
    gave: Any = None
    kind: str = ""
    failed: str = ""


Entry: TypeAlias = Passed | Step | Outcome


class Transcript(msgspec.Struct, frozen=True):
    """A whole transcript."""

    header: Header
    entries: tuple[Entry, ...]

    @property
    def only(self) -> str:
        """Whom it can be held against: "driver", "twin", or "" for both."""
        return self.header.source.only if self.header.source else ""

    def line_of(self, index: int) -> int:
        """The number of entry ``index``'s line in the file."""
        return index + 2

    def steps(self) -> Iterator[tuple[Step, Outcome | None]]:
        """Each step with its outcome; None where the recording ended before."""
        pending: Step | None = None
        for entry in self.entries:
            if isinstance(entry, Step):
                if pending is not None:
                    yield pending, None
                pending = entry
            elif isinstance(entry, Outcome) and pending is not None:
                yield pending, entry
                pending = None
        if pending is not None:
            yield pending, None


# The file


def to_text(header: Header, entries: Iterable[Entry]) -> str:
    """The file's content."""
    lines = [msgspec.to_builtins(header), *map(_to_line, entries)]
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)


def from_text(text: str) -> Transcript:
    """Read a file's content.  Raises TranscriptError for anything else."""
    lines = text.splitlines()
    if not lines:
        raise TranscriptError("the file is empty")
    content = [_object(line, number) for number, line in enumerate(lines, start=1)]
    version = content[0].get("transcript")
    if version != VERSION:
        raise TranscriptError(
            f"line 1: no transcript of version {VERSION}"
            + (f", but of version {version}" if isinstance(version, int) else "")
        )
    try:
        header = msgspec.convert(content[0], Header)
    except msgspec.ValidationError as error:
        raise TranscriptError(f"line 1: {error}") from error
    entries = [_from_line(line, number, header) for number, line in enumerate(content[1:], start=2)]
    return Transcript(header, tuple(entries))


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TranscriptError(f"line {number}: no JSON ({error})") from error
    if not isinstance(found, dict):
        raise TranscriptError(f"line {number}: no JSON object")
    return found


def _to_line(entry: Entry) -> dict[str, Any]:
    line: dict[str, Any] = {"at_s": round(entry.at_s, 4)}
    if isinstance(entry, Step):
        line["do"] = entry.do
        if entry.name:
            line["name"] = entry.name
        if entry.value is not None:
            line["value"] = entry.value
    elif isinstance(entry, Outcome):
        if entry.failed:
            line["failed"] = entry.failed
        elif entry.kind:
            line["gave_some"] = entry.kind
        else:
            line["gave"] = entry.gave
    else:
        line["link"] = entry.link
        line.update(_bytes_to_line(entry))
    return line


def _bytes_to_line(entry: Passed) -> dict[str, Any]:
    if entry.direction == "opened":
        return {"opened": True}
    if entry.direction == "block":
        return {"block_bytes": int(entry.data)}
    if _NOT_READABLE.search(entry.data):
        return {f"{entry.direction}_hex": entry.data.hex()}
    return {entry.direction: entry.data.decode("latin-1")}


def _from_line(line: Mapping[str, Any], number: int, header: Header) -> Entry:
    rest = dict(line)
    try:
        at_s = float(rest.pop("at_s"))
        if "do" in rest:
            return msgspec.convert({"at_s": at_s, **rest}, Step)
        if "link" in rest:
            return _passed(at_s, rest, header)
        ((what, value),) = rest.items()
        if what == "failed":
            return Outcome(at_s, failed=str(value))
        if what == "gave_some":
            return Outcome(at_s, kind=str(value))
        if what == "gave":
            return Outcome(at_s, gave=value)
        raise ValueError(f"{what!r} is nothing that a transcript tells of")
    except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise TranscriptError(f"line {number}: {error}") from error


def _passed(at_s: float, rest: dict[str, Any], header: Header) -> Passed:
    link = rest.pop("link")
    if not isinstance(link, int) or not 0 <= link < len(header.links):
        raise ValueError(f"link {link!r} is none of the header's {len(header.links)}")
    ((what, value),) = rest.items()
    if what == "opened":
        return Passed(at_s, link, "opened", b"")
    if what == "block_bytes":
        if not 0 <= int(value) <= MAX_BLOCK_BYTES:
            raise ValueError(f"no block has {value} bytes")
        return Passed(at_s, link, "block", b"%d" % int(value))
    if what in ("sent", "sent_hex", "received", "received_hex"):
        data = bytes.fromhex(value) if what.endswith("_hex") else str(value).encode("latin-1")
        return Passed(at_s, link, "sent" if what.startswith("sent") else "received", data)
    raise ValueError(f"{what!r} is nothing that passes on a link")


# What does not go into a file


class Redactor:
    """Takes ``names`` - hosts, addresses, the machine, its user's folder - out of bytes and texts."""

    def __init__(self, names: Iterable[str]) -> None:
        longest_first = sorted({name for name in names if name}, key=len, reverse=True)
        words = b"|".join(re.escape(name.encode()) for name in longest_first)
        self._names = re.compile(rb"(?<![A-Za-z0-9])(?:%b)(?![A-Za-z0-9])" % words) if words else None

    def clean(self, data: bytes) -> bytes:
        """``data`` with :data:`HOST` in the place of names and of local network addresses."""
        if self._names is not None:
            data = self._names.sub(HOST.encode(), data)
        return _LOCAL_ADDRESS.sub(HOST.encode(), data)

    def text(self, text: str) -> str:
        """The same for a text."""
        return self.clean(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def without_blocks(data: bytes) -> Sequence[tuple[bool, bytes]]:
    """Cut definite-length blocks (IEEE 488.2) out of one message: (whether it is a block, bytes or length in digits).

    Only what can be a block counts: all of its bytes are there, and nothing but the end of a message behind them.
    """
    for found in _BLOCK.finditer(data):
        digits = int(found[1])
        length_text = data[found.end(1) : found.end(1) + digits]
        begin = found.end(1) + digits
        if not (len(length_text) == digits and length_text.isdigit()):
            continue
        end = begin + int(length_text)
        if end <= len(data) and not data[end:].strip(b"\r\n"):
            return [(False, data[:begin]), (True, length_text.lstrip(b"0") or b"0"), (False, data[end:])]
    return [(False, data)]
