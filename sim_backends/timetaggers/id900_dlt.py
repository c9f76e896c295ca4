"""The DataLinkTarget (DLT) service as a command interpreter: a command line in, an object for JSON out.

Commands (IDQ Python examples, ``utils/acquisitions.py``): ``list``; ``start-stream --address IP --channel N
--stream-port P [--with-ref-index]``; ``start-save --address IP --channel N --filename F --format bin|ascii
[--with-ref-index]``; ``status --id X``; ``stop --id X``.  A failure is answered with
``{"error": {"description": ...}}``.  ``acquisitions_count`` counts the ends of records that the service
registered, ``timestamps_count`` the tags it received since the acquisition began.

A saved file holds what a stream sends: little-endian 64-bit words, or in ``ascii`` a line per timestamp with ``;`` before
the index (IDQ's reader of such files).  A file that exists is left alone: that is ours, as anybody may ask.

The service is shared: it runs acquisitions of any client and any instrument.  Their identifiers are an address and a
port of its own choice (a user's ID900 logs ``169.254.104.112:5556``), which tell neither channel nor stream port.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt


@dataclass
class Acquisition:
    """One running stream."""

    identifier: str
    address: str
    channel: int
    stream_port: int  # 0 for one that is saved to a file
    with_ref_index: bool
    path: Path | None = None  # where it is saved
    as_text: bool = False
    timestamps_count: int = 0
    acquisitions_count: int = 0
    errors: list[str] = field(default_factory=list)

    def save(self, rows: npt.NDArray[np.uint64]) -> None:
        """Append timestamps to the file: uint64 of shape (n, 1), or (n, 2) with the index; failures are told as errors."""
        if self.path is None:
            return
        try:
            with self.path.open("ab") as file:
                if self.as_text:
                    np.savetxt(file, rows, fmt="%d", delimiter=";")
                else:
                    file.write(rows.tobytes())
        except OSError as error:
            self.errors.append(str(error))

    def status(self) -> dict[str, object]:
        """The answer to ``status``."""
        return {
            "acquisitions_count": self.acquisitions_count,
            "timestamps_count": self.timestamps_count,
            "inactivity": 0.0,
            "errors": [{"description": text} for text in self.errors],
        }


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> _Parser:
    parser = _Parser(prog="DataLinkTargetService", add_help=False, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("list", add_help=False)
    stream, save = (
        commands.add_parser(name, add_help=False, allow_abbrev=False)
        for name in ("start-stream", "start-save")
    )
    for start in (stream, save):
        start.add_argument("--address", required=True)
        start.add_argument("--channel", required=True, type=int, choices=(1, 2, 3, 4))
        start.add_argument("--with-ref-index", action="store_true")
    stream.add_argument("--stream-port", required=True, type=int)
    save.add_argument("--filename", required=True)
    save.add_argument("--format", choices=("bin", "ascii"), default="bin")
    for name in ("status", "stop"):
        commands.add_parser(name, add_help=False).add_argument("--id", required=True)
    return parser


class DataLinkTarget:
    """The acquisitions of one service; ``on_start`` and ``on_stop`` bind and close the stream sockets."""

    def __init__(
        self, on_start: Callable[[Acquisition], None], on_stop: Callable[[Acquisition], None]
    ) -> None:
        self.acquisitions: dict[str, Acquisition] = {}
        self._next_port = 5556
        self._on_start = on_start
        self._on_stop = on_stop
        self._parser = _parser()

    def execute(self, command_line: str) -> object:
        """Carry out one command; the result is what the service sends as JSON."""
        try:
            options = self._parser.parse_args(shlex.split(command_line))
            if options.command == "list":
                return list(self.acquisitions)
            if options.command.startswith("start"):
                return {"id": self._start(options)}
            return self._status_or_stop(options.command, options.id)
        except (ValueError, OSError) as error:
            return {"error": {"description": str(error)}}

    def adopt(self, address: str, channel: int) -> str:
        """Run an acquisition that another client had saved to a file; returns its identifier."""
        return self._add(address, channel, 0, False).identifier

    def _start(self, options: argparse.Namespace) -> str:
        port = getattr(options, "stream_port", 0)
        for other in self.acquisitions.values():
            if (other.address, other.channel) == (options.address, options.channel):
                raise ValueError(f"channel {options.channel} is acquired already")
            if port and other.stream_port == port:
                raise ValueError(f"port {port} is in use")
        if options.command == "start-stream" and not 0 < port < 65536:
            raise ValueError(f"{port} is no port")
        acquisition = self._add(options.address, options.channel, port, options.with_ref_index)
        try:
            if options.command == "start-save":
                acquisition.path, acquisition.as_text = Path(options.filename), options.format == "ascii"
                acquisition.path.touch(mode=0o600, exist_ok=False)
            self._on_start(acquisition)
        except OSError:
            del self.acquisitions[acquisition.identifier]
            raise
        return acquisition.identifier

    def _add(self, address: str, channel: int, stream_port: int, with_ref_index: bool) -> Acquisition:
        identifier = f"{address}:{self._next_port}"
        self._next_port += 1
        made = Acquisition(identifier, address, channel, stream_port, with_ref_index)
        self.acquisitions[identifier] = made
        return made

    def _status_or_stop(self, command: str, identifier: str) -> object:
        if identifier not in self.acquisitions:
            raise ValueError(f"unknown acquisition {identifier}")
        acquisition = self.acquisitions[identifier]
        if command == "status":
            return acquisition.status()
        self._on_stop(acquisition)
        del self.acquisitions[identifier]
        return {"status": acquisition.status()}
