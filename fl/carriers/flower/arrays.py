"""A model as Flower carries it (named arrays) and as we add it up (one flat float32 array).

Only floating-point arrays are trained and summed; counters and other integer arrays of a model keep the
value that the server has.  A model's values are float32, in arrays of float32 or float64: what a float64 could
hold beyond that would be a part of the model which no digest covers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, RecordDict

from fl.workloads.base import Parameters


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
        name: values.size for name, values in _arrays(record).items() if is_summed(values) and values.size
    }


def flatten(record: ArrayRecord) -> Parameters:
    """All floating-point values of a model, in the record's order; raises ModelShapeError for other than float32."""
    parts = []
    for name, values in _arrays(record).items():
        if not is_summed(values):
            continue
        part = values.astype(np.float32)
        if values.dtype not in (np.float32, np.float64) or not np.array_equal(part, values, equal_nan=True):
            raise ModelShapeError(
                f"array {name!r} of {values.dtype} holds values that are no float32: see fl.carriers.flower.arrays.rounded"
            )
        parts.append(part.ravel())
    if not parts:
        raise ModelShapeError("the model has no floating-point array")
    return np.concatenate(parts)


def rounded(record: ArrayRecord) -> ArrayRecord:
    """A model whose float64 arrays hold float32 values; raises ModelShapeError for other floating-point types."""
    result = ArrayRecord()
    for name, values in _arrays(record).items():
        if is_summed(values) and values.dtype not in (np.float32, np.float64):
            raise ModelShapeError(f"array {name!r} is {values.dtype}: what is summed is float32 or float64")
        exact = not is_summed(values) or values.dtype == np.float32
        result[name] = record[name] if exact else Array(values.astype(np.float32).astype(values.dtype))
    return result


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
        if is_summed(values):
            parts.append((new[name].astype(np.float32) - values.astype(np.float32)).ravel())
    if not parts:
        raise ModelShapeError("the model has no floating-point array")
    return np.concatenate(parts)


def replaced(record: ArrayRecord, model: Parameters) -> ArrayRecord:
    """The record with the flat ``model`` in its floating-point arrays, whose types they keep."""
    result, start = ArrayRecord(), 0
    for name, values in _arrays(record).items():
        if not is_summed(values):
            result[name] = record[name]
            continue
        part = model[start : start + values.size].reshape(values.shape)
        result[name] = Array(part.astype(values.dtype))
        start += values.size
    if start != model.size:
        raise ModelShapeError(f"{model.size} values for a model of {start}")
    return result


def _arrays(record: ArrayRecord) -> dict[str, npt.NDArray[np.generic]]:
    return {name: array.numpy() for name, array in record.items()}


def is_summed(values: npt.NDArray[np.generic]) -> bool:
    """Is this array, of any shape, float and so trained and summed (float16 to float64), or does it keep the server's value?"""
    return bool(np.issubdtype(values.dtype, np.floating))
