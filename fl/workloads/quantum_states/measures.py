"""How entangled and how magic a pure state is.

**Concentratable entanglement** (Beckey et al., arXiv 2104.06923, eq. 3 with s = all qubits):

    C = 1 - 2^-n sum_a Tr rho_a^2

over all 2^n subsets a of the n qubits (the empty set counts 1).  With two copies of the state it is a
probability: ``2^-n sum_a Tr rho_a^2 = <psi psi| prod_k (1 + SWAP_k)/2 |psi psi>``, that every qubit and its
copy are found in the symmetric subspace.

**Stabiliser Renyi entropy** of order 2 (Leone, Oliviero and Hamma, arXiv 2106.12587, eq. 4 and 6):

    M2 = -log2( 2^-n sum_P <P>^4 )

over all 4^n Pauli words; 0 exactly for stabiliser states.  It needs four copies.

Both take states as complex tensors of shape (batch, 2^n), qubit 0 most significant, and are differentiable;
what they return is float32 for complex64 states and float64 for complex128 ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MeasureName = Literal["concentratable-entanglement", "stabiliser-entropy"]


def n_qubits(states: Tensor) -> int:
    """Number of qubits of ``states`` (complex64 or complex128); raises ValueError unless the shape is (batch, 2^n)."""
    n = int(states.shape[-1]).bit_length() - 1
    if states.ndim != 2 or states.shape[1] != 2**n:
        raise ValueError(f"states have shape {tuple(states.shape)}, not (batch, 2^n)")
    return n


def concentratable_entanglement(states: Tensor) -> Tensor:
    """C of every state, float32 or float64 of shape (batch,); between 0 (product states) and less than 1."""
    n = n_qubits(states)
    # Symmetric subspace of a qubit and its copy: |00>, |11>, (|01> + |10>)/sqrt 2.
    amplitudes = (states[:, :, None] * states[:, None, :]).reshape(len(states), *(2,) * (2 * n))
    for qubit in range(n):
        pair = amplitudes.movedim((1, 1 + n - qubit), (-2, -1))
        first, middle, last = pair[..., 0, 0], (pair[..., 0, 1] + pair[..., 1, 0]) * 0.5**0.5, pair[..., 1, 1]
        amplitudes = torch.stack([first, middle, last], -1)
    return 1 - torch.view_as_real(amplitudes.reshape(len(states), -1).contiguous()).square().sum((1, 2))


def squared_pauli_expectations(states: Tensor) -> Tensor:
    """``<P>^2`` for all Pauli words, float32 or float64 of shape (batch, 4^n): axis index ``f 2^n + z`` with bit masks f and z.

    For every flip mask f the expectation values of all words that flip f are, up to a phase, the
    Walsh-Hadamard transform of ``conj(psi[x xor f]) psi[x]`` over x.
    """
    n = n_qubits(states)
    x = torch.arange(2**n)
    flipped = states[:, x[:, None] ^ x[None, :]]  # (batch, f, x)
    products = (flipped.conj() * states[:, None, :]).reshape(len(states), 2**n, *(2,) * n)
    for qubit in range(n):
        zero, one = products.select(2 + qubit, 0), products.select(2 + qubit, 1)
        products = torch.stack([zero + one, zero - one], 2 + qubit)
    return torch.view_as_real(products.reshape(len(states), 4**n).contiguous()).square().sum(-1)


def stabiliser_entropy(states: Tensor) -> Tensor:
    """M2 of every state in bits, float32 or float64 of shape (batch,); 0 for stabiliser states."""
    n = n_qubits(states)
    return n - torch.log2(squared_pauli_expectations(states).square().sum(1))


def measure(name: MeasureName, states: Tensor) -> Tensor:
    """The measure called ``name`` of every state, float32 or float64 of shape (batch,)."""
    if name == "concentratable-entanglement":
        return concentratable_entanglement(states)
    return stabiliser_entropy(states)
