"""The memory that the processes of a cohort share, so that nothing large travels through a pipe.

One file in memory holds the arrays named in :class:`Room`; its size is settled by the plan and reserved before
the first process starts, so that a machine with too little memory says so then.  A process that simulates
clients writes its own rows only.  The server part reads ``model``, ``uploads`` and ``answers`` and nothing
else; ``masks`` and ``sealed`` are the wires between clients, ``plain_sums`` serves the check of exactness.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from fl.carriers.in_process.plan import CohortPlan
from fl.carriers.in_process.results import CohortError
from fl.workloads.base import Parameters
from orchestrator.bits import packed_size

_ALIGN = 64


@dataclass(frozen=True)
class Room:
    """The shared arrays of a run; N clients, simulated by G processes, n values of b bits.

    ``model`` (d,) is the global model.  ``uploads`` (N, words) holds the protected updates, packed.
    ``masks`` (G, N, words): what each process adds to the clients' masks.  ``sealed`` (N, N, share bytes):
    the sealed share from client (axis 0) to client (axis 1).  ``answers`` (N, share bytes).  ``plain_sums``
    (G, n): sums of the included clients' integers.  ``float_sums`` (G, d): sums of float32 updates.  ``losses``
    (N, 2): the bands that each client tells (:mod:`fl.rounds.clipping`).
    Arrays that a mode does not use have length 0.
    """

    model: Parameters
    uploads: npt.NDArray[np.uint64]
    masks: npt.NDArray[np.uint64]
    sealed: npt.NDArray[np.uint8]
    answers: npt.NDArray[np.uint8]
    plain_sums: npt.NDArray[np.int64]
    float_sums: npt.NDArray[np.float64]
    losses: npt.NDArray[np.uint8]


def _layout(plan: CohortPlan, n_groups: int) -> list[tuple[tuple[int, ...], type[np.generic]]]:
    """Shape and type of every array, in the order of the fields of Room."""
    n, words = plan.n_clients, 0 if plan.float32 else plan.upload_words
    share = packed_size(plan.code.share_bits) if plan.code else 0
    return [
        ((plan.n_parameters,), np.float32),
        ((n, words), np.uint64),
        ((n_groups if plan.masks_pairwise else 0, n, words), np.uint64),
        ((n if share else 0, n, share), np.uint8),
        ((n if share else 0, share), np.uint8),
        ((0 if plan.float32 else n_groups, plan.n_values), np.int64),
        ((n_groups if plan.float32 else 0, plan.n_parameters), np.float64),
        ((0 if plan.float32 else n, 2), np.uint8),
    ]


def _room(buffer: mmap.mmap | bytearray, plan: CohortPlan, n_groups: int) -> Room:
    arrays, start = [], 0
    for shape, dtype in _layout(plan, n_groups):
        count = prod(shape)
        arrays.append(np.frombuffer(buffer, dtype, count, start if count else 0).reshape(shape))
        start += -(-count * np.dtype(dtype).itemsize // _ALIGN) * _ALIGN
    return Room(*arrays)


def room_bytes(plan: CohortPlan, n_groups: int) -> int:
    """Memory that the shared arrays take."""
    sizes = [prod(shape) * np.dtype(dtype).itemsize for shape, dtype in _layout(plan, n_groups)]
    return sum(-(-size // _ALIGN) * _ALIGN for size in sizes)


def private_room(plan: CohortPlan) -> Room:
    """The arrays of a cohort that is simulated within this process."""
    return _room(bytearray(room_bytes(plan, 1)), plan, 1)


class SharedRoom:
    """The arrays of a cohort of several processes, made by the first and opened by the others."""

    def __init__(self, plan: CohortPlan, n_groups: int) -> None:
        """Reserve the memory; raises CohortError if there is too little."""
        size = room_bytes(plan, n_groups)
        self._temporary: str | None = None
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("qunetlab-cohort")
            self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        else:
            self._descriptor, self.path = tempfile.mkstemp(prefix="qunetlab-cohort-")
            self._temporary = self.path
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except OSError as error:
            self.close()
            raise CohortError(
                f"{plan.n_clients} clients need {size / 2**20:.0f} MiB of shared memory: {error.strerror}"
            ) from error
        self.room = _room(mmap.mmap(self._descriptor, size), plan, n_groups)

    def close(self) -> None:
        """Give the memory back once the last process is gone."""
        os.close(self._descriptor)
        if self._temporary is not None:
            os.unlink(self._temporary)


def open_room(path: str, plan: CohortPlan, n_groups: int) -> Room:
    """The arrays that another process has made."""
    with open(path, "r+b") as file:
        return _room(mmap.mmap(file.fileno(), 0), plan, n_groups)
