"""The DataLinkTarget (DLT) service as a command interpreter: a command line in, an object for JSON out.

Commands (IDQ Python examples, ``utils/acquisitions.py``): ``list``; ``start-stream --address IP --channel N
--stream-port P [--with-ref-index]``; ``status --id X``; ``stop --id X``.  A failure is answered with
``{"error": {"description": ...}}``.  ``acquisitions_count`` counts the ends of records that the service
registered, ``timestamps_count`` the tags it received since the acquisition began.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn


@dataclass
class Acquisition:
    """One running stream."""

    identifier: str
    address: str
    channel: int
    stream_port: int
    with_ref_index: bool
    timestamps_count: int = 0
    acquisitions_count: int = 0
    errors: list[str] = field(default_factory=list)

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
    start = commands.add_parser("start-stream", add_help=False, allow_abbrev=False)
    start.add_argument("--address", required=True)
    start.add_argument("--channel", required=True, type=int, choices=(1, 2, 3, 4))
    start.add_argument("--stream-port", required=True, type=int)
    start.add_argument("--with-ref-index", action="store_true")
    for name in ("status", "stop"):
        commands.add_parser(name, add_help=False).add_argument("--id", required=True)
    return parser


class DataLinkTarget:
    """The acquisitions of one service; ``on_start`` and ``on_stop`` bind and close the stream sockets."""

    def __init__(
        self, on_start: Callable[[Acquisition], None], on_stop: Callable[[Acquisition], None]
    ) -> None:
        self.acquisitions: dict[str, Acquisition] = {}
        self._on_start = on_start
        self._on_stop = on_stop
        self._parser = _parser()

    def execute(self, command_line: str) -> object:
        """Carry out one command; the result is what the service sends as JSON."""
        try:
            options = self._parser.parse_args(shlex.split(command_line))
            if options.command == "list":
                return list(self.acquisitions)
            if options.command == "start-stream":
                return self._start(options)
            return self._status_or_stop(options.command, options.id)
        except (ValueError, OSError) as error:
            return {"error": {"description": str(error)}}

    def _start(self, options: argparse.Namespace) -> object:
        if any(a.channel == options.channel for a in self.acquisitions.values()):
            raise ValueError(f"channel {options.channel} is acquired already")
        if not 0 < options.stream_port < 65536:
            raise ValueError(f"{options.stream_port} is no port")
        identifier = f"{options.address}:{options.stream_port}"
        acquisition = Acquisition(
            identifier, options.address, options.channel, options.stream_port, options.with_ref_index
        )
        self._on_start(acquisition)
        self.acquisitions[identifier] = acquisition
        return {"id": identifier}

    def _status_or_stop(self, command: str, identifier: str) -> object:
        if identifier not in self.acquisitions:
            raise ValueError(f"unknown acquisition {identifier}")
        acquisition = self.acquisitions[identifier]
        if command == "status":
            return acquisition.status()
        self._on_stop(acquisition)
        del self.acquisitions[identifier]
        return {"status": acquisition.status()}
