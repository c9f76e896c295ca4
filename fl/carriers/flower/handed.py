"""What the app is handed besides the model's floating-point values, as one digest.

The sum of a round hides an update only among updates that were made alike.  A server that sends every client
but one a learning rate of 0, or integer arrays that leave nothing to train, gets that one's update as the sum.
So all of it is fixed for the whole run: names, types and shapes of the arrays, the values of those that are not
summed, every other record of the message, and the run configuration.  The digest is the second half of the name
of the task in the run's description (:mod:`fl.rounds.description`), to which the operators consent; what changes from
round to round is the model, which follows from the sums, and the number of the round.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from flwr.app import ArrayRecord, RecordDict

from fl.carriers.flower.arrays import is_summed
from fl.carriers.flower.records import CONFIG, PAYLOAD

SERVER_ROUND = "server-round"
"""The one setting that changes from round to round: Flower's own number of the round."""


def handed_digest(content: RecordDict) -> bytes:
    """SHA-256 of everything in a training message of which all participants must have the same."""
    records = []
    for name in sorted(content):
        record = content[name]
        if name in (CONFIG, PAYLOAD):
            continue
        items = _arrays(record) if isinstance(record, ArrayRecord) else _settings(record)
        records.append([name, type(record).__name__, items])
    return hashlib.sha256(b"qunetlab-flower-handed-v1" + msgspec.msgpack.encode(records)).digest()


def settings_digest(settings: Mapping[str, Any]) -> bytes:
    """SHA-256 of a run configuration."""
    items = msgspec.msgpack.encode(_settings(settings))
    return hashlib.sha256(b"qunetlab-flower-settings-v1" + items).digest()


def task_name(name: str, handed: bytes, settings: bytes) -> str:
    """The task of a run: ``name`` and, after an @, the digest of what its app is handed."""
    both = hashlib.sha256(handed + settings).digest()
    return f"{name}@{base64.urlsafe_b64encode(both).decode().rstrip('=')}"


def is_task(task: str, handed: bytes, settings: bytes) -> bool:
    """Does ``task`` carry these digests?"""
    name, _, _ = task.partition("@")
    return hmac.compare_digest(task.encode(), task_name(name, handed, settings).encode())


def tells_round(content: RecordDict, number: int) -> bool:
    """Is every round number in the message this one?"""
    found = [record[SERVER_ROUND] for record in content.config_records.values() if SERVER_ROUND in record]
    return all(type(each) is int and each == number for each in found)


def _arrays(record: ArrayRecord) -> list[Any]:
    described: list[Any] = []
    for name, array in record.items():
        values = array.numpy()
        data = b"" if is_summed(values) else values.tobytes()
        described.append([name, str(values.dtype), list(values.shape), data])
    return described


def _settings(record: Mapping[str, Any]) -> list[Any]:
    return [[key, _plain(record[key])] for key in sorted(record) if key != SERVER_ROUND]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else value
