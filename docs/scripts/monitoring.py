"""Writes lab/monitoring/alerts.yml and lab/monitoring/dashboard.json.

python docs/scripts/monitoring.py
"""

from __future__ import annotations

from pathlib import Path

from lab.monitoring.alerts import rules_text
from lab.monitoring.dashboard import dashboard_text

FOLDER = Path(__file__).resolve().parents[2] / "lab" / "monitoring"
FILES = {"alerts.yml": rules_text, "dashboard.json": dashboard_text}

if __name__ == "__main__":
    for name, text in FILES.items():
        (FOLDER / name).write_text(text(), encoding="utf-8")
