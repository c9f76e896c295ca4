"""32 applications' connections at once, two nodes with real stores between them: each key once at each end, and alike."""

from __future__ import annotations

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from served_keys import ServedKeys, served_keys

CONNECTIONS = 32
EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "scripts" / "draw_keys.py"


@pytest.mark.parametrize("requests", [4, pytest.param(60, marks=pytest.mark.long)])
def test_each_key_is_delivered_once_at_each_end(tmp_path: Path, requests: int) -> None:
    application = runpy.run_path(str(EXAMPLE))["Application"]

    def draw_and_fetch(served: ServedKeys, number: int) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """One master and its slave, who asks for each batch when the master has it."""
        master = application(served.alice, served.secrets / "sae-app1")
        slave = application(served.bob, served.secrets / "sae-app2")
        given: dict[str, bytes] = {}
        fetched: dict[str, bytes] = {}
        for turn in range(requests):
            keys = master.fresh_keys("app2", 1 + (number + turn) % 3, 64 * (1 + turn % 2))
            given |= keys
            fetched |= slave.keys_of("app1", list(keys))
            with pytest.raises(RuntimeError, match="400: one or more keys specified are not found on KME"):
                slave.keys_of("app1", list(keys)[:1])
        return given, fetched

    with (
        served_keys(tmp_path, blocks=16) as served,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        found = [*pool.map(lambda number: draw_and_fetch(served, number), range(CONNECTIONS))]
    every: dict[str, bytes] = {}
    for given, fetched in found:
        assert given == fetched
        assert not every.keys() & given.keys()
        every |= given
    assert len(set(every.values())) == len(every) >= CONNECTIONS * requests
