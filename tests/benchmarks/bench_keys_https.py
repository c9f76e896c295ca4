"""Keys drawn over HTTPS by 32 connections at once, one a request: store and peer's node included.

Both nodes run in one process here, so that each has half of what it would have alone; the applications run in another one.
``python bench_keys_https.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from https_load import CONNECTIONS
from measuring import Figure, emit
from served_keys import served_keys

LOAD = Path(__file__).with_name("https_load.py")


def keys_over_https(seconds: float = 5.0, connections: int = CONNECTIONS) -> Figure:
    """Requests in a second, each for one key of 256 bits, and the time of the slowest hundredth."""
    with (
        tempfile.TemporaryDirectory() as place,
        served_keys(Path(place), blocks=64, max_waiting_keys=10**6) as served,
    ):
        asked = [served.alice, "/api/v1/keys/app2/enc_keys", *served.files("app1")]
        ran = subprocess.run(
            [sys.executable, str(LOAD), *asked, str(seconds), str(connections)],
            capture_output=True,
            text=True,
            check=True,
        )
    found = json.loads(ran.stdout)
    return {
        "value": found["requests_per_s"],
        "unit": "requests/s",
        "connections": connections,
        "seconds": seconds,
        "median_ms": found["median_ms"],
        "slowest_percent_ms": found["slowest_percent_ms"],
        "otherwise": found["otherwise"],
        "checks_passed": found["otherwise"] == 0,
    }


if __name__ == "__main__":
    emit("keys over HTTPS, mutual TLS 1.3, store and peer included", **keys_over_https())
