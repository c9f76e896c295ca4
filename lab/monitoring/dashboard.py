"""The dashboard of Grafana, made of the panels of :mod:`lab.monitoring.panels`.

Format: Grafana documentation, "Dashboard JSON model" (schema 39, which Grafana 10 and later read).  The data source is asked for when
the file is imported; ``pair`` and ``role`` choose what is shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lab.monitoring.panels import ROWS, Panel

SCHEMA = 39
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard_text() -> str:
    """The file to import."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's model."""
    return {
        "title": "qunetlab",
        "uid": "qunetlab",
        "tags": ["qunetlab"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": list(_placed()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
    }
    for name, query in (
        ("pair", "label_values(qunetlab_stock_bits, pair)"),
        ("role", "label_values(qunetlab_build_info, role)"),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "definition": query,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


def _placed() -> Iterator[dict[str, Any]]:
    number = y = 0
    for title, panels in ROWS:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
            "panels": [],
        }
        y, x, height = y + 1, 0, 0
        for panel in panels:
            number += 1
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            h = 4 if panel.kind == "stat" else 8
            yield _panel(number, panel, {"h": h, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, h)
        y += height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "color": {"mode": "palette-classic"}}
    if panel.low is not None:
        defaults["min"] = panel.low
    if panel.kind == "timeseries":
        scale = {"type": "log", "log": 10} if panel.log else {"type": "linear"}
        defaults["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 8,
            "showPoints": "auto",
            "scaleDistribution": scale,
        }
    options: dict[str, Any] = (
        {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
        }
        if panel.kind == "stat"
        else {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    )
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": expr,
                "legendFormat": legend,
                "range": True,
            }
            for place, (expr, legend) in enumerate(panel.of)
        ],
    }
