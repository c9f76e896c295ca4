"""A role whose machine is lost begins anew: fresh keys for it in a parcel, and their public halves for every machine.

``NAME.public``  JSON without a secret: per role the public key that is over, and the one in its place.  Whoever puts a key of
                 their own into it is that role from then on, so it is carried by a way that keeps it as it is; `check` shows
                 the same digest on every machine afterwards.

Nothing changes where the keys are made: that machine takes the new ones in as every other does, with :func:`with_new_keys`.
A user's parcel holds no initial secret of a pair: only the other end knows its generation, so each is made there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli_w

from lab.runs.testbeds.folder import SECRETS, STATE, TESTBED_FILE, FolderError, make_keys, own_testbed
from lab.runs.testbeds.parcel import PUBLIC_FILES, check_place, files_below, staged
from lab.testbed import Testbed, parse_testbed, read_testbed
from orchestrator.durable import create_file, destroy_folder, make_folder, move_file, read_kept

PUBLIC_SUFFIX = ".public"
STAGING = ".qunetlab-anew"


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Public keys of a role, in Z85."""

    was: str
    new: str


class NewKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every machine of a testbed must know of roles that begin anew."""

    testbed: str
    keys: dict[str, NewKey]
    format: int = 1


@dataclass(frozen=True)
class Anew:
    """What was made: the parcel, the public keys, its roles, and users whose nodes have no certificate yet."""

    parcel: Path
    public: Path
    roles: tuple[str, ...]
    uncertified: tuple[str, ...]


def begin_anew(
    home: Path,
    roles: Sequence[str],
    to: Path,
    passphrase: str | None = None,
    authority: Callable[[], str] | None = None,
) -> Anew:
    """Fresh keys of ``roles``, whose machine is lost, in a parcel at ``to``; a user's learning client begins with it.

    ``home`` is any machine's testbed folder, and stays as it is.  Where the authority is, a user's node gets its certificate;
    ``authority`` gives the passphrase where its key is sealed.
    Raises FolderError or ValueError saying what to do, or OSError, and then nothing was made.
    """
    file = own_testbed(home)
    home, to = file.parent, to.absolute()
    secrets, staging = home / SECRETS, home / STAGING
    data = read_testbed(file)
    testbed = parse_testbed(data, file)
    lost = _with_clients(testbed, roles)
    _check_lost(secrets, home / STATE, lost)
    check_place(to, secrets)
    public = to.with_name(f"{to.stem}{PUBLIC_SUFFIX}")
    if staging.exists():
        destroy_folder(staging)
    make_folder(staging / SECRETS)
    try:
        fresh = {role: make_keys(testbed, staging / SECRETS, role, passphrase) for role in lost}
        uncertified = _certify(testbed, secrets, staging / SECRETS, lost, authority)
        content = {name: (home / name).read_bytes() for name in PUBLIC_FILES if (home / name).exists()}
        renewed = {**data, "keys": {**data["keys"], **fresh}}
        content |= {TESTBED_FILE: tomli_w.dumps(renewed).encode(), **files_below(staging / SECRETS, staging)}
        told = NewKeys(
            testbed.name, {role: NewKey(testbed.public_key(role), key) for role, key in fresh.items()}
        )
        stage = staged(to, roles, content, anew=True)
        create_file(public, msgspec.json.format(msgspec.json.encode(told), indent=1))
        move_file(stage, to)
    finally:
        destroy_folder(staging)
    return Anew(to, public, lost, uncertified)


def _with_clients(testbed: Testbed, roles: Sequence[str]) -> tuple[str, ...]:
    """The roles that begin anew; raises ValueError for none of the testbed."""
    for role in roles:
        if role not in testbed.roles():
            raise ValueError(
                f"no role is called {role!r} in this testbed; there are {', '.join(testbed.roles())} (an application makes its key "
                "itself: `qunetlab sae request`)"
            )
    users = testbed.user_names()
    with_clients = (name for role in roles for name in (role, *([f"fl-{role}"] if role in users else [])))
    return tuple(dict.fromkeys(with_clients))


def _check_lost(secrets: Path, state: Path, roles: Collection[str]) -> None:
    """A role whose secrets are on this machine is not lost."""
    for role in roles:
        if (secrets / role).exists() or (state / role).exists():
            there = secrets / role if (secrets / role).exists() else state / role
            raise FolderError(
                f"{role} is on this machine ({there}): what begins anew is lost or cannot be trusted any more; if that is so, destroy "
                f"{secrets / role} and {state / role} first"
            )


def _certify(
    testbed: Testbed,
    secrets: Path,
    into: Path,
    roles: Collection[str],
    passphrase: Callable[[], str] | None,
) -> tuple[str, ...]:
    """Certificates for the nodes among ``roles``, where they are approved; those that serve applications and got none."""
    from lab.runs.certificates.authority import Authority
    from lab.runs.certificates.here import authority_folder, certify, held_by_node, hosts_of_node
    from lab.runs.certificates.signing_key import has_key
    from orchestrator.wall_clock import utc_now

    users = [role for role in roles if role in testbed.user_names()]
    folder = authority_folder(secrets)
    if not has_key(folder):
        return tuple(user for user in users if testbed.applications_of(user))
    authority = Authority(folder, passphrase)
    for user in users:
        certify(authority, held_by_node(into, user), hosts_of_node(testbed, user), utc_now())
    return ()


def read_new_keys(path: Path) -> NewKeys:
    """What ``begin_anew`` wrote; raises FolderError for anything else."""
    from orchestrator.wire.curve import check_public

    try:
        told = read_kept(path, NewKeys, 1)
        for key in told.keys.values():
            check_public(key.was)
            check_public(key.new)
    except (OSError, ValueError) as error:
        raise FolderError(
            f"{path} holds no new public keys: {error}; `qunetlab init FOLDER --anew ROLE` writes them"
        ) from None
    return told


def with_new_keys(text: str, file: Path, told: NewKeys) -> str:
    """The testbed file ``text`` with the new keys in the place of the old ones, and all else as it stands.

    Raises FolderError where the file has neither, TestbedError where it is none.
    """
    import tomllib

    known = parse_testbed(tomllib.loads(text), file)
    if known.name != told.testbed:
        raise FolderError(f"these keys belong to testbed {told.testbed!r}, {file} is {known.name!r}")
    for role, key in told.keys.items():
        if known.keys.get(role) not in (key.was, key.new):
            raise FolderError(
                f"{file} has a key for {role} that is neither the lost one nor the new one: it is not of the state from which the "
                "new keys were made; compare it with the file of that machine"
            )
        text = text.replace(key.was, key.new)
    replaced = parse_testbed(tomllib.loads(text), file)
    assert {role: replaced.keys[role] for role in told.keys} == {r: key.new for r, key in told.keys.items()}
    return text
