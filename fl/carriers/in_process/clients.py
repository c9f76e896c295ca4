"""A share of the simulated clients: what each of them does in a round, with its real arithmetic.

The clients of a run are divided into groups, one per process.  The steps of a round are methods that the run calls
on all groups, each after all groups have finished the one before:

========== ======================================================================================
train      local training, compression, quantisation
mask       pairwise pads: those between clients, each pair by one group, into ``room.masks``
share      lightsecagg: draw masks, encode them, seal the shares for the other clients
upload     the protected update, packed, into ``room.uploads``
answer     lightsecagg: open the shares of the survivors, add them up
settle     the round is in the model (or not, for clients that had vanished): error feedback
========== ======================================================================================

*Pairwise masks.*  In reality both ends of a pair hold its pad.  Here the pad is made once, added to the
mask of the earlier client and subtracted from that of the later one, in the group to which the pair belongs;
a client's mask is the sum of what all groups contribute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fl.carriers.in_process.plan import CohortPlan, Vanished
from fl.carriers.in_process.room import Room
from fl.keys.simulated import SimulatedKeySupply, Words
from fl.modes.field import pack_symbols, unpack_symbols
from fl.modes.lightsecagg import MaskedSum
from fl.modes.shares import ShareCode, add_shares, draw_mask, encode
from fl.rounds.compression import ErrorFeedback
from fl.rounds.quantise import check_finite, quantisation_rng
from fl.workloads.base import Parameters, Task, TrainsTogether, training_seed
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.expansion import pad_maker
from orchestrator.delivery.masking import add_words, as_words, mask, subtract_words
from orchestrator.delivery.messages import RoundContext

Progress = Callable[[int], None]
"""Told how many clients a step has served."""


class ClientGroup:
    """The clients of group ``index`` of ``n_groups``."""

    def __init__(
        self, plan: CohortPlan, task: Task, room: Room, supply: SimulatedKeySupply, index: int, n_groups: int
    ) -> None:
        self.plan = plan
        self.members = members_of(plan.n_clients, index, n_groups)
        self._task, self._room, self._supply = task, room, supply
        self._index, self._n_groups = index, n_groups
        seed = plan.config.seed
        self._data = {client: task.client_data(client, plan.n_clients, seed) for client in self.members}
        self._feedback = {
            client: ErrorFeedback(plan.compression, seed, plan.n_parameters) for client in self.members
        }
        self._values: dict[int, npt.NDArray[np.int32]] = {}
        self._own_masks: dict[int, npt.NDArray[np.uint32]] = {}

    # -- training ------------------------------------------------------------------------------------

    def train(self, round_number: int, progress: Progress) -> None:
        """Every client trains on the shared model; raises UpdateNotFiniteError."""
        config, model = self.plan.config, self._room.model.copy()
        if self.plan.float32:
            self._room.float_sums[self._index] = 0
        vanished = self.plan.vanished(round_number).before_upload
        for done, (client, update) in enumerate(self._updates(round_number, model), start=1):
            name = config.clients[client]
            if self.plan.float32:
                check_finite(update, client=name, round_number=round_number)
                if client not in vanished:
                    self._room.float_sums[self._index] += np.float64(self.plan.weights[client]) * update
            else:
                rng = quantisation_rng(config.seed, round_number, client)
                values = self._feedback[client].compress(update, round_number, rng, client=name)
                self._values[client] = values.astype(np.int32)
                if (losses := self._feedback[client].losses) is not None:
                    self._room.losses[client] = losses.bands.clipped, losses.bands.vanished
            progress(done)

    def _updates(self, round_number: int, model: Parameters) -> Iterator[tuple[int, Parameters]]:
        """Every client's update, in batches of clients where the task trains them together."""
        seeds = {
            client: training_seed(self.plan.config.seed, round_number, client) for client in self.members
        }
        for batch in self._batches:
            if len(batch) > 1:
                assert isinstance(self._task, TrainsTogether)
                updates = self._task.local_train_together(
                    model, [self._data[client] for client in batch], [seeds[client] for client in batch]
                )
                yield from zip(batch, updates, strict=True)
            else:
                for client in batch:
                    yield client, self._task.local_train(model, self._data[client], seeds[client])

    @cached_property
    def _batches(self) -> list[list[int]]:
        """Neighbouring clients with equally many examples, as many as the task takes at a time."""
        together = self._task.clients_together if isinstance(self._task, TrainsTogether) else 1
        batches: list[list[int]] = []
        for client in self.members:
            last = batches[-1] if batches else []
            same = bool(last) and len(self._data[client]) == len(self._data[last[0]])
            if same and len(last) < together:
                last.append(client)
            else:
                batches.append([client])
        return batches

    # -- pairwise masks ------------------------------------------------------------------------------

    def mask(self, attempt: int, progress: Progress) -> None:
        """The pads of this group's pairs: added for the earlier client, subtracted for the later one."""
        self._supply.open_attempt(attempt)
        masks, bits, n = self._room.masks[self._index], self.plan.value_bits, self.plan.n_clients
        masks[:] = 0
        context = self.plan.aggregation.context(attempt, self.plan.config.clients)
        make_pad = pad_maker(context)
        for done, first in enumerate(range(self._index, n, self._n_groups), start=1):
            for second in range(first + 1, n):
                pad = self._pad(first, second, context, make_pad)
                add_words(masks[first], pad, bits)
                subtract_words(masks[second], pad, bits)
            progress(done)

    def _pad(
        self, first: int, second: int, context: RoundContext, make_pad: Callable[[PackedBits], PackedBits]
    ) -> Words:
        """The pad of a pair as a delivery client makes it, from key that both ends draw."""
        words = self._supply.draw(first, second, context.pad_bits, ends=(first, second))
        key = words.view(np.uint8)[: packed_size(context.pad_bits)]
        pad = make_pad(key)
        return words if pad is key else as_words(pad, context.value_bits)

    # -- shares --------------------------------------------------------------------------------------

    def share(self, attempt: int, progress: Progress) -> None:
        """Every client draws a mask and sends a sealed share of it to every other client."""
        self._supply.open_attempt(attempt)
        code = self._code
        for done, client in enumerate(self.members, start=1):
            mask, noise = draw_mask(code)
            shares = encode(code, mask, noise)
            self._own_masks[client] = mask
            sealed = self._room.sealed[client]
            for peer in range(self.plan.n_clients):
                sealed[peer] = pack_symbols(shares[peer], code.symbol_bits)
                if peer != client:
                    sealed[peer] ^= self._share_pad(client, peer, end=client)
            progress(done)

    def answer(self, survivors: Sequence[int], answering: Collection[int], progress: Progress) -> None:
        """Those of ``answering`` that are here add up the shares they hold of the ``survivors``."""
        code = self._code
        for done, client in enumerate(self.members, start=1):
            if client in answering:
                total = add_shares(code, (self._opened(sender, client) for sender in survivors))
                self._room.answers[client] = pack_symbols(total, code.symbol_bits)
            progress(done)

    def _opened(self, sender: int, client: int) -> npt.NDArray[np.uint32]:
        code, packed = self._code, self._room.sealed[sender, client]
        if sender != client:
            packed = packed ^ self._share_pad(sender, client, end=client)
        return unpack_symbols(packed, code.symbols_per_share, code.symbol_bits, code.modulus)

    def _share_pad(self, sender: int, receiver: int, *, end: int) -> npt.NDArray[np.uint8]:
        n_bits = self._code.share_bits
        words = self._supply.draw(sender, receiver, n_bits, ends=(end,))
        return words.view(np.uint8)[: packed_size(n_bits)]

    @property
    def _code(self) -> ShareCode:
        assert self.plan.code is not None
        return self.plan.code

    # -- upload and afterwards -----------------------------------------------------------------------

    def upload(self, vanished: Vanished, progress: Progress) -> None:
        """The protected update of every client that is still there, and the plain sum for the check."""
        plan, plain_sum = self.plan, self._room.plain_sums[self._index]
        plain_sum[:] = 0
        for done, client in enumerate(self.members, start=1):
            if client not in vanished.before_upload:
                values, weight = self._values[client].astype(np.int64), plan.weights[client]
                plain_sum += weight * values
                self._write_upload(client, values, weight)
            progress(done)

    def _write_upload(self, client: int, values: npt.NDArray[np.int64], weight: int) -> None:
        plan, target = self.plan, self._room.uploads[client]
        if plan.code:
            packed = MaskedSum(plan.code, 0, self._own_masks.pop(client)).protect(values, weight).packed
        else:
            size, groups = packed_size(values.size * plan.value_bits), self._room.masks[:, client]
            pads = [row.view(np.uint8)[:size] for row in groups]
            packed = mask(values, pads, [1] * len(pads), plan.value_bits, weight)
        target.view(np.uint8)[: packed.size] = packed
        target.view(np.uint8)[packed.size :] = 0

    def settle(self, vanished: Vanished, residuals: Path | None) -> None:
        """The round is complete: keep what error feedback left over, and save it if asked to."""
        self._values.clear()
        self._own_masks.clear()
        if not self.plan.float32:
            for client, feedback in self._feedback.items():
                if client in vanished.before_upload:
                    feedback.discard(uploaded=False)
                else:
                    feedback.commit()
        if residuals is not None:
            file = np.load(residuals, mmap_mode="r+")
            for client, feedback in self._feedback.items():
                file[client] = feedback.residual
            file.flush()

    def restore(self, residuals: Path) -> None:
        """Take up the residuals that were saved with the last completed round."""
        file = np.load(residuals, mmap_mode="r")
        for client in self.members:
            self._feedback[client] = ErrorFeedback(
                self.plan.compression, self.plan.config.seed, self.plan.n_parameters, np.array(file[client])
            )


def members_of(n_clients: int, index: int, n_groups: int) -> range:
    """The clients of one group: consecutive, and as many as in any other but for one."""
    return range(index * n_clients // n_groups, (index + 1) * n_clients // n_groups)
