"""Keys to applications over mutual TLS, as JSON: python tests/benchmarks/bench_key_delivery.py [SECONDS].

Two nodes with their stores, the hub between them and the client are four processes on this machine; the client keeps 32
connections alive and asks for one key of 256 bits at a time (``enc_keys_per_s``); then the other application fetches
every one of them (``dec_keys_per_s``), and both ends are compared.  ``tls_alone_per_s``: the same client and server with
requests for a status, which touch no key: what TLS and HTTP alone allow on this machine at this moment.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.helpers.key_nodes import KeyNodes, make

CONNECTIONS = 32


class Caller:
    """An application's keep-alive connections."""

    def __init__(self, folder: Path, sae: str, url: str) -> None:
        where = folder / "secrets" / f"sae-{sae}"
        self._tls = ssl.create_default_context(cafile=str(where / "ca.pem"))
        self._tls.load_cert_chain(where / "cert.pem", where / "key.pem")
        parts = urlsplit(url)
        self._host, self._port = str(parts.hostname), int(parts.port or 0)
        self.took_s: list[float] = []
        self.refused: list[str] = []

    async def run(self, asks: Iterator[str], until_s: float, got: Callable[[bytes], None]) -> None:
        """Ask on one connection until the time is over or there is nothing to ask."""
        reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        for path in asks:
            if time.monotonic() >= until_s:
                break
            begun = time.monotonic()
            writer.write(f"GET /api/v1/keys/{path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            self.took_s.append(time.monotonic() - begun)
            if b" 200 " in head.split(b"\r\n")[0]:
                got(body)
            else:
                self.refused.append(body.decode(errors="replace"))
        writer.close()


async def measured(
    caller: Caller, asks: Iterator[str], seconds: float, got: Callable[[bytes], None]
) -> float:
    """Answers in a second over 32 connections."""
    begun = time.monotonic()
    await asyncio.gather(*(caller.run(asks, begun + seconds, got) for _ in range(CONNECTIONS)))
    return (len(caller.took_s) - len(caller.refused)) / (time.monotonic() - begun)


def always(path: str) -> Iterator[str]:
    while True:
        yield path


def key_delivery(seconds: float = 10.0) -> dict[str, dict[str, object]]:
    """The figures; see the module text."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder, blocks=24, block_bytes=262144)
        with KeyNodes(folder) as nodes:
            return asyncio.run(_figures(nodes, seconds))


async def _figures(nodes: KeyNodes, seconds: float) -> dict[str, dict[str, object]]:
    def caller(sae: str, node: str) -> Caller:
        return Caller(nodes.folder, sae, nodes.urls[node])

    given: dict[str, str] = {}
    fetched: dict[str, str] = {}

    def keep(into: dict[str, str]) -> Callable[[bytes], None]:
        return lambda body: into.update({key["key_ID"]: key["key"] for key in json.loads(body)["keys"]})

    first = caller("app1", "alice")
    while first.refused or not first.took_s:  # until the two nodes have met
        first = caller("app1", "alice")
        await first.run(iter(["app2/enc_keys"]), time.monotonic() + 10, keep(given))
    alone = await measured(caller("app1", "alice"), always("app2/status"), seconds / 2, lambda body: None)
    master = caller("app1", "alice")
    enc = await measured(master, always("app2/enc_keys?size=256"), seconds, keep(given))
    slave = caller("app2", "bob")
    dec = await measured(slave, iter([f"app1/dec_keys?key_ID={key}" for key in given]), 600, keep(fetched))
    both = f"{len(given)} keys, each once at each end" if fetched == given else "THE TWO ENDS DIFFER"
    conditions = {"connections": CONNECTIONS, "keys": both, "refused": len(master.refused + slave.refused)}
    milliseconds = statistics.median(master.took_s) * 1e3
    return {
        "enc_keys_per_s": {"value": enc, "unit": "requests/s", "median_ms": milliseconds, **conditions},
        "dec_keys_per_s": {"value": dec, "unit": "requests/s", **conditions},
        "tls_alone_per_s": {"value": alone, "unit": "requests/s", "connections": CONNECTIONS},
    }


if __name__ == "__main__":
    print(json.dumps(key_delivery(*(float(each) for each in sys.argv[1:])), indent=2))
