"""The simulated Acme SL1."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable

from sim_backends.site import Simulated, Site


def build(site: Site) -> Simulated:
    """The laser whose light goes where the site's does."""
    twin = AcmeTwin(site.set_laser, site.wavelength_nm, site.serial)
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


class AcmeTwin:
    """Power in mW, an output, and what both do to the light."""

    def __init__(self, on_output: Callable[[float, float], None], wavelength_nm: float, serial: str) -> None:
        self._on_output, self._wavelength_nm, self._serial = on_output, wavelength_nm, serial
        self._power_mw, self._on = 0.0, False
        self._lock = threading.Lock()
        self._server: Server | None = None

    def serve(self, host: str, port: int) -> str:
        twin = self

        class Client(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    self.wfile.write(f"{twin.answer(line.decode().strip())}\n".encode())

        self._server = Server((host, port), Client)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return "{}:{}".format(*self._server.server_address)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def state(self) -> dict[str, object]:
        return {"power_mw": self._power_mw, "on": self._on}

    def is_safe(self) -> bool:
        return not self._on

    def answer(self, line: str) -> str:
        command, _, value = line.partition(" ")
        with self._lock:
            readings = {
                "*IDN?": f"Acme,SL1,{self._serial},1.0",
                "POW?": f"{self._power_mw:.3f}",
                "OUT?": f"{self._on:d}",
            }
            if command in readings:
                return readings[command]
            if command == "POW":
                self._power_mw = float(value)
            elif command == "OUT" and value in ("0", "1"):
                self._on = value == "1"
            else:
                return "ERR unknown command"
            self._on_output(self._power_mw * 1e-3 if self._on else 0.0, self._wavelength_nm)
            return "OK"
