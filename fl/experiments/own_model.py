"""What a model of one's own would cost in key, from the file of its ``state_dict``: names and sizes, never a value.

Two formats are read.  Of ``.safetensors`` only the header: its length as 8 bytes, little-endian, then as many bytes of
JSON with the type and shape of every tensor (the safetensors project's README, "Format").  A ``.pt`` or ``.pth`` is a
pickle, which can run whatever it likes when it is opened; it is opened by ``torch.load(weights_only=True)``, which
builds tensors and plain containers and refuses everything else, and its values stay on the disk (``mmap``).

What a round carries of it follows from the settings as it does in a run: floating-point arrays, without the buffers of
batch normalisation (:mod:`fl.rounds.arrays`).
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from fl.modes.table import DEFAULT_MODE
from fl.rounds.aggregation import aggregation_for
from fl.rounds.config import FLConfig
from fl.workloads.base import TaskDefaults

SUFFIXES = (".pt", ".pth", ".safetensors")
SUMMED = frozenset({"F16", "BF16", "F32", "F64"})
"""Types of safetensors whose values are trained and summed."""
LONGEST_HEADER = 100_000_000
"""Bytes, as the format's own readers have it."""


class OwnModelError(ValueError):
    """A file that holds no ``state_dict``, or one that must not be opened."""


@dataclass(frozen=True)
class OwnModel:
    """Name and size of every array of a model: of those that are ``summed``, and of the integers that are ``kept``."""

    name: str
    summed: Mapping[str, int]
    kept: Mapping[str, int] = field(default_factory=dict)
    fingerprint = ""
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=10)

    @property
    def array_sizes(self) -> Mapping[str, int]:
        """What :mod:`fl.rounds.arrays` asks for."""
        return self.summed


class RoundCost(msgspec.Struct, frozen=True):
    """One round: numbers of the model that a client sends, bits of each, and the key that every pair spends."""

    n_parameters: int
    n_values: int
    value_bits: int
    upload_bytes: int
    key_bits_per_pair: int


def read_model(path: Path) -> OwnModel:
    """The model in a file; raises OwnModelError, or OSError where it cannot be read."""
    if path.suffix not in SUFFIXES:
        raise OwnModelError(f"{path} is no state_dict: a file that ends in {', '.join(SUFFIXES)} is")
    found = _of_safetensors(path) if path.suffix == ".safetensors" else _of_torch(path)
    summed = {name: size for name, (size, floating) in found.items() if floating and size}
    if not summed:
        raise OwnModelError(f"{path} holds no array of floating-point numbers: there is nothing to train")
    kept = {name: size for name, (size, floating) in found.items() if not floating}
    return OwnModel(path.stem, summed, kept)


def round_cost(
    model: OwnModel, users: tuple[str, ...], mode: str = DEFAULT_MODE, levels: int | None = None
) -> RoundCost:
    """What a round of ``users`` takes; raises ConfigError, or another ValueError saying what would work."""
    config = FLConfig.for_task(model, users, run_id="estimate", mode=mode, levels=levels)
    aggregation = aggregation_for(config, sum(model.summed.values()))
    n_values, value_bits = aggregation.n_values, aggregation.value_bits
    return RoundCost(
        sum(model.summed.values()),
        n_values,
        value_bits,
        math.ceil(n_values * value_bits / 8),
        aggregation.key_bits_per_pair,
    )


def _of_safetensors(path: Path) -> dict[str, tuple[int, bool]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, path.stat().st_size - 8):
            raise OwnModelError(f"{path} is no safetensors file: its header would be {length} bytes long")
        data = file.read(length)
    try:
        header: dict[str, Any] = json.loads(data)
        return {
            str(name): (math.prod(_shape(each["shape"])), each["dtype"] in SUMMED)
            for name, each in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise OwnModelError(f"{path} is no safetensors file: its header is damaged ({error!r})") from None


def _shape(value: Any) -> list[int]:
    if not all(type(each) is int and each >= 0 for each in value):
        raise ValueError(f"shape {value}")
    return list(value)


def _of_torch(path: Path) -> dict[str, tuple[int, bool]]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError:
        raise OwnModelError(
            f"{path} holds more than tensors, and opening it could run foreign code; nothing of it was run. Save the "
            "state_dict alone: torch.save(model.state_dict(), FILE), or as .safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError):
        raise OwnModelError(f"{path} is damaged, or was not written by torch.save") from None
    if not isinstance(found, Mapping) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        held = ", ".join(map(str, list(found)[:8])) if isinstance(found, Mapping) else type(found).__name__
        raise OwnModelError(
            f"{path} is no state_dict, whose values are tensors: it holds {held}. Save model.state_dict() alone"
        )
    return {str(name): (tensor.numel(), tensor.dtype.is_floating_point) for name, tensor in found.items()}
