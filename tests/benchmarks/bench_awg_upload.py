"""Upload rate from the AWG driver to the simulated AWG, one stream and two at once.

Run: python tests/benchmarks/bench_awg_upload.py [--samples 8388608] [--frames 20]

The simulated generators live in one process (as in ``qunetlab simulate``), each driver in its own.  A frame is
uploaded, armed, triggered and checked for extra triggers, so the figure is that of the whole cycle; the
upload alone is printed beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from drivers.modulators.tektronix_awg70002a import AWG70002A
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin


def simulate(pipes: list[Connection]) -> None:
    """Serve one twin per pipe; each message on a pipe is a trigger, answered with the samples played."""
    twins = [AWG70002ATwin() for _ in pipes]
    waiting: dict[Any, AWG70002ATwin] = {}
    for pipe, twin in zip(pipes, twins, strict=True):
        pipe.send(twin.serve("127.0.0.1", 0))
        waiting[pipe] = twin
    while waiting:
        for ready in mp.connection.wait(list(waiting)):
            assert isinstance(ready, Connection)
            if ready.recv() is None:
                del waiting[ready]
                continue
            played = waiting[ready].trigger()
            ready.send(0 if played is None else played[1].samples.size)


def stream(pipe: Connection, results: Connection, n_samples: int, n_frames: int) -> None:
    """Upload, arm, trigger, check ``n_frames`` times; sends (seconds uploading, seconds in all)."""
    awg = AWG70002A(f"awg{os.getpid()}", pipe.recv())
    awg.connect()
    awg.configure(2.5e9, 0.5)
    awg.prepare(n_samples)
    samples = np.random.default_rng(0).uniform(-1, 1, n_samples).astype(np.float32)
    awg.upload(0, samples)
    uploading_s = 0.0
    started = time.perf_counter()
    for number in range(n_frames):
        buffer: Any = number % 2
        before = time.perf_counter()
        awg.upload(buffer, samples)
        uploading_s += time.perf_counter() - before
        awg.arm(buffer)
        pipe.send("trigger")
        assert pipe.recv() == n_samples
        assert not awg.extra_trigger_seen()
    results.send((uploading_s, time.perf_counter() - started))
    awg.safe_state()
    awg.close()
    pipe.send(None)


def run(n_streams: int, n_samples: int, n_frames: int) -> None:
    """One simulator process, ``n_streams`` driver processes."""
    context = mp.get_context("spawn")
    pipes = [context.Pipe() for _ in range(n_streams)]
    outcomes = [context.Pipe() for _ in range(n_streams)]
    processes = [context.Process(target=simulate, args=([there for there, _ in pipes],), daemon=True)]
    for (_, here), (_, result) in zip(pipes, outcomes, strict=True):
        processes.append(
            context.Process(target=stream, args=(here, result, n_samples, n_frames), daemon=True)
        )
    for process in processes:
        process.start()
    n_bytes = 4 * n_samples * n_frames
    for number, (receive, _) in enumerate(outcomes):
        uploading_s, total_s = receive.recv()
        print(
            f"{n_streams} stream(s), {n_samples} samples, stream {number}: "
            f"upload {n_bytes / uploading_s / 1e6:.0f} MB/s, "
            f"whole cycle {n_bytes / total_s / 1e6:.0f} MB/s = {n_frames / total_s:.1f} frames/s"
        )
    for process in processes[1:]:
        process.join()
    processes[0].terminate()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1 << 23)
    parser.add_argument("--frames", type=int, default=20)
    options = parser.parse_args()
    for n_streams in (1, 2):
        run(n_streams, options.samples, options.frames)


if __name__ == "__main__":
    main()
