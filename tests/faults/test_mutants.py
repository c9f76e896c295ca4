"""Planted faults: each must make a named test fail, or the promise behind it is not held by any test.

A mutant is one change of the product's own text, of the kind that a tired hand makes: an order turned round, a
check left out, a comparison that compares nothing.  ``test_every_mutant_is_killed`` copies the tree, makes the
change and runs the tests that must notice; they have to *fail* (exit code 1: a tree that does not even import
proves nothing).  ``docs/security.md`` lists the same mutants beside the promise that each would break.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("drivers", "sim_backends", "lab", "orchestrator", "fl", "tests")
TESTS_FAILED = 1
"""pytest's exit code where tests ran and some failed."""


@dataclass(frozen=True)
class Mutant:
    """``old`` stands exactly once in ``file`` and becomes ``new``; ``tests`` must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "offer-context-ignored",
        "orchestrator/keystore/reserving.py",
        'case "waiting", Heard(message=Offer() as offer) if not wish.same_as(offer):',
        'case "waiting", Heard(message=Offer() as offer) if offer.n_bits != wish.n_bits:',
        (
            "tests/orchestrator/test_reservation.py::test_the_other_end_does_not_follow_an_offer_for_another_context",
        ),
    ),
    Mutant(
        "pads-before-journal",
        "orchestrator/delivery/client.py",
        "            write_entry(journal_dir, context)\n"
        "            return ShareChannel(context, self._collect(context))\n",
        "            pads = self._collect(context)\n"
        "            write_entry(journal_dir, context)\n"
        "            return ShareChannel(context, pads)\n",
        ("tests/orchestrator/test_delivery.py::test_a_journal_that_cannot_be_written_lets_no_pad_out",),
    ),
    Mutant(
        "another-set-of-participants",
        "orchestrator/delivery/consent.py",
        "        if names == d.participants:\n",
        "        if set(names) <= set(d.participants):\n",
        ("tests/orchestrator/test_delivery.py::test_a_round_that_nobody_consented_to_reaches_no_node",),
    ),
    Mutant(
        "one-file-under-two-names",
        "orchestrator/delivery/consent.py",
        "(self.data == other.data or bool(shared)) and alike",
        "self.data == other.data and alike",
        ("tests/fl/rounds/test_described_data.py::test_files_under_another_name_are_the_same_data",),
    ),
    Mutant(
        "other-files-take-part",
        "fl/rounds/client_rules.py",
        "if [each.sha256 for each in own] != [each.sha256 for each in config.sources]:",
        "if len(own) != len(config.sources):",
        (
            "tests/fl/rounds/test_described_data.py::test_a_client_with_other_files_takes_no_part_and_is_told_both",
        ),
    ),
    Mutant(
        "model-that-does-not-follow",
        "orchestrator/delivery/consent.py",
        "    elif not hmac.compare_digest(context.model, expected_model(d, position)):\n",
        "    elif position is None and not hmac.compare_digest(context.model, expected_model(d, position)):\n",
        (
            "tests/orchestrator/test_consent.py"
            "::test_rounds_go_on_from_the_model_that_the_client_worked_out_and_end_with_the_run",
        ),
    ),
    Mutant(
        "opening-believed-unseen",
        "orchestrator/postprocessing/lost_frames.py",
        "    if not auth.mac_fits(replace(ours, digests=theirs.digests).said_by(talk.peer), theirs.mac):\n",
        "    if not theirs.mac:\n",
        ("tests/faults/test_lying_relay.py::test_frames_dropped_once_a_basis_is_known_end_the_block",),
    ),
    Mutant(
        "lost-frames-revealed",
        "orchestrator/postprocessing/block.py",
        "        clicks.drop(lost)\n",
        "        clicks.n_single\n",
        ("tests/faults/test_lying_relay.py::test_nothing_of_a_lost_frame_is_revealed",),
    ),
    Mutant(
        "greeting-covers-nothing",
        "orchestrator/keystore/meeting.py",
        '        return b"".join(encode(message) for message in said)\n',
        '        return b"" if said else b"-"\n',
        ("tests/orchestrator/test_mac_keys.py::test_two_stores_of_the_first_format_get_reusable_keys_once",),
    ),
    Mutant(
        "generation-unbound",
        "orchestrator/keystore/tagged.py",
        '    numbers = generation.to_bytes(8, "big") + offset.to_bytes(8, "big") + n_keys.to_bytes(2, "big")\n',
        '    numbers = bytes(8) + offset.to_bytes(8, "big") + n_keys.to_bytes(2, "big")\n',
        (
            "tests/orchestrator/test_mac_keys.py"
            "::test_a_tag_of_another_generation_fits_nowhere_even_over_the_same_bits",
        ),
    ),
    Mutant(
        "initial-secret-unverified",
        "orchestrator/processes/node_store.py",
        "    if not store.deposits.holds_seed(peer, secret.auth_ab, secret.auth_ba):\n",
        "    if store is None:\n",
        ("tests/orchestrator/test_node_store.py::test_a_store_that_does_not_hold_the_secrets_costs_none",),
    ),
    Mutant(
        "fence-any-step",
        "orchestrator/scheduling/fencing.py",
        "        if epoch - newest > EPOCH_STEP or epoch >= _LIMIT:\n",
        "        if epoch >= _LIMIT:\n",
        (
            "tests/orchestrator/test_fencing.py"
            "::test_one_offer_of_a_far_epoch_moves_nothing_and_the_honest_ones_go_on",
        ),
    ),
    Mutant(
        "revoked-comes-back",
        "orchestrator/wire/gate.py",
        "            self._roles = dict(allowed) if self._revoked is None else self._revoked.without(allowed)\n",
        "            self._roles = dict(allowed)\n",
        (
            "tests/orchestrator/test_curve.py"
            "::test_a_revoked_key_stays_out_over_restarts_and_a_new_key_of_the_role_comes_in",
        ),
    ),
    Mutant(
        "seeded-generator",
        "orchestrator/randomness.py",
        "_system: RandomBytes = os.urandom\n",
        "_system: RandomBytes = np.random.default_rng(1).bytes\n",
        ("tests/orchestrator/test_randomness.py::test_the_source_is_the_system",),
    ),
    Mutant(
        "one-tag-whatever-eps-cor",
        "orchestrator/protocols/epsilons.py",
        "    while one**tags > eps_cor:\n",
        "    while one**tags > eps_cor and tags < 1:\n",
        ("tests/orchestrator/test_epsilons.py::test_the_tags_of_a_block_keep_eps_cor_and_none_is_spare",),
    ),
    Mutant(
        "budget-without-end",
        "orchestrator/wire/budget.py",
        "            if mine + n_bytes > self.each or self._sum + n_bytes > self.total:\n",
        "            if self._sum + n_bytes > self.total << 20:\n",
        ("tests/faults/test_bytes_queued.py::test_a_budget_counts_what_is_held_and_what_was_refused",),
    ),
    Mutant(
        "metric-as-it-is",
        "fl/carriers/flower/leaving.py",
        "    return METRICS[key](value) if abs(value) <= LARGEST_COUNT else None"
        "  # which NaN and infinities are not\n",
        "    return float(value)\n",
        (
            "tests/fl/carriers/flower/test_allow_list.py"
            "::test_nothing_of_a_training_reply_leaves_but_the_protected_update",
        ),
    ),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_every_mutant_still_applies(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert mutant.old != mutant.new
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert re.search(rf"def {name}\b", (ROOT / path).read_text(encoding="utf-8")), test


def test_the_security_page_lists_every_mutant() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert [each.name for each in MUTANTS if f"`{each.name}`" not in page] == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_every_mutant_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    target = tmp_path / mutant.file
    target.write_text(target.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == TESTS_FAILED, done.stdout[-3000:] + done.stderr[-1000:]
