"""Status items as metrics, in the text format that Prometheus reads, and the page ``/metrics`` that serves them.

Every number of every item is a gauge, named by the item's kind and the field, which has its unit in its name:
``qunetlab_served_light_s{role="relay"} 12.5``; what an item is about stands in labels.  Alarms are one gauge, 1 for each that
stands, with severity and what an operator did about it; the verdict is ``qunetlab_up`` and ``qunetlab_state``.

Format: Prometheus documentation, "Exposition formats", text-based format 0.0.4.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from lab.runs.following.observer import Observer
from lab.runs.following.verdict import EXIT_CODES, verdict
from orchestrator.events.status import Alarm, StatusItem

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[str, dict[str, str], float]


def samples(observer: Observer) -> Iterator[Sample]:
    """Name, labels and value of everything that ``observer`` has heard."""
    said = verdict(observer.facts())
    yield "qunetlab_up", {}, float(said.state != "no answer")
    for state in EXIT_CODES:
        yield "qunetlab_state", {"state": state}, float(state == said.state)
    for role, item, age_s in observer.said_by(msgspec.Struct):
        if isinstance(item, Alarm):
            yield from _of_alarm(role, item)
        else:
            yield from _of_item(role, item, age_s)  # type: ignore[arg-type]


def _of_alarm(role: str, alarm: Alarm) -> Iterator[Sample]:
    told = {
        "id": alarm.id_of(role),
        "role": role,
        "name": alarm.name,
        "severity": alarm.severity,
        "active": str(alarm.active).lower(),
        "acknowledged": str(alarm.acknowledged).lower(),
        "shelved": str(alarm.shelved_s > 0).lower(),
    }
    yield "qunetlab_alarm", told, 1.0


def _of_item(role: str, item: StatusItem, age_s: float) -> Iterator[Sample]:
    labels = {"role": role, **{name: str(getattr(item, name) or "") for name in item.about}}
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(item).__name__).lower()
    yield f"qunetlab_{kind}_age_s", labels, age_s
    for field in msgspec.structs.fields(item):
        value = getattr(item, field.name)
        if isinstance(value, int | float) and field.name not in item.about:
            yield f"qunetlab_{kind}_{field.name}", labels, float(value)


def text_of(all_samples: Iterator[Sample]) -> str:
    """The page; samples of one name stand together under its type."""
    by_name: dict[str, list[str]] = {}
    for name, labels, value in all_samples:
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        by_name.setdefault(name, []).append(f"{name}{f'{{{told}}}' if told else ''} {value!r}")
    return "".join(
        f"# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in lines) for name, lines in by_name.items()
    )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class MetricsPage:
    """``http://HOST:PORT/metrics`` of what an observer hears; a context manager.  :meth:`poll` is the caller's loop."""

    def __init__(self, observer: Observer, host: str, port: int) -> None:
        """Raises OSError where the address is taken or not ours."""
        self._observer = observer
        self._lock = threading.Lock()
        page = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path.partition("?")[0] == "/metrics"
                body = page.text().encode() if found else b"only /metrics is here\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not every reading is worth a line."""

        self._server = ThreadingHTTPServer((host, port), Answer)
        self.url = f"http://{host}:{self._server.server_address[1]}/metrics"

    def text(self) -> str:
        """The page at this moment."""
        with self._lock:
            return text_of(samples(self._observer))

    def poll(self) -> None:
        """Take in what has come; raises ObserverError once the hub does not serve this observer any more."""
        with self._lock:
            self._observer.poll()

    def __enter__(self) -> MetricsPage:
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
