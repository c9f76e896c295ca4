"""What server and clients of a run put on record of each round (:mod:`orchestrator.records`).

Digests only, of what others hold as well: a model is known to everybody, a sum is published, and an upload is masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fl.modes.base import model_digest
from fl.workloads.base import Parameters
from orchestrator.bits import PackedBits
from orchestrator.delivery.messages import RoundContext
from orchestrator.events.learning import AbortRecord, RoundRecord
from orchestrator.records.kinds import ModelFollowed, NoSum, SumKept, UpdateGiven


def upload_digest(packed: PackedBits) -> str:
    """SHA-256 (hexadecimal) of an upload as it goes to the server."""
    return hashlib.sha256(np.ascontiguousarray(packed).tobytes()).hexdigest()


def sum_digest(total: npt.NDArray[np.int64]) -> str:
    """SHA-256 (hexadecimal) of a sum, int64 of shape (n_values,), little endian."""
    return hashlib.sha256(np.ascontiguousarray(total, "<i8").tobytes()).hexdigest()


def sum_kept(
    run_id: str,
    record: RoundRecord,
    context: bytes,
    models: tuple[Parameters, Parameters],
    total: npt.NDArray[np.int64],
    uploads: Mapping[str, PackedBits],
) -> SumKept:
    """A round that came to a ``total``, int64 of shape (n_values,); ``models`` before and after it."""
    before, after = (model_digest(each).hex() for each in models)
    return SumKept(
        run_id=run_id,
        round=record.round,
        context=context.hex(),
        participants=record.participants,
        survivors=record.survivors,
        model=before,
        model_after=after,
        total=sum_digest(total),
        uploads={name: upload_digest(packed) for name, packed in uploads.items()},
        upload_bytes=record.upload_bytes,
        key_bits=record.key_bits_used,
        accuracy=record.accuracy,
        loss=record.loss,
    )


def no_sum(run_id: str, record: AbortRecord) -> NoSum:
    """A round that was given up."""
    return NoSum(
        run_id=run_id,
        round=record.round,
        participants=record.participants,
        reason=record.reason,
        key_bits=record.key_bits_burnt,
    )


def update_given(client: str, context: RoundContext, packed: PackedBits, key_bits: int) -> UpdateGiven:
    """What a client uploads in a round."""
    return UpdateGiven(
        client=client,
        run_id=context.run_id,
        round=context.round,
        context=context.digest().hex(),
        participants=context.participants,
        model=context.model.hex(),
        upload=upload_digest(packed),
        upload_bytes=packed.nbytes,
        key_bits=key_bits,
    )


def model_followed(client: str, run_id: str, round_number: int, model: Parameters) -> ModelFollowed:
    """A client's own next model."""
    return ModelFollowed(client=client, run_id=run_id, round=round_number, model=model_digest(model).hex())
