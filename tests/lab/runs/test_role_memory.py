"""Memory of the roles that work block by block."""

from __future__ import annotations

import subprocess
import sys

import pytest

THREADS = 16
HEAPS = f"""
import ctypes, threading
ready, done = threading.Barrier({THREADS + 1}), threading.Event()
def hold():
    kept = [bytearray(n) for n in range(600, 2000)]
    ready.wait(); done.wait()
threads = [threading.Thread(target=hold) for _ in range({THREADS})]
for thread in threads: thread.start()
ready.wait()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
done.set()
"""


def heaps(before: str) -> int:
    """How many heaps a fresh process of sixteen threads has, by malloc_info(3)."""
    command = [sys.executable, "-c", before + HEAPS]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return told.count("<heap nr=")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="heaps of glibc")
def test_threads_share_two_heaps() -> None:
    if heaps("") <= 2:
        pytest.skip("this C library gives threads no heaps of their own")
    assert heaps("from lab.runs.roles.memory import share_heaps; share_heaps()\n") == 2
