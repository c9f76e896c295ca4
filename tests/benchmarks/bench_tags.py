"""Rate of time tags from the simulated ID900 through the DataLinkTarget service to the driver's array.

Run: python tests/benchmarks/bench_tags.py [--tags 5000000] [--records 10]

The simulated instrument lives in one process, the driver in another.  A record is played and every tag of one channel
read; the figures are medians over the records: of reading alone, from the end of the record, and of the whole cycle.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import random
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np

from drivers.timetaggers.id900 import ID900
from sim_backends.timetaggers.id900 import ID900Twin

DURATION_PS = 10**12


def simulate(pipe: Connection, n_tags: int) -> None:
    """Serve one tagger with ``n_tags`` evenly spaced clicks per record on channel 1, until told to end."""
    clicks = np.linspace(0, DURATION_PS - 1, n_tags).astype(np.uint64)
    twin = ID900Twin(on_record=lambda duration_ps, index: {1: clicks}, scpi_port=0, dlt_port=0)
    pick = random.SystemRandom().randint
    address = twin.serve(f"127.{pick(1, 250)}.{pick(1, 250)}.{pick(1, 250)}")
    pipe.send((address, twin.dlt_address))
    pipe.recv()
    twin.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=5_000_000)
    parser.add_argument("--records", type=int, default=10)
    options = parser.parse_args()
    context = mp.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=simulate, args=(there, options.tags), daemon=True)
    process.start()
    address, dlt_address = here.recv()
    tagger = ID900("tagger", address, dlt_address=dlt_address, timeout_s=10.0, transfer_timeout_s=60.0)
    tagger.connect()
    tagger.configure([1], 0.1)
    tagger.start_streams([1])
    reading_s, cycle_s = [], []
    for _ in range(options.records):
        begun = time.perf_counter()
        tagger.play_record(DURATION_PS)
        while tagger.record_playing():
            time.sleep(1e-3)
        ended = time.perf_counter()
        tags = tagger.read_tags(1)
        reading_s.append(time.perf_counter() - ended)
        cycle_s.append(time.perf_counter() - begun)
        assert tags.shape == (options.tags, 2)
    tagger.safe_state()
    tagger.close()
    here.send(None)
    process.join(10)
    print(
        f"{options.records} records of {options.tags} tags: "
        f"read {options.tags / statistics.median(reading_s) / 1e6:.0f} million/s, "
        f"played and read {options.tags / statistics.median(cycle_s) / 1e6:.0f} million/s"
    )


if __name__ == "__main__":
    main()
