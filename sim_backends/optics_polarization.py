"""Polarisation in the loop: what polarisers take of light that fibre has turned.

Polarisers stand at both ends of the loop and at the modulator of every station that is taken in.  From one to the next, a
*gap*, fibre turns the polarisation, and a controller can turn it back: the relay's at the end where clockwise light
enters, a user's inside the station where clockwise light leaves it, bypassed together with it.  So each gap holds one
controller, that of the place where it begins for clockwise light.

Matrices are Jones matrices (complex128 of shape (2, 2), unitary, the polarisers' axis H first) for clockwise light;
counter-clockwise light meets the transposed one (reciprocity, e.g. Vansteenkiste, Vignolo and Aspect, J. Opt. Soc. Am. A
10, 2240 (1993)), of which H to H is the same number: a gap loses equally both ways, shifts no phase between them, and
leaves both in one mode.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sim_backends.optics_parts import require

Jones = npt.NDArray[np.complex128]
"""A complex128 array of shape (2, 2), unitary; the polarisers' axis first."""

RELAY = "relay"
"""The place of the relay's controller; a user's is called by the user's name."""
NOT_TURNED: Jones = np.eye(2, dtype=np.complex128)
UNITARY_WITHIN = 1e-6


def turned(x_rad: float, y_rad: float, z_rad: float) -> Jones:
    """The rotation about the axis (x, y, z) by as many radians of the Poincare sphere as it is long; z keeps H and V.

    exp(-i (x s_x + y s_y + z s_z) / 2) with the Pauli matrices s, which are hermitian and square to 1.
    """
    angle = math.hypot(x_rad, y_rad, z_rad)
    sine = math.sin(angle / 2) / angle if angle else 0.5
    x, y, z, w = x_rad * sine, y_rad * sine, z_rad * sine, math.cos(angle / 2)
    return np.array([[w - 1j * z, -y - 1j * x], [y - 1j * x, w + 1j * z]], np.complex128)


def as_fibre_lies(rng: np.random.Generator) -> Jones:
    """Any rotation, all equally likely: a uniformly distributed unit quaternion."""
    a, b, c, d = (drawn := rng.normal(size=4)) / np.linalg.norm(drawn)
    return np.array([[a + 1j * b, c + 1j * d], [-c + 1j * d, a - 1j * b]], np.complex128)


def checked(jones: Jones) -> Jones:
    """A controller's matrix as a copy; ValueError for one that is none."""
    matrix: Jones = np.array(jones, np.complex128)
    require(matrix.shape == (2, 2), "a Jones matrix has the shape (2, 2)", matrix.shape)
    off = float(np.abs(matrix @ matrix.conj().T - NOT_TURNED).max())
    require(off <= UNITARY_WITHIN, "a controller turns and loses nothing: its matrix is unitary", matrix)
    return matrix


def gap_transmissions(
    stretches: Sequence[Jones],
    places: Sequence[str],
    taken_in: Sequence[bool],
    controllers: Mapping[str, Jones],
) -> tuple[float, ...]:
    """Power that passes each gap, in clockwise order; one gap more than stations are taken in.

    ``stretches`` are the pieces of fibre between neighbouring stations, the loop's ends included; ``places`` and
    ``taken_in`` are of the stations.  A place without a controller turns nothing.
    """
    passed = []
    state = controllers.get(RELAY, NOT_TURNED)[:, 0]
    for stretch, place, is_in in zip(stretches, (*places, RELAY), (*taken_in, True), strict=True):
        state = stretch @ state
        if is_in:
            passed.append(float(abs(state[0]) ** 2))
            state = controllers.get(place, NOT_TURNED)[:, 0]
    return tuple(passed)
