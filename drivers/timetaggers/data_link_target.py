"""The client's side of IDQ's DataLinkTarget (DLT) service: command lines out, JSON in, over ZeroMQ REQ.

The service takes the tags out of the instrument and streams them to us.  ``acquisitions_count`` of its
status counts the ends of records that it registered, ``timestamps_count`` the tags it received since the
acquisition began.  Others use the service too; the identifier of an acquisition tells neither its channel nor its
owner.  Source: IDQ Python examples ``utils/common.py`` (``dlt_exec``), ``utils/acquisitions.py``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from drivers.links.errors import InstrumentError, InstrumentRefusedError, MalformedReplyError
from drivers.links.zmq_reqrep import RequestLink


@dataclass(frozen=True)
class AcquisitionStatus:
    """What the service holds of one acquisition; ``losses`` is empty unless it reports errors."""

    records: int
    tags: int
    losses: str


class DataLinkTargetClient:
    """Commands to the service behind ``link``."""

    def __init__(self, link: RequestLink, *, instrument: str) -> None:
        self.link = link
        self._instrument = instrument

    def acquisitions(self) -> list[str]:
        """The identifiers of all running acquisitions."""
        answer = self.execute("list") or []
        if not isinstance(answer, list) or not all(isinstance(item, str) for item in answer):
            raise self._error(MalformedReplyError, "the list of acquisitions is no list of names")
        return answer

    def start_stream(self, instrument_host: str, channel: int, stream_port: int) -> str:
        """Begin to stream ``channel`` of the instrument with reference indices; returns the identifier."""
        answer = self.execute(
            f"start-stream --address {instrument_host} --channel {channel} "
            f"--stream-port {stream_port} --with-ref-index"
        )
        if not isinstance(answer, dict) or not isinstance(answer.get("id"), str):
            raise self._error(MalformedReplyError, f"channel {channel} was started without an identifier")
        identifier: str = answer["id"]
        return identifier

    def stop(self, acquisition: str) -> None:
        """End an acquisition."""
        self.execute(f"stop --id {acquisition}")

    def status(self, acquisition: str) -> AcquisitionStatus:
        """The counts of an acquisition; MalformedReplyError when they are none."""
        answer = self.execute(f"status --id {acquisition}")
        if not isinstance(answer, dict):
            raise self._error(MalformedReplyError, "the status is no object")
        counts = [answer.get(key) for key in ("acquisitions_count", "timestamps_count")]
        records, tags = (c if isinstance(c, int) and not isinstance(c, bool) else -1 for c in counts)
        if records < 0 or tags < 0:
            raise self._error(MalformedReplyError, f"the status counts {counts}")
        return AcquisitionStatus(records, tags, str(answer.get("errors") or ""))

    def execute(self, command: str) -> Any:
        """One command and its parsed answer; InstrumentRefusedError with the service's reason."""
        verb = command.split()[0]
        with self.link.asking(command) as reply:
            try:
                answer = json.loads(reply) if reply.strip() else None
            except (ValueError, RecursionError) as error:
                raise self._error(
                    MalformedReplyError, f"{verb!r} was answered by something else than JSON"
                ) from error
            if isinstance(answer, dict) and answer.get("error"):
                fault = answer["error"]
                reason = fault.get("description") if isinstance(fault, dict) else fault
                raise self._error(InstrumentRefusedError, f"the service refused {verb!r}: {reason}")
            return answer

    def _error(self, kind: type[InstrumentError], text: str) -> InstrumentError:
        return kind(f"DataLinkTarget: {text}", instrument=self._instrument, address=self.link.address)
