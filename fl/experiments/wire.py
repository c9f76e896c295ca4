"""What one round of a mode costs on the wire and in key, from the settings alone.

The figures are those of FL.md 1: ``d b`` bits of key per pair for pairwise pads, ``2 ceil(d / (U - T))
ceil(log2 p)`` for LightSecAgg, 256 for expanded keys, none for plain sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from fl.compression import Compression
from fl.config import FLConfig
from orchestrator.delivery.messages import EXPANSION_KEY_BITS


@dataclass(frozen=True)
class WireCosts:
    """``wire_bits`` is the width of one packed value of an upload."""

    wire_bits: int
    key_bits_per_pair: int


def wire_costs(config: FLConfig, n_parameters: int) -> WireCosts:
    """The costs of a round with all clients; raises ShareCodeError for thresholds that cannot work."""
    n_values = Compression.from_config(config).n_values(n_parameters)
    if config.mode == "otp":
        return WireCosts(config.ring_bits, n_values * config.ring_bits)
    if config.mode == "expanded":
        return WireCosts(config.ring_bits, EXPANSION_KEY_BITS)
    if config.mode == "plain":
        return WireCosts(config.ring_bits, 0)
    from fl.aggregation.shares import ShareCode, smallest_modulus

    colluders, survivors = config.thresholds
    modulus = smallest_modulus(config.levels, sum(config.weights) or config.n_clients)
    code = ShareCode(config.n_clients, colluders, survivors, n_values, modulus)
    return WireCosts(code.symbol_bits, code.key_bits_per_pair)
