"""Thresholds T and U of LightSecAgg and the prime p of a run, from its public settings; :mod:`fl.modes.shares` says why.

Plain arithmetic, so that whoever only reads settings loads no kernels.
"""

from __future__ import annotations

from fl.modes.primes import MAX_MODULUS_BITS, FieldError, smallest_prime_above, symbol_bits


class ShareCodeError(ValueError):
    """Public parameters under which the masks would not be private, or their sum not decodable."""


def check_thresholds(n_clients: int, colluders: int, survivors: int) -> None:
    """Raise ShareCodeError unless ``0 <= T <= N-2``, ``T < U <= N`` and ``2 U > N + T``."""
    if n_clients < 2:
        raise ShareCodeError(f"secure aggregation needs at least two clients, got N = {n_clients}")
    if not 0 <= colluders <= n_clients - 2:
        raise ShareCodeError(
            f"T = {colluders} colluders among N = {n_clients} clients: T is 0 to {n_clients - 2}, or the sum"
            " of those left is one client's update"
        )
    fewest = fewest_survivors(n_clients, colluders)
    if survivors > n_clients or survivors < fewest:
        largest = most_colluders(n_clients, survivors)
        other = f", or T at most {largest} for U = {survivors}" if 0 <= largest < survivors else ""
        raise ShareCodeError(
            f"U = {survivors} survivors of N = {n_clients} clients with T = {colluders} colluders: T < U <= N"
            f" and 2 U > N + T are needed, or a server that announces two lists of survivors could decode"
            f" both; use U = {fewest} to {n_clients}{other}"
        )


def fewest_survivors(n_clients: int, colluders: int) -> int:
    """The smallest U with ``2 U > N + T``; it exceeds T because T < N."""
    return (n_clients + colluders) // 2 + 1


def most_colluders(n_clients: int, survivors: int) -> int:
    """The largest T that U allows, ``min(N - 2, 2 U - N - 1)``; negative where U allows none at all."""
    return min(n_clients - 2, 2 * survivors - n_clients - 1) if survivors <= n_clients else -1


def default_thresholds(n_clients: int) -> tuple[int, int]:
    """(T, U): half of the clients may collude, or as many as leave room for one drop-out; U is least.

    Three clients tolerate one colluder and no drop-out; two, neither.
    """
    if n_clients < 2:
        raise ShareCodeError(f"secure aggregation needs at least two clients, got N = {n_clients}")
    colluders = max(min(n_clients // 2, n_clients - 3), min(1, n_clients - 2))
    return colluders, fewest_survivors(n_clients, colluders)


def choose_thresholds(n_clients: int, colluders: int = 0, survivors: int = 0) -> tuple[int, int]:
    """(T, U), with 0 for what is to be chosen: the least U for a given T, the most T for a given U.

    What was given is kept as it is, for :func:`check_thresholds` to judge.
    """
    if survivors:
        return colluders or max(0, most_colluders(n_clients, survivors)), survivors
    if colluders:
        return colluders, fewest_survivors(n_clients, colluders)
    return default_thresholds(n_clients)


def smallest_modulus(levels: int, weight_sum: int) -> int:
    """The prime p of a run: the smallest above ``sum(w) (2 L + 1)``, unless that costs a bit more than it must.

    With k bits per value, ``2 L + 1 = 2^k - 1``, this is the rule of docs/formulas.md: 1021, 12757 and 51001
    for k = 8 and 4, 50 and 200 clients.  The sum takes only the ``2 L sum(w) + 1`` values from ``-L sum(w)`` to
    ``L sum(w)``; where a prime just above these has fewer bits, it is taken: 2003 and not 2203 for L = 5 and
    200 clients, so that a symbol is as wide as the ring width of pairwise pads, 11 bits.
    """
    if levels < 1 or weight_sum < 1:
        raise ShareCodeError(f"levels and weights are positive, got L = {levels}, sum(w) = {weight_sum}")
    try:
        usual = smallest_prime_above(weight_sum * (2 * levels + 1))
        least = smallest_prime_above(2 * levels * weight_sum)
    except FieldError as error:
        raise ShareCodeError(
            f"L = {levels} levels with weights that sum to {weight_sum} need a field of more than"
            f" {MAX_MODULUS_BITS} bits; use fewer levels or smaller weights"
        ) from error
    return least if symbol_bits(least) < symbol_bits(usual) else usual
