"""The control connection of a WebSQ: a table of labels that is read as a whole, and commands that nothing acknowledges.

A request for ``labelProps`` is answered by one object per label, whose value is an object; the whole burst is awaited,
so that no part of it can be taken for the answer to a later request.  Between requests the controller tells of changes
(a bare value) and errors (a label with ``Error`` in its name).  An error names no command, and may be an old one or
answer somebody else's command: it is logged and kept for the message of a setting that did not come about, but nothing
is ever judged by it.  Sources: vendor's ``WebSQControl.py``; qcodes_contrib_drivers ``SingleQuantum.py``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress

from drivers.links.errors import LimitError, LinkTimeoutError, MalformedReplyError
from drivers.links.tcp_link import TcpLink
from drivers.links.websq_json import FrameError, JsonObject, ReplyReader, encode_request, parse_object

log = logging.getLogger(__name__)

QUIET_S = 0.05
"""A burst of labels ends when nothing comes for so long."""
REQUIRED_LABELS = frozenset(
    ("NumberOfDetectors", "BiasCurrent", "TriggerLevel", "DetectorEnable", "InptMeasurementPeriod")
)
"""By these a WebSQ is known."""
Labels = Mapping[str, object]
"""Label -> value."""
LABEL_PROPERTIES: JsonObject = {"request": "labelProps", "value": "None"}


class ControlLink(TcpLink):
    """The control connection; ``errors`` counts and keeps the last error that the controller told of."""

    _reader = ReplyReader()
    _burst: frozenset[str] = frozenset()
    errors: tuple[int, str] = (0, "")

    def read_labels(self) -> dict[str, object]:
        """Label -> value of all labels.

        Which there are is learnt from the first burst of a connection: it ends when the line falls silent after the
        labels by which a WebSQ is known, or else when the time is over.
        """
        with self.exchange():
            return self._ask_labels()

    def read_label(self, label: str) -> object:
        """The value of one label; MalformedReplyError when it is missing."""
        labels = self.read_labels()
        if label not in labels:
            raise self.error(MalformedReplyError, f"the label {label} is missing")
        return labels[label]

    def read_numbers(self, label: str) -> list[float]:
        """The value of a label that holds one number per detector."""
        return self.per_detector(self.read_labels(), label)

    def per_detector(self, labels: Labels, label: str) -> list[float]:
        """One number per detector; MalformedReplyError for anything else."""
        numbers, detectors = self.numbers(labels, label), self.count_detectors(labels)
        if len(numbers) != detectors:
            raise self.error(
                MalformedReplyError, f"{label} holds {len(numbers)} numbers for {detectors} detectors"
            )
        return numbers

    def switch(self, labels: Labels, label: str) -> bool:
        """True or false; MalformedReplyError for anything else."""
        value = labels.get(label)
        if not isinstance(value, bool):
            raise self.error(MalformedReplyError, f"{label} holds {value!r}, neither true nor false")
        return value

    def numbers(self, labels: Labels, label: str) -> list[float]:
        """A list of finite numbers; MalformedReplyError for anything else."""
        value = labels.get(label)
        if not isinstance(value, list):
            raise self.error(MalformedReplyError, f"{label} is no list")
        return [self.number({label: element}, label) for element in value]

    def number(self, labels: Labels, label: str) -> float:
        """A finite number; MalformedReplyError for anything else."""
        value = labels.get(label)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):  # a whole number that no float can be
                if math.isfinite(value):
                    return float(value)
        raise self.error(MalformedReplyError, f"{label} holds {str(value)[:40]!r}, not a number")

    def count_detectors(self, labels: Labels) -> int:
        """How many detectors there are; MalformedReplyError unless it is a count."""
        value = labels.get("NumberOfDetectors")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(MalformedReplyError, f"NumberOfDetectors is {value!r}")
        return value

    def send(self, message: Mapping[str, object]) -> None:
        """Send a command; it is not acknowledged."""
        with self.exchange():
            self.write(encode_request(message))

    def ask_value(self, request: str) -> object:
        """The value of a label that is measured on request (``BiasVoltage``)."""
        return self.talk(json.dumps({"request": request}))[-1].get("value")

    def talk(self, text: str) -> list[JsonObject]:
        """Send one JSON object as it is; what the controller says until the matter is closed.

        That is the whole burst for ``labelProps``, else the first message with the label asked for or set, or an error.
        Raises LimitError for a text that is no JSON object.
        """
        message = self._message(text)
        with self.exchange():
            if message.get("request") == "labelProps":
                labels = self._ask_labels()
                return [{"label": label, "value": {"value": value}} for label, value in labels.items()]
            self.write(encode_request(message))
            label = message.get("request", message.get("label", message.get("command")))
            said: list[JsonObject] = []
            deadline = self.deadline()
            while not any(each.get("label") == label or _is_error(each) for each in said):
                said += self._hear(self.read_some(deadline))
            return said

    def tell(self, text: str) -> None:
        """Send one JSON object as it is.  Raises LimitError for a text that is none."""
        self.send(self._message(text))

    def _message(self, text: str) -> JsonObject:
        try:
            return parse_object(text.encode())
        except FrameError as error:
            raise self.error(
                LimitError,
                f'{text[:40]!r} is no JSON object, as in {{"request": "BiasVoltage"}}; nothing was sent',
            ) from error

    def _ask_labels(self) -> dict[str, object]:
        self.write(encode_request(LABEL_PROPERTIES))
        deadline, labels = self.deadline(), dict[str, object]()
        while not (self._burst and labels.keys() >= self._burst):
            learnt = not self._burst and labels.keys() >= REQUIRED_LABELS
            quiet = self.now() + QUIET_S if learnt else deadline
            try:
                heard = properties(self._hear(self.read_some(min(quiet, deadline))))
            except LinkTimeoutError:
                if self._burst or not labels:
                    raise
                self._burst = frozenset(labels)
                break
            if heard.keys() & labels.keys():
                raise self.error(MalformedReplyError, "two answers to one request for all labels")
            labels.update(heard)
        return labels

    def _hear(self, data: bytes) -> list[JsonObject]:
        try:
            messages = self._reader.feed(data)
        except FrameError as error:
            raise self.error(MalformedReplyError, str(error)) from error
        for message in messages:
            if _is_error(message):
                self.errors = (self.errors[0] + 1, str(message.get("value"))[:200])
                log.warning(
                    "%s at %s reports %s: %s", self.instrument, self.address, message["label"], self.errors[1]
                )
        return messages

    def _open(self, timeout_s: float) -> None:
        super()._open(timeout_s)
        self._reader, self._burst = ReplyReader(), frozenset()

    def _trouble(self) -> str:
        """Read what came unasked: changes and errors are in order, another answer to an old request is not."""
        trouble = super()._trouble()
        while not trouble and (data := self._read(0.0)):
            self._seen("received", data)
            if properties(self._hear(data)):
                trouble = "the controller answered more than it was asked"
        return trouble


def properties(messages: Sequence[JsonObject]) -> dict[str, object]:
    """Label -> value of the messages that answer ``labelProps`` (their value is an object with the value)."""
    found: dict[str, object] = {}
    for message in messages:
        label, value = message.get("label"), message.get("value")
        if isinstance(label, str) and isinstance(value, dict) and "value" in value:
            found[label] = value["value"]
    return found


def _is_error(message: JsonObject) -> bool:
    """A label with an error text; in the answer to ``labelProps`` such a label only shows the last error."""
    label, value = message.get("label"), message.get("value")
    return isinstance(label, str) and "Error" in label and bool(value) and not isinstance(value, dict)
