"""Servers that could carry keys over mutual TLS, side by side: what each tells of its callers, bears of them, and its rate.

``python https_servers.py``: each server answers the same small JSON, in a process of its own, one worker, TLS 1.3 with a
client certificate demanded; where it has a limit or a time-out, it is set near 2 s, 16 KiB of header and 64 KiB of body.  Then
it is probed by hand-made bytes and asked by 32 connections that stay open (:mod:`https_load`), all in one run on one machine.
Those that are not installed are left out: ``pip install hypercorn aiohttp granian zttp``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parents[2])]

ANSWER = json.dumps({"message": "x" * 180}).encode()
DEADLINE_S = 2
WAIT_S = 8.0
HEADER_BYTES, BODY_BYTES = 16384, 65536
SECONDS = 5.0


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The same answer for all, and in a header the names that the server found in the certificate."""
    if scope["type"] != "http":
        return
    n_bytes, more = 0, True
    while more:
        event = await receive()
        n_bytes, more = n_bytes + len(event.get("body", b"")), event.get("more_body", False)
        if event["type"] == "http.disconnect":
            return
    told = scope.get("extensions", {}).get("tls", {}).get("client_cert_name") or ""
    headers = [(b"content-length", str(len(ANSWER)).encode()), (b"x-name", str(told).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


def serve_ours(folder: Path, port: int) -> None:
    from key_desks_in_memory import linked_desks

    from orchestrator.delivery.certificates import NodeCertificates
    from orchestrator.delivery.http.limits import Limits
    from orchestrator.delivery.http.server import KeyServer

    limits = Limits(header_s=DEADLINE_S, body_s=DEADLINE_S, body_bytes=BODY_BYTES)
    certificates = NodeCertificates.load(folder, "alice")
    server = KeyServer(
        linked_desks()[0], certificates=certificates, known=bool, listen=f"127.0.0.1:{port}", limits=limits
    )
    server.start()
    while True:
        time.sleep(60)


def serve_aiohttp(folder: Path, port: int) -> None:
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        async with asyncio.timeout(DEADLINE_S):
            await request.read()
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        return web.Response(
            body=ANSWER, headers={"x-name": str(dict(part[0] for part in subject)["commonName"])}
        )

    application = web.Application(client_max_size=BODY_BYTES)
    application.router.add_route("*", "/{path:.*}", answer)
    web.run_app(
        application, host="127.0.0.1", port=port, ssl_context=context_of(folder), keepalive_timeout=60, print=None,
        access_log=None,
    )  # fmt: skip


def serve_hypercorn(folder: Path, port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = str(folder / "kme-cert.pem"), str(folder / "kme-key.pem")
    config.ca_certs, config.verify_mode = str(folder / "kme-ca.pem"), ssl.CERT_REQUIRED
    config.h11_max_incomplete_size, config.read_timeout, config.keep_alive_timeout = (
        HEADER_BYTES,
        DEADLINE_S,
        60,
    )
    config.alpn_protocols, config.keep_alive_max_requests = ["http/1.1"], 10**9
    asyncio.run(serve(asgi, config))  # type: ignore[arg-type]


def serve_granian(folder: Path, port: int) -> None:
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.server.embed import Server

    server = Server(
        asgi, address="127.0.0.1", port=port, interface=Interfaces.ASGI, http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=1000 * DEADLINE_S, max_buffer_size=HEADER_BYTES),
        ssl_cert=folder / "kme-cert.pem", ssl_key=folder / "kme-key.pem", ssl_ca=folder / "kme-ca.pem",
        ssl_client_verify=True, log_enabled=False,
    )  # fmt: skip
    asyncio.run(server.serve())


def uvicorn_config(folder: Path, port: int, **more: Any) -> Any:
    import uvicorn

    config = uvicorn.Config(
        asgi, host="127.0.0.1", port=port, log_level="error", access_log=False, timeout_keep_alive=60,
        h11_max_incomplete_event_size=HEADER_BYTES, ssl_certfile=str(folder / "kme-cert.pem"),
        ssl_keyfile=str(folder / "kme-key.pem"), ssl_ca_certs=str(folder / "kme-ca.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED, **more,
    )  # fmt: skip
    config.load()
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


def serve_uvicorn(folder: Path, port: int) -> None:
    import uvicorn

    uvicorn.Server(uvicorn_config(folder, port, http="httptools", loop="asyncio")).run()


def serve_uvicorn_with_zttp(folder: Path, port: int) -> None:
    import uvicorn

    uvicorn.Server(uvicorn_config(folder, port, http="zttp", loop="asyncio")).run()


def serve_uvicorn_with_a_layer(folder: Path, port: int) -> None:
    """Its h11 protocol under a layer of ours, over names that it does not promise: app, cycle, transport."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Layer(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            subject = transport.get_extra_info("peercert")["subject"]
            name, inner = dict(part[0] for part in subject)["commonName"], self.app
            self.deadline = self.loop.call_later(DEADLINE_S, transport.close)
            self.in_header = True

            async def named(scope: Any, receive: Any, send: Any) -> None:
                self.deadline.cancel()
                self.in_header = False
                scope.setdefault("extensions", {})["tls"] = {"client_cert_name": name}
                async with asyncio.timeout(DEADLINE_S):
                    await inner(scope, receive, send)

            self.app = named  # type: ignore[assignment]

        def data_received(self, data: bytes) -> None:
            if not self.in_header and (self.cycle is None or self.cycle.response_complete):
                self.deadline = self.loop.call_later(DEADLINE_S, self.transport.close)
                self.in_header = True
            super().data_received(data)

    uvicorn.Server(uvicorn_config(folder, port, http=Layer, loop="asyncio")).run()


SERVERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "this project": ("h11", serve_ours),
    "aiohttp.web": ("aiohttp", serve_aiohttp),
    "hypercorn": ("hypercorn", serve_hypercorn),
    "granian": ("granian", serve_granian),
    "uvicorn": ("uvicorn", serve_uvicorn),
    "uvicorn, zttp": ("zttp", serve_uvicorn_with_zttp),
    "uvicorn, a layer": ("uvicorn", serve_uvicorn_with_a_layer),
}


def context_of(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.verify_mode = ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "kme-cert.pem", folder / "kme-key.pem")
    context.load_verify_locations(folder / "kme-ca.pem")
    return context


class Probe:
    """An application that sends what it likes, byte by byte."""

    def __init__(self, port: int, context: ssl.SSLContext, path: str) -> None:
        self._port, self._context = port, context
        self._get = f"GET {path} HTTP/1.1\r\nHost: kme\r\n"
        self._post = f"POST {path} HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\n"

    def _open(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=WAIT_S)
        return self._context.wrap_socket(plain, server_hostname="localhost")

    def said(self, data: bytes, piece: bytes = b"", wait_s: float = WAIT_S) -> str:
        """The status that ``data`` gets, "closed", or "kept" where nothing came; ``piece`` trickles in meanwhile."""
        with self._open() as secured:
            begun_s = time.monotonic()
            try:
                secured.sendall(data)
                secured.settimeout(0.25)
                while time.monotonic() - begun_s < wait_s:
                    try:
                        answer = secured.recv(65536)
                    except TimeoutError:
                        secured.sendall(piece)
                        continue
                    took = f" after {time.monotonic() - begun_s:.0f} s" if piece else ""
                    return (answer.split()[1].decode() if answer else "closed") + took
            except OSError:
                return "closed" + (f" after {time.monotonic() - begun_s:.0f} s" if piece else "")
        return "kept"

    def pipelined(self) -> str:
        with self._open() as secured:
            secured.sendall((self._get + "\r\n").encode() * 20)
            secured.settimeout(WAIT_S)
            found = b""
            try:
                while found.count(b"HTTP/1.1 200") < 20 and (data := secured.recv(65536)):
                    found += data
            except OSError:
                pass
        return f"{found.count(b'HTTP/1.1 200')} of 20"

    def name(self) -> str:
        """Whether the application behind the server knows the name in the certificate."""
        with self._open() as secured:
            secured.sendall((self._get + "\r\n").encode())
            answer = secured.recv(65536)
        return "yes" if b"app1" in answer else "no"

    def all(self) -> dict[str, str]:
        """Every probe by its name."""
        lines = "".join(f"X-{i}: a\r\n" for i in range(400))
        return {
            "certificate": self.name(),
            "slow header": self.said(self._get.encode(), b"X: y\r\n"),
            "slow body": self.said((self._post + "Content-Length: 5000\r\n\r\n").encode(), b" "),
            "header of 80 KB": self.said(f"{self._get}X: {'a' * 80_000}\r\n\r\n".encode()),
            "400 lines": self.said(f"{self._get}{lines}\r\n".encode()),
            "body of 2 MB": self.said(
                (self._post + "Content-Length: 2000000\r\n\r\n").encode() + b" " * 2_000_000
            ),
            "pipelining": self.pipelined(),
        }


def measured(name: str, authority: Any, folder: Path, application: Any) -> dict[str, str]:
    """A row of the table for the server of that name."""
    from own_certificates import client_context

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, __file__, name, str(folder), str(port)], stderr=subprocess.DEVNULL
    )
    path = "/api/v1/keys/app2/status"
    try:
        probe = Probe(port, client_context(authority.ca, application), path)
        end_s = time.monotonic() + 20
        while True:
            try:
                probe.name()
                break
            except OSError:
                if time.monotonic() > end_s:
                    return {"certificate": "did not start"}
                time.sleep(0.1)
        found = probe.all()
        files = (str(each) for each in (application.certificate, application.key, authority.ca))
        script = str(Path(__file__).with_name("https_load.py"))
        ran = subprocess.run(
            [sys.executable, script, f"https://localhost:{port}", path, *files, str(SECONDS)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        figures = json.loads(ran.stdout) if ran.returncode == 0 else None
        found["requests/s"] = f"{figures['requests_per_s']:.0f}" if figures else "failed"
        found["p99 ms"] = f"{figures['slowest_percent_ms']:.0f}" if figures else "-"
        return found
    finally:
        child.kill()
        child.wait()


def main() -> None:
    from own_certificates import Authority

    with tempfile.TemporaryDirectory() as place:
        authority = Authority(Path(place))
        folder, application = authority.node("alice"), authority.sae("app1")
        shown = False
        for name, (package, _) in SERVERS.items():
            if importlib.util.find_spec(package) is None:
                print(f"{name}: not installed")
                continue
            row = measured(name, authority, folder, application)
            if not shown:
                print("| server | " + " | ".join(row) + " |\n|" + "---|" * (len(row) + 1))
                shown = True
            print(f"| {name} | " + " | ".join(row.values()) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        SERVERS[sys.argv[1]][1](Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
