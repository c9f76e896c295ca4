"""Whether the records are whole: chains of hashes, the files they name by digest, and the seal of the run's folder."""

from __future__ import annotations

import hashlib

from lab.calibration.keeping import FINDINGS
from lab.runs.audit.case import Case, RoleRecords
from lab.runs.audit.findings import Asking, Check
from lab.runs.records.gathering import digest_of, digests
from orchestrator.records.keeping import path_of_testbed
from orchestrator.records.kinds import BlockEnded, LightServed, ResultsKept, RoleStarted, RunBegan


def check_chains(case: Case) -> Check:
    """Every line of every role holds the hash of the one before, from the role's first word on."""
    ask = Asking("chains of records")
    for role in case.roles():
        path = case.place(role.folder / "records.jsonl")
        ask.that(
            not role.chain.breaks,
            f"the chain of {role.name} breaks at line {', '.join(map(str, role.chain.breaks))}",
            path,
            "a record there was edited, taken out, put in or moved, and the hashes were not computed anew",
        )
        _first_word(ask, role, path)
        if role.chain.rest_bytes:
            ask.note(
                f"{path} ends with {role.chain.rest_bytes} bytes of an unfinished line: {role.name} was killed while it "
                "wrote, and that record was never told as kept"
            )
        for text in role.unknown:
            ask.note(text)
    for text in case.missing:
        ask.note(f"could not be read: {text}")
    return ask.done()


def _first_word(ask: Asking, role: RoleRecords, path: str) -> None:
    first = role.told[0].record if role.told else None
    if first is None and not role.chain.lines:
        return
    ask.that(
        isinstance(first, RoleStarted) and first.role == role.name,
        f"the first record is not the start of {role.name}",
        f"{path}:1",
        "the beginning was taken out, or these are the records of another role",
    )
    for each in role.told:
        if isinstance(each.record, RoleStarted) and each.record.cut_bytes:
            ask.note(
                f"{each.where}: {each.record.cut_bytes} bytes of an unfinished line, left by a kill, were cut off before"
            )


def check_testbeds(case: Case) -> Check:
    """Each testbed that a record names is kept, and is the one that is named."""
    ask = Asking("testbeds by digest")
    for role in case.roles():
        named = {
            record.testbed: where
            for each in role.told
            if isinstance(record := each.record, BlockEnded | LightServed)
            and record.testbed
            and (where := each.where)
        }
        for digest, where in named.items():
            path = path_of_testbed(role.folder, digest)
            if not path.exists():
                ask.note(f"{where}: the testbed {digest[:16]} is not kept here")
                continue
            ask.that(
                hashlib.sha256(path.read_bytes()).hexdigest() == digest,
                f"the testbed kept as {digest[:16]} is another",
                case.place(path),
                "layout or calibration was edited after it was used: what was planned from it cannot be planned again",
            )
    return ask.done()


def check_seal(case: Case) -> Check:
    """The files of the folder are those that its last run left, and findings those that any calibration did."""
    ask = Asking("files of the run")
    sealed, unsealed = _sealed(case.run)
    if unsealed:
        ask.note(f"{unsealed}: what the last run left was not put on record, it ended without a word")
    if not sealed and not unsealed:
        ask.note("no supervisor has put files of this folder on record: its roles ran by themselves")
    for name, (digest, where) in sealed.items():
        there = digest_of(case.folder / name)
        if not there:
            ask.that(False, f"{name} is gone", where, "a file of the run was taken away after it ended")
            continue
        ask.that(there == digest, f"{name} is another file", name, "it was changed after the run ended")
    if not unsealed and not all(map(_is_finding, sealed)):
        for name in sorted(digests(case.folder).keys() - sealed.keys()):
            ask.note(f"{name} came after the run ended")
    return ask.done()


def _is_finding(name: str) -> bool:
    return name.startswith(f"{FINDINGS}/")


def _sealed(run: RoleRecords | None) -> tuple[dict[str, tuple[str, str]], str]:
    """Files on record, each with its digest and where that stands; and where a last run without a seal began.

    A run replaces files of those before it, but no findings: each of them is a file for good.
    """
    sealed: dict[str, tuple[str, str]] = {}
    unsealed = ""
    for each in run.told if run is not None else ():
        if isinstance(each.record, RunBegan):
            sealed = {name: kept for name, kept in sealed.items() if _is_finding(name)}
            unsealed = each.where
        elif isinstance(each.record, ResultsKept):
            sealed |= {name: (digest, each.where) for name, digest in each.record.files.items()}
            unsealed = ""
    return sealed, unsealed
