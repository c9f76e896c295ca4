"""Adam as published, and batches that cover everything once."""

from __future__ import annotations

import numpy as np
import torch

from fl.workloads.sentiment.training import adam, bucketed, shuffled


def test_steps_are_those_of_torch_with_a_linearly_falling_rate() -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(6).astype(np.float32)
    rates = np.array([0.1] * 3 + [0.01] * 3, np.float32)
    targets = torch.from_numpy(rng.standard_normal((5, 6)).astype(np.float32))

    def loss(flat: torch.Tensor, batch: np.ndarray) -> torch.Tensor:
        return (flat - targets[batch]).square().mean() ** 2

    batches = [np.array([step % 5, 0]) for step in range(7)]
    change = adam(start, rates, batches, 7, loss, decay=0.7)

    first, second = (torch.from_numpy(part.copy()).requires_grad_(True) for part in (start[:3], start[3:]))
    optimiser = torch.optim.AdamW(
        [{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.01}], weight_decay=0.7
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / 7)
    for batch in batches:
        optimiser.zero_grad()
        loss(torch.cat([first, second]), batch).backward()
        optimiser.step()
        schedule.step()
    expected = torch.cat([first, second]).detach().numpy() - start
    np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-6)
    assert change.dtype == np.float32


def test_batches_cover_every_example_once() -> None:
    lengths = np.random.default_rng(1).integers(3, 60, 203)
    for batches in (
        shuffled(203, 8, np.random.default_rng(2)),
        bucketed(lengths, 8, np.random.default_rng(2)),
    ):
        assert sorted(np.concatenate(batches)) == list(range(203))
        assert len(batches) == 26
        assert max(len(batch) for batch in batches) == 8


def test_bucketed_batches_need_little_padding_and_come_in_mixed_order() -> None:
    lengths = np.random.default_rng(1).integers(3, 60, 512)

    def padding(batches: list[np.ndarray]) -> float:
        return sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum() - 1

    batches = bucketed(lengths, 16, np.random.default_rng(3))
    assert padding(batches) < 0.15 < padding(shuffled(512, 16, np.random.default_rng(3)))
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.5
    other = bucketed(lengths, 16, np.random.default_rng(4))
    assert not np.array_equal(batches[0], other[0])
