"""Low-rank adapters in the encoder's last layers (LoRA; Hu et al., arXiv 2106.09685).

In an adapted layer the query and value projections become ``W x + b + s B A x``: ``W`` and ``b`` are frozen,
``A`` (rank x width) and ``B`` (width x rank) are what is trained, ``B`` starts at zero so that training
starts from the encoder as it is (section 4.1).  Only these few numbers and the head travel.

The layers below the adapted ones never change, so the token states that enter the first adapted layer are
computed once and cached (:func:`fl.workloads.sentiment.encoder.cached_token_states`); an epoch then costs the
adapted layers only.  The layer itself is BERT's (Devlin et al., arXiv 1810.04805; post-norm, exact GELU).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fl.workloads.sentiment.encoder import Encoder, mean_over_tokens


@dataclass(frozen=True)
class AdapterPlan:
    """Adapters of rank ``rank`` in the last ``layers`` layers; ``scale`` multiplies what they add."""

    layers: int
    rank: int
    scale: float

    def shapes(self, width: int) -> tuple[tuple[int, ...], ...]:
        """Shapes of the trained values: A and B of the query, A and B of the value, layer by layer."""
        return ((self.rank, width), (width, self.rank)) * (2 * self.layers)

    def initial(self, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Initial values, 1-d float32: every A normal with variance 1/width, every B zero."""
        a = rng.standard_normal((2 * self.layers, self.rank * width)) / math.sqrt(width)
        b = np.zeros_like(a)
        return np.concatenate([a, b], axis=1).ravel().astype(np.float32)


def fast_precision() -> torch.dtype:
    """bfloat16 on a processor that multiplies it natively (about twice as fast), otherwise float32.

    Only the frozen products are affected; adapters, residuals, norms and sums stay float32.
    """
    describe = getattr(torch.cpu, "get_capabilities", dict)  # older torch does not tell
    capabilities: dict[str, object] = describe()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


@dataclass(frozen=True)
class _Linear:
    """A frozen map; the product is computed in the precision of the weight, the bias added in float32."""

    weight: Tensor
    bias: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs.to(self.weight.dtype), self.weight).float() + self.bias


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, inputs: Tensor) -> Tensor:
        return functional.layer_norm(inputs, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class _Layer:
    """The frozen weights of one layer."""

    n_heads: int
    query: _Linear
    key: _Linear
    value: _Linear
    attended: _Linear
    attended_norm: _Norm
    wide: _Linear
    narrow: _Linear
    out_norm: _Norm


class AdaptedEncoder:
    """The encoder's last layers with adapters; a pure function of the adapters' values."""

    def __init__(self, encoder: Encoder, plan: AdapterPlan, precision: torch.dtype | None = None) -> None:
        """``precision`` is that of the frozen products; by default :func:`fast_precision`."""
        precision = fast_precision() if precision is None else precision
        if not 1 <= plan.layers <= encoder.n_layers:
            raise ValueError(f"{plan.layers} adapted layers; the encoder has {encoder.n_layers}")
        self.plan = plan
        self.first_layer = encoder.n_layers - plan.layers
        self._layers = [
            _frozen(encoder, index, precision) for index in range(self.first_layer, encoder.n_layers)
        ]

    def features(self, adapters: Sequence[Tensor], states: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (batch, width), float32, of length one from the states that enter :attr:`first_layer`."""
        for index, layer in enumerate(self._layers):
            states = self._layer(layer, adapters[4 * index : 4 * index + 4], states, mask)
        return functional.normalize(mean_over_tokens(states, mask), dim=1)

    def _layer(self, layer: _Layer, adapters: Sequence[Tensor], states: Tensor, mask: Tensor) -> Tensor:
        query = layer.query(states) + self._added(adapters[0], adapters[1], states)
        value = layer.value(states) + self._added(adapters[2], adapters[3], states)
        query, key, value = (_split(part, layer.n_heads) for part in (query, layer.key(states), value))
        mixed = functional.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        mixed = mixed.transpose(1, 2).flatten(2)
        states = layer.attended_norm(layer.attended(mixed) + states)
        return layer.out_norm(layer.narrow(functional.gelu(layer.wide(states))) + states)

    def _added(self, a: Tensor, b: Tensor, states: Tensor) -> Tensor:
        return functional.linear(functional.linear(states, a), b * self.plan.scale)


def _split(states: Tensor, n_heads: int) -> Tensor:
    """(batch, length, width) -> (batch, heads, length, width / heads)."""
    return states.view(*states.shape[:2], n_heads, -1).transpose(1, 2)


def _frozen(encoder: Encoder, index: int, precision: torch.dtype) -> _Layer:
    block = encoder.model.encoder.layer[index]
    epsilon = float(encoder.config.layer_norm_eps)

    def linear(module: torch.nn.Linear) -> _Linear:
        return _Linear(module.weight.detach().to(precision), module.bias.detach())

    def norm(module: torch.nn.LayerNorm) -> _Norm:
        return _Norm(module.weight.detach(), module.bias.detach(), epsilon)

    return _Layer(
        n_heads=int(encoder.config.num_attention_heads),
        query=linear(block.attention.self.query),
        key=linear(block.attention.self.key),
        value=linear(block.attention.self.value),
        attended=linear(block.attention.output.dense),
        attended_norm=norm(block.attention.output.LayerNorm),
        wide=linear(block.intermediate.dense),
        narrow=linear(block.output.dense),
        out_norm=norm(block.output.LayerNorm),
    )
