"""All checks of a run, in the order of its light: records, leases, blocks, key stores, rounds, models, results.

Every check reads what is on the disk and nothing else; none needs a secret, and none writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lab.runs.audit.blocks import check_figures, check_lengths, check_pairs
from lab.runs.audit.case import Case, read_case
from lab.runs.audit.chains import check_chains, check_seal, check_testbeds
from lab.runs.audit.findings import Audit, Check
from lab.runs.audit.leases import check_announcements, check_leases
from lab.runs.audit.ledger import (
    check_books,
    check_ends,
    check_epsilons,
    check_store_records,
    check_tags,
)
from lab.runs.audit.reported import check_final_model, check_results
from lab.runs.audit.rounds import check_models, check_round_keys, check_rounds, check_uploads

CHECKS: tuple[Callable[[Case], Check], ...] = (
    check_chains,
    check_testbeds,
    check_seal,
    check_leases,
    check_announcements,
    check_pairs,
    check_figures,
    check_lengths,
    check_books,
    check_ends,
    check_store_records,
    check_tags,
    check_epsilons,
    check_rounds,
    check_round_keys,
    check_uploads,
    check_models,
    check_results,
)
SEALED_BITS = Check(
    "sealed key",
    "not checkable here",
    0,
    notes=(
        "that the sealed bits of a store open, and are the same at both ends, takes each owner's store key: a node checks "
        "it whenever it uses them",
    ),
)


def audited(folder: Path, data: Path | None = None) -> Audit:
    """The audit of a run or a testbed at rest.  Raises AuditError where there is nothing to audit, OSError."""
    case = read_case(folder)
    checks = (*(check(case) for check in CHECKS), check_final_model(case, data), SEALED_BITS)
    return Audit(str(folder), all(check.state != "failed" for check in checks), checks)


def lines(audit: Audit) -> Iterator[str]:
    """The audit for people: a line a check, and one a finding."""
    for check in audit.checks:
        yield f"{check.state:20s} {check.name} ({check.looked_at} facts)"
        for found in check.findings:
            yield f"    {found.where}: {found.what} - {found.means}"
        for note in check.notes:
            yield f"    note: {note}"
    findings = sum(len(check.findings) for check in audit.checks)
    yield (
        f"{audit.run}: nothing contradicts itself"
        if audit.passed
        else f"{audit.run}: {findings} inconsistenc{'y' if findings == 1 else 'ies'}"
    )
