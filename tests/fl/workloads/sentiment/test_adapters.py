"""Low-rank adapters: the encoder itself at the start, transformers with merged weights afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fl.workloads.sentiment.adapters import AdaptedEncoder, AdapterPlan, fast_precision
from fl.workloads.sentiment.encoder import Encoder

TEXTS = ("the film is moving", "dull", "a story with a clumsy plot and a very tired cast")
PLAN = AdapterPlan(layers=2, rank=3, scale=0.5)


def adapters_from(values: np.ndarray, width: int, plan: AdapterPlan = PLAN) -> list[Tensor]:
    flat, parts = torch.from_numpy(values), []
    for rows, columns in plan.shapes(width):
        parts.append(flat[: rows * columns].view(rows, columns))
        flat = flat[rows * columns :]
    assert len(flat) == 0
    return parts


def entering(encoder: Encoder, layer: int) -> tuple[Tensor, Tensor]:
    states, mask = encoder.states(encoder.tokenise(TEXTS), layer)
    return states.clone(), mask


@pytest.mark.parametrize("layers", [1, 2])
def test_at_the_start_features_are_the_embeddings(tiny_encoder: Encoder, layers: int) -> None:
    plan = AdapterPlan(layers, 3, 1.0)
    adapted = AdaptedEncoder(tiny_encoder, plan, torch.float32)
    values = plan.initial(tiny_encoder.width, np.random.default_rng(0))
    found = adapted.features(adapters_from(values, 16, plan), *entering(tiny_encoder, adapted.first_layer))
    np.testing.assert_allclose(found, tiny_encoder.embed(TEXTS), atol=1e-6)


def test_adapters_are_low_rank_changes_of_query_and_value(tiny_encoder: Encoder) -> None:
    """Adding s B A to the weights of transformers' own layers gives the same embeddings."""
    values = np.random.default_rng(1).standard_normal(4 * 2 * 3 * 16).astype(np.float32) * 0.3
    parts = adapters_from(values, 16)
    adapted = AdaptedEncoder(tiny_encoder, PLAN, torch.float32)
    found = adapted.features(parts, *entering(tiny_encoder, 0))
    merged = Encoder(tiny_encoder.folder)
    with torch.no_grad():
        for index, block in enumerate(merged.model.encoder.layer):
            a_query, b_query, a_value, b_value = parts[4 * index : 4 * index + 4]
            block.attention.self.query.weight += PLAN.scale * b_query @ a_query
            block.attention.self.value.weight += PLAN.scale * b_value @ a_value
    np.testing.assert_allclose(found, merged.embed(TEXTS), atol=1e-5)
    assert np.abs(merged.embed(TEXTS) - tiny_encoder.embed(TEXTS)).max() > 0.05


def test_every_trained_value_has_a_gradient_and_the_frozen_ones_none(tiny_encoder: Encoder) -> None:
    values = np.random.default_rng(2).standard_normal(4 * 2 * 3 * 16).astype(np.float32)
    flat = torch.from_numpy(values).requires_grad_(True)
    parts = [
        flat[start : start + 48].view(shape)
        for start, shape in zip(range(0, 384, 48), PLAN.shapes(16), strict=True)
    ]
    adapted = AdaptedEncoder(tiny_encoder, PLAN, torch.float32)
    features = adapted.features(parts, *entering(tiny_encoder, 0))
    features[:, 0].sum().backward()
    assert flat.grad is not None
    assert flat.grad.abs().min() > 0
    assert not any(weight.requires_grad for weight in tiny_encoder.model.parameters())


def test_half_precision_products_change_little(tiny_encoder: Encoder) -> None:
    values = np.random.default_rng(3).standard_normal(4 * 2 * 3 * 16).astype(np.float32) * 0.1
    exact, fast = (
        AdaptedEncoder(tiny_encoder, PLAN, precision).features(
            adapters_from(values, 16), *entering(tiny_encoder, 0)
        )
        for precision in (torch.float32, torch.bfloat16)
    )
    assert fast.dtype == torch.float32
    difference = float((exact - fast).abs().max())
    assert 0 < difference < 0.03


def test_old_libraries_and_processors_use_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert fast_precision() == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert fast_precision() == torch.bfloat16
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fast_precision() == torch.float32


@pytest.mark.parametrize("layers", [0, 3])
def test_more_layers_than_there_are_cannot_be_adapted(tiny_encoder: Encoder, layers: int) -> None:
    with pytest.raises(ValueError, match="the encoder has 2"):
        AdaptedEncoder(tiny_encoder, AdapterPlan(layers, 3, 1.0))
