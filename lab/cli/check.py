"""``qunetlab check``: what a testbed file promises, and what of its secrets is here."""

from __future__ import annotations

from pathlib import Path

from lab.agreed import agreed_on
from lab.calibration.book import now, read_book, too_old
from lab.checking import checked_testbed
from lab.cli.keyrate import pair_checked
from lab.cli.options import show
from lab.runs.certificates.here import certificate_warnings
from lab.runs.testbeds.folder import SECRETS, find_testbed
from lab.runs.testbeds.role_secrets import checked_secrets
from lab.testbed import read_testbed


def show_check(testbed: Path, as_json: bool) -> None:
    """Check and print; raises TestbedError, with every mistake, or FolderError."""
    path = find_testbed(testbed)
    loaded = checked_testbed(path)
    here = checked_secrets(loaded, path.parent)
    stale = list(too_old(read_book(path, read_testbed(path)), now()))
    checked = [pair_checked(loaded, pair) for pair in loaded.pairs()]
    lines = [f"{loaded.name}: valid; {len(loaded.users)} users, {len(loaded.instruments)} instruments"]
    lines += [f"  {told}" for _, told in checked]
    pairs = [answer for answer, _ in checked]
    keyless = [answer["pair"] for answer in pairs if answer["refusals"]]
    lines += [
        f"warning: {' and '.join(answer['pair'])} would make no key: {'; '.join(answer['refusals'])}"
        for answer in pairs
        if answer["refusals"]
    ]
    lines += [f"warning: {why}; `qunetlab calibrate --dry-run` says what is to be done" for why in stale]
    certificates = certificate_warnings(loaded, path.parent / SECRETS)
    lines += [f"warning: {why}" for why in certificates]
    lines.append(
        "remark: a switch may come on in bar, so a station whose node has not run since then may stand in everybody's light"
    )
    agreed = agreed_on(loaded)
    if here:
        lines.append(f"secrets of {', '.join(here)} are here, and whole")
    lines.append(
        f"{agreed.digest}: what must be alike on every machine of the ring, release {agreed.release} included"
    )
    answer = {
        "valid": True,
        "name": loaded.name,
        "pairs": pairs,
        "pairs_without_key": keyless,
        "stale": stale,
        "digest": agreed.digest,
        "digests": agreed.testbed,
        "secrets_here": here,
        "certificates": certificates,
    }
    show(answer, as_json, "\n".join(lines))
