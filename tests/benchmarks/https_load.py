"""Applications that ask over mutual TLS as fast as they are answered: 32 connections that stay open, in one process.

``python https_load.py URL PATH CERTIFICATE KEY AUTHORITY SECONDS [CONNECTIONS]`` prints a line of JSON: requests in a second,
the median and the 99th percentile of their times, and how many were answered otherwise than 200.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from urllib.parse import urlsplit

CONNECTIONS = 32


async def ask(
    where: tuple[str, int], context: ssl.SSLContext, path: str, end_s: float
) -> list[tuple[int, float]]:
    """(status, seconds) of every request on one connection until ``end_s`` of the monotonic clock."""
    reader, writer = await asyncio.open_connection(*where, ssl=context)
    request = f"GET {path} HTTP/1.1\r\nHost: {where[0]}\r\n\r\n".encode()
    found = []
    while (begun_s := time.monotonic()) < end_s:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))
        found.append((int(head.split(None, 2)[1]), time.monotonic() - begun_s))
    writer.close()
    return found


async def load(
    url: str,
    path: str,
    certificate: str,
    key: str,
    authority: str,
    seconds: float,
    connections: int = CONNECTIONS,
) -> dict[str, float]:
    """The figures of so many connections over so many seconds."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    split = urlsplit(url)
    assert split.hostname
    assert split.port
    where = (split.hostname, split.port)
    end_s = time.monotonic() + seconds
    every = await asyncio.gather(*(ask(where, context, path, end_s) for _ in range(connections)))
    times = sorted(took for one in every for _, took in one)
    return {
        "requests_per_s": len(times) / seconds,
        "median_ms": 1e3 * times[len(times) // 2],
        "slowest_percent_ms": 1e3 * times[int(0.99 * len(times))],
        "otherwise": sum(status != 200 for one in every for status, _ in one),
    }


def main(
    url: str, path: str, certificate: str, key: str, authority: str, seconds: str, connections: str = "32"
) -> None:
    print(
        json.dumps(
            asyncio.run(load(url, path, certificate, key, authority, float(seconds), int(connections)))
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
