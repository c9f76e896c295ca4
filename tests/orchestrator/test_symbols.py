"""From random bytes to symbols and drive voltages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.light.symbols import SymbolFrame, drive_table
from orchestrator.protocols.four_phase.symbols import FourPhases
from orchestrator.randomness import random_into

DRIVE = {"v_pi_v": 4.0, "rf_gain": 20.0, "amplitude_vpp": 0.5}


def seeded(seed: int):  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(seed)

    def fill(buffer: memoryview) -> None:
        buffer[:] = generator.bytes(len(buffer))

    return fill


@pytest.mark.parametrize("steps", [1, 64, 115, 127])
def test_p_x_is_exact_over_the_256_byte_values(steps: int) -> None:
    symbols = FourPhases(steps / 128)
    bases = symbols.labels(symbols.of_bytes)
    assert np.count_nonzero(bases == 0) == 2 * steps
    for basis in (0, 1):
        bits = symbols.bits(symbols.of_bytes[bases == basis])
        assert 2 * np.count_nonzero(bits) == bits.size


@pytest.mark.parametrize("p_x", [0.0, 1.0, 0.9, -0.5])
def test_a_p_x_that_one_byte_cannot_give_is_refused(p_x: float) -> None:
    with pytest.raises(ValueError, match="1/128"):
        _ = FourPhases(p_x).of_bytes


def test_the_drive_gives_the_phase_of_each_symbol() -> None:
    symbols = FourPhases(116 / 128)
    volts = drive_table(symbols, **DRIVE).astype(float) * DRIVE["amplitude_vpp"] / 2
    phase = math.pi * DRIVE["rf_gain"] * volts / DRIVE["v_pi_v"]
    assert np.allclose(phase, np.array(symbols.phases_rad)[symbols.of_bytes], atol=1e-6)
    with pytest.raises(ValueError, match=r"reaches 2\.\d* rad and the protocol needs 3\.142 rad"):
        drive_table(symbols, v_pi_v=6.0, rf_gain=20.0, amplitude_vpp=0.5)


@pytest.mark.parametrize("samples_per_slot", [2, 4])
@pytest.mark.parametrize("lead_samples", [0, 1, 7])
def test_a_user_drives_its_own_half_of_each_slot_only(samples_per_slot: int, lead_samples: int) -> None:
    symbols = FourPhases(0.75)
    drive = drive_table(symbols, **DRIVE)
    frame = SymbolFrame(64, symbols.of_bytes)
    frame.draw(seeded(1))
    out = np.zeros(lead_samples + 64 * samples_per_slot, np.float32)
    frame.write_waveform(drive, out, samples_per_slot=samples_per_slot, lead_samples=lead_samples)
    assert not out[:lead_samples].any()
    halves = out[lead_samples:].reshape(64, 2, samples_per_slot // 2)
    assert not halves[:, 1].any()
    codes = frame.at(np.arange(64, dtype=np.uint32))
    full_scale_rad = math.pi * DRIVE["rf_gain"] * DRIVE["amplitude_vpp"] / 2 / DRIVE["v_pi_v"]
    wanted = np.array(symbols.phases_rad)[codes] / full_scale_rad
    assert np.allclose(halves[:, 0], wanted[:, None], atol=1e-6)


@pytest.mark.parametrize("offset_rad", [0.001, -0.7, 3.0, -3.0])
def test_an_offset_turns_every_phase_alike_and_keeps_it_within_reach(offset_rad: float) -> None:
    symbols = FourPhases(0.75)
    full_scale_rad = math.pi * DRIVE["rf_gain"] * DRIVE["amplitude_vpp"] / 2 / DRIVE["v_pi_v"]
    plain, turned = (
        drive_table(symbols, **DRIVE, offset_rad=rad).astype(float) * full_scale_rad
        for rad in (0.0, offset_rad)
    )
    assert np.allclose(np.exp(1j * turned), np.exp(1j * (plain + offset_rad)), atol=1e-5)
    assert np.abs(turned).max() <= math.pi + 1e-6


def test_frames_are_fresh_and_erased_frames_are_empty() -> None:
    frame = SymbolFrame(4096, FourPhases(0.5).of_bytes)
    slots = np.arange(4096, dtype=np.uint32)
    frame.draw(random_into)
    first = frame.at(slots)
    frame.draw(random_into)
    assert np.mean(first != frame.at(slots)) > 0.7
    frame.erase()
    assert not frame.at(slots).any()
    assert "4096 slots" in repr(frame)
