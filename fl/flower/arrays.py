"""A model as Flower carries it (named arrays) and as we add it up (one flat float32 array).

Only floating-point arrays are trained and summed; counters and other integer arrays of a model keep the
value that the server has.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, RecordDict

from fl.tasks.base import Parameters


class ModelShapeError(ValueError):
    """Arrays that are not those of the model, or that cannot be added up."""


def model_record(content: RecordDict, what: str) -> ArrayRecord:
    """The one ArrayRecord of a message; raises ModelShapeError."""
    records = list(content.array_records.values())
    if len(records) != 1:
        raise ModelShapeError(f"{what} carries {len(records)} ArrayRecords instead of one")
    return records[0]


def array_sizes(record: ArrayRecord) -> dict[str, int]:
    """Name and number of values of every floating-point array, in the order in which :func:`flatten` has them."""
    return {
        name: values.size for name, values in _arrays(record).items() if _summable(values) and values.size
    }


def flatten(record: ArrayRecord) -> Parameters:
    """All floating-point values of a model, in the record's order."""
    parts = [values.astype(np.float32).ravel() for values in _arrays(record).values() if _summable(values)]
    if not parts:
        raise ModelShapeError("the model has no floating-point array")
    return np.concatenate(parts)


def change(before: ArrayRecord, after: ArrayRecord) -> Parameters:
    """The update that leads from one model to the other, flat; raises ModelShapeError."""
    old, new = _arrays(before), _arrays(after)
    if list(old) != list(new):
        raise ModelShapeError(
            "the trained model has other arrays, or another order of them, than the global one"
        )
    parts = []
    for name, values in old.items():
        if new[name].shape != values.shape:
            raise ModelShapeError(
                f"array {name!r} came back with shape {new[name].shape}, not {values.shape}"
            )
        if _summable(values):
            parts.append((new[name].astype(np.float32) - values.astype(np.float32)).ravel())
    if not parts:
        raise ModelShapeError("the model has no floating-point array")
    return np.concatenate(parts)


def moved(record: ArrayRecord, update: Parameters) -> ArrayRecord:
    """The model after a flat ``update``."""
    result, start = ArrayRecord(), 0
    for name, values in _arrays(record).items():
        if not _summable(values):
            result[name] = record[name]
            continue
        part = update[start : start + values.size].reshape(values.shape)
        result[name] = Array(np.add(values, part, dtype=values.dtype, casting="same_kind"))
        start += values.size
    if start != update.size:
        raise ModelShapeError(f"an update of {update.size} values for a model of {start}")
    return result


def _arrays(record: ArrayRecord) -> dict[str, npt.NDArray[np.generic]]:
    return {name: array.numpy() for name, array in record.items()}


def _summable(values: npt.NDArray[np.generic]) -> bool:
    return bool(np.issubdtype(values.dtype, np.floating))
