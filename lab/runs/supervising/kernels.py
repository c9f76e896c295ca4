"""Compile every numerical kernel once, so that a dozen processes start from the cache instead of compiling.

A kernel is compiled at its first call with arguments of each type; the calls here are the smallest that use
the types of a real run.  With a warm cache this takes about a second.
"""

from __future__ import annotations

import numpy as np


def compile_all() -> None:
    """Fill the on-disk cache of every kernel that a run needs."""
    from fl.modes.field import compile_kernels as compile_field
    from orchestrator.light.symbols import compile_kernels as compile_symbols
    from orchestrator.postprocessing.cascade import compile_kernels as compile_cascade

    compile_symbols()
    compile_cascade()
    compile_field()
    _compile_masking()
    _compile_light()


def _compile_masking() -> None:
    from orchestrator.delivery.masking import mask, pack_values, unpack_values

    values = np.zeros(8, np.int64)
    pad = pack_values(values, 10)
    mask(values, [pad, pad], [1, -1], 10, weight=2)
    unpack_values(pad, 8, 10)


def _compile_light() -> None:
    """A dark ring: the kernel is the same, whatever the light and the waveforms."""
    from lab.runs.testbeds.folder import template_path
    from lab.testbed import load_testbed
    from sim_backends.optics_hidden import ring_of

    ring_of(load_testbed(template_path("simulated-four-node"))).expose({}, 0, seed=0)
