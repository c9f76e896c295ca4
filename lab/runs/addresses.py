"""``HOST:PORT`` as somebody writes it after an option."""

from __future__ import annotations

LOOPBACK = "127.0.0.1:0"
"""Any free port, for this machine alone."""
ALONE = "127.0.0.1:9464"
"""Where a process of which a machine has one is read: `qunetlab metrics`, and the role of a container (Containerfile)."""
OFF = "off"
METRICS_OPTION, LISTEN_OPTION = "--metrics", "--listen"


class ListenError(OSError):
    """The address cannot be listened at; the text says what to do."""


def host_and_port(text: str, option: str, example: str) -> tuple[str, int]:
    """The two of ``text``, a host in brackets without them; raises ValueError naming the option and an ``example``."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError(f"{option} {text!r} is no HOST:PORT, such as {example}")
    return host.strip("[]"), int(port)


def url_of(host: str, port: int, path: str = "") -> str:
    """Where a reader finds it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
