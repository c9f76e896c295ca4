"""Mode ``lightsecagg`` (So et al., arXiv 2109.14236) over quantum one-time pads: clients may drop out.

A round of client i: draw a mask, encode it into shares and seal one for every other participant under fresh
key (:mod:`orchestrator.delivery.sharing`); open the shares of the others; upload ``w_i q_i + z_i mod p``,
packed at ceil(log2 p) bits; once the server has named the survivors, and U clients have vouched for the very
same list, answer with the sum of the survivors' shares.  Any U answers decode the sum of the masks
(:mod:`fl.modes.shares`).

T colluders and U are those of the whole run, whoever takes part in a round, and so is p; shares of a smaller
round are encoded for its own participants.  The pads are information-theoretic; of masks as of all else that is
drawn holds :data:`orchestrator.randomness.CLAIM`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fl.keys.node import KeyServiceError, ProtectedUpdate
from fl.modes.base import (
    Aggregation,
    AggregationError,
    Protection,
    RoundInputs,
    RoundRules,
    Settings,
)
from fl.modes.field import Symbols, pack_symbols, unpack_symbols
from fl.modes.primes import FieldError
from fl.modes.shares import (
    DecodeError,
    ShareCode,
    add_shares,
    check_modulus,
    decode,
    draw_mask,
    encode,
    protect,
    read_sum,
)
from fl.modes.thresholds import smallest_modulus
from orchestrator.bits import PackedBits
from orchestrator.delivery.consent import RunDescription
from orchestrator.delivery.errors import ShareSealError
from orchestrator.delivery.messages import RoundContext
from orchestrator.delivery.sharing import ShareChannel, sealed_size
from orchestrator.randomness import RandomBytes, random_bytes


def statement_of(survivors: Sequence[str]) -> bytes:
    """What clients vouch for: this list of survivors."""
    return hashlib.sha256("|".join(survivors).encode()).digest()


@dataclass
class HeldShares:
    """What client ``owner`` holds of the others' masks in one round, and the channel to vouch with."""

    code: ShareCode
    owner: str
    channel: ShareChannel
    shares: dict[str, Symbols] = field(repr=False)

    @property
    def context(self) -> RoundContext:
        return self.channel.context

    @property
    def senders(self) -> tuple[str, ...]:
        return tuple(name for name in self.context.participants if name in self.shares)

    def confirmations(self, survivors: Sequence[str]) -> dict[str, bytes]:
        statement = statement_of(survivors)
        return {peer: self.channel.vouch(peer, statement) for peer in self.senders if peer != self.owner}

    def is_confirmed(self, peer: str, survivors: Sequence[str], proof: bytes) -> bool:
        if peer not in self.shares or peer == self.owner:
            return False
        return self.channel.is_vouched(peer, statement_of(survivors), proof)

    def answer(self, survivors: Sequence[str]) -> PackedBits:
        total = add_shares(self.code, [self.shares[name] for name in survivors])
        return pack_symbols(total, self.code.symbol_bits)

    def close(self) -> None:
        self.channel.close()
        for share in self.shares.values():
            share[:] = 0
        self.shares.clear()


@dataclass
class MaskedSum:
    """The client's own mask, used for one upload."""

    code: ShareCode
    key_bits: int
    mask: Symbols | None = field(repr=False)

    def protect(self, values: npt.NDArray[np.int64], weight: int) -> ProtectedUpdate:
        if self.mask is None:
            raise KeyServiceError("the mask of this round has protected an update before")
        mask, self.mask = self.mask, None
        try:
            packed = pack_symbols(protect(self.code, weight * values, mask), self.code.symbol_bits)
        finally:
            mask[:] = 0
        return ProtectedUpdate(packed, self.key_bits)


class LightSecAgg(Aggregation):
    """Mode ``lightsecagg``."""

    def __init__(
        self,
        config: Settings,
        n_values: int,
        random_bytes: RandomBytes = random_bytes,
        *,
        description: RunDescription | None = None,
    ) -> None:
        super().__init__(config, n_values, description=description)
        self._modulus = smallest_modulus(config.levels, sum(config.client_weights))
        self._random_bytes = random_bytes

    def code(self, n_participants: int) -> ShareCode:
        """The parameters of a round with so many participants."""
        colluders, survivors = self.config.thresholds
        code = ShareCode(n_participants, colluders, survivors, self.n_values, self._modulus)
        check_modulus(code, self.config.levels, sum(self.config.client_weights))
        return code

    def padded(self, n_participants: int) -> tuple[int, int]:
        code = self.code(n_participants)
        return code.symbols_per_share, code.symbol_bits

    def binding(self, n_participants: int) -> str:
        code = self.code(n_participants)
        parameters = (
            f"N={code.n_clients} T={code.colluders} U={code.survivors} p={code.modulus} d={code.n_values}"
        )
        return f"{parameters} {super().binding(n_participants)}"

    def rules(self, participants: Sequence[str]) -> RoundRules:
        code = self.code(len(participants))
        context = self.context(1, tuple(participants))
        return RoundRules(
            code.n_values,
            code.symbol_bits,
            context.pad_bits,
            code.survivors,
            sealed_size(context),
            code.share_bits,
        )

    def prepare(self, inputs: RoundInputs) -> Protection:
        context = inputs.context
        code = self.code(len(context.participants))
        keys = inputs.need_keys(self.mode.name)
        channel = keys.share_channel(context, inputs.cancelled, inputs.tell)
        held, mask, sealed = self.deal(channel, inputs.owner)
        try:
            arrived = inputs.exchange.swap(sealed, channel.key_bits_used)
            for peer, share in arrived.items():
                held.shares[peer] = self.open_share(channel, peer, share)
        except BaseException:
            mask[:] = 0
            held.close()
            raise
        inputs.exchange.hold(held)
        return MaskedSum(code, channel.key_bits_used, mask)

    def deal(self, channel: ShareChannel, owner: str) -> tuple[HeldShares, Symbols, dict[str, bytes]]:
        """A fresh mask of ``owner``: its own share, held; the mask; and the shares sealed for the others.

        ``channel`` is closed if this fails.
        """
        participants = channel.context.participants
        code = self.code(len(participants))
        held = HeldShares(code, owner, channel, {})
        try:
            mask, noise = draw_mask(code, self._random_bytes)
            rows = encode(code, mask, noise)
            noise[:] = 0
            held.shares[owner] = rows[participants.index(owner)].copy()
            sealed = {
                peer: _sealed(channel, peer, pack_symbols(row, code.symbol_bits))
                for peer, row in zip(participants, rows, strict=True)
                if peer != owner
            }
            rows[:] = 0
        except BaseException:
            held.close()
            raise
        return held, mask, sealed

    def open_share(self, channel: ShareChannel, peer: str, sealed: bytes) -> Symbols:
        """The share that ``peer`` dealt us; raises KeyServiceError."""
        code = self.code(len(channel.context.participants))
        try:
            packed = np.frombuffer(channel.open(peer, sealed), np.uint8)
            return unpack_symbols(packed, code.symbols_per_share, code.symbol_bits, code.modulus)
        except (ShareSealError, ValueError) as error:
            raise KeyServiceError(str(error), channel.key_bits_used) from error

    def total(
        self,
        participants: Sequence[str],
        uploads: Mapping[str, PackedBits],
        answers: Mapping[str, PackedBits],
    ) -> npt.NDArray[np.int64]:
        code = self.code(len(participants))
        places = {name: place for place, name in enumerate(participants)}
        size = code.symbols_per_share
        answered = {
            places[name]: _symbols(code, f"the answer of {name}", packed, size)
            for name, packed in answers.items()
        }
        masked = (
            _symbols(code, f"the upload of {name}", packed, code.n_values) for name, packed in uploads.items()
        )
        try:
            masks = decode(code, answered)
        except DecodeError as error:
            raise AggregationError(str(error)) from error
        return self.check_total(read_sum(code, masked, masks), tuple(uploads))


def _sealed(channel: ShareChannel, peer: str, share: PackedBits) -> bytes:
    """``share`` sealed for ``peer``; the share itself is overwritten."""
    try:
        return channel.seal(peer, share)
    finally:
        share[:] = 0


def _symbols(code: ShareCode, what: str, packed: PackedBits, n_symbols: int) -> Symbols:
    try:
        return unpack_symbols(packed, n_symbols, code.symbol_bits, code.modulus)
    except FieldError as error:
        raise AggregationError(f"{what} is no array of symbols: {error}") from error
