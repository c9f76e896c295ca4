"""Compile every numerical kernel once, so that a dozen processes start from the cache instead of compiling.

A kernel is compiled at its first call with arguments of each type; the calls here are the smallest that use
the types of a real run.  With a warm cache this takes about a second.
"""

from __future__ import annotations

import numpy as np


def compile_all() -> None:
    """Fill the on-disk cache of every kernel that a run needs."""
    from fl.modes.field import compile_kernels as compile_field
    from orchestrator.delivery.masking import mask_benchmark, pack_values, unpack_values
    from orchestrator.light.symbols import SymbolFrame, drive_table, symbol_table
    from orchestrator.postprocessing.cascade import compile_kernels
    from orchestrator.randomness import random_into
    from sim_backends.optics_bench import compile_kernels as compile_optics

    compile_kernels()
    compile_optics()
    compile_field()
    mask_benchmark(1000)
    unpack_values(pack_values(np.zeros(8, np.int64), 10), 8, 10)
    table = symbol_table(0.75)
    drive = drive_table(table, v_pi_v=4.0, rf_gain=20.0, amplitude_vpp=0.5)
    frame = SymbolFrame(64, table)
    frame.draw(random_into)
    for samples_per_slot in (2, 4):
        out = np.zeros(64 * samples_per_slot, np.float32)
        frame.write_waveform(drive, out, samples_per_slot=samples_per_slot, gate=0)
