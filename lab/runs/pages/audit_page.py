"""The page of ``qunetlab audit``: what does not fit first, then every check with what it looked at."""

from __future__ import annotations

from pathlib import Path

from lab.runs.audit.findings import Audit
from lab.runs.pages.page import Table, render


def render_audit(audit: Audit, at: str) -> str:
    """The whole page as HTML text; ``at``, of ISO 8601 in UTC, says when the audit was made."""
    findings = [
        [each.what, each.where, each.means, check.name] for check in audit.checks for each in check.findings
    ]
    counts = {
        state: sum(check.state == state for check in audit.checks)
        for state in ("passed", "failed", "not checkable here")
    }
    return render(
        "audit.html",
        name=Path(audit.run).name or audit.run,
        run=audit.run,
        at=f"{at[:19].replace('T', ' ')} UTC",
        passed=audit.passed,
        counts=", ".join(f"{count} {state}" for state, count in counts.items() if count),
        facts=f"{sum(check.looked_at for check in audit.checks):,}",
        findings=Table(["what does not fit", "where", "what it means", "check"], findings, "text"),
        checks=Table(
            ["check", "state", "facts"],
            [[check.name, check.state, f"{check.looked_at:,}"] for check in audit.checks],
            "wide",
        ),
        notes=Table(
            ["check", "note"],
            [[check.name, note] for check in audit.checks for note in check.notes],
            "text",
        ),
    )
