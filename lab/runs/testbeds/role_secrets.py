"""What lies in ``secrets`` for a role, which folders go with it to its machine, and whether they are whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from lab.key_delivery import SAE_FOLDER_PREFIX
from lab.runs.testbeds.folder import SECRETS, STATE, FolderError
from lab.testbed import Testbed

Going = Callable[[Testbed, Path, str], Iterable[str]]
"""Which folders go with a role, by testbed, secrets folder and role."""


def learning_client(testbed: Testbed, secrets: Path, role: str) -> Iterable[str]:
    """A user's learning client: node and client are one trust domain, and meet at an address of their machine."""
    client = f"fl-{role}"
    return [client] if role in testbed.user_names() and (secrets / client).is_dir() else []


GO_WITH: tuple[Going, ...] = (learning_client,)
"""What else goes with a role; whoever keeps other secrets per role adds to these."""


def folders_of(testbed: Testbed, secrets: Path, role: str) -> list[str]:
    """The folders below ``secrets`` that the machine of ``role`` needs; an application is its ``sae-NAME``.

    Raises ValueError for no role of the testbed.
    """
    if role.removeprefix(SAE_FOLDER_PREFIX) in testbed.sae and role.startswith(SAE_FOLDER_PREFIX):
        return [role]
    if role not in testbed.roles():
        raise ValueError(
            f"no role is called {role!r} in this testbed; there are {', '.join([*testbed.roles(), *map(SAE_FOLDER_PREFIX.__add__, testbed.sae)])}"
        )
    return [role, *(name for going in GO_WITH for name in going(testbed, secrets, role))]


def roles_with_secrets(testbed: Testbed, secrets: Path) -> list[str]:
    """The roles whose folders lie here."""
    return [role for role in testbed.roles() if (secrets / role).is_dir()]


def checked_secrets(testbed: Testbed, home: Path) -> list[str]:
    """The roles whose secrets lie in the testbed folder ``home``, all of them whole; raises FolderError."""
    here = roles_with_secrets(testbed, home / SECRETS)
    faults = [fault for role in here for fault in faults_of(testbed, home / SECRETS, home / STATE, role)]
    if faults:
        raise FolderError("\n".join(("the testbed file is valid, the secrets beside it are not:", *faults)))
    return here


def faults_of(
    testbed: Testbed, secrets: Path, state: Path, role: str, *, keys_alone: bool = False
) -> list[str]:
    """What is wrong with, or missing of, the secrets of a role, a sentence each.

    A node that has its key store needs no initial secrets any more; ``keys_alone``: they are not asked for.
    """
    from orchestrator.keystore.pair_secret import INITIAL, SUFFIX, PairSecret, PairSecretError
    from orchestrator.processes.node_store import STORE_FILE, ends_of
    from orchestrator.wire.curve import KeyFileError, load_keys

    folder = secrets / role
    if bare := _open_to_others(folder):
        return [
            f"{path} can be read by others on this machine; if nobody did, run: chmod go= {path}"
            for path in bare
        ]
    faults = list[str]()
    try:
        if load_keys(folder).public != testbed.keys.get(role):
            faults.append(f"{folder}: its key is not the one of {role} in the testbed file")
    except KeyFileError as error:
        faults.append(str(error))
    if keys_alone or role not in testbed.user_names() or (state / role / STORE_FILE).exists():
        return faults
    for peer in testbed.user_names():
        path = folder / INITIAL / f"{peer}{SUFFIX}"
        if peer == role:
            continue
        try:
            secret = PairSecret.read(path)
            secret.wipe()
            secret.check_for(role, *ends_of(testbed, role, peer), path)
        except FileNotFoundError:
            faults.append(
                f"{path} is missing, and {role} has no key store yet: no key with {peer}; where {peer} runs already, a new one is "
                f"made there (`qunetlab keys reseed {'-'.join(ends_of(testbed, role, peer))} --new`)"
            )
        except (PairSecretError, OSError) as error:
            faults.append(str(error))
    return faults


def _open_to_others(folder: Path) -> list[Path]:
    """Folders, and files but public keys, that not their owner alone may read."""
    from orchestrator.wire.curve import PUBLIC_FILE

    return [
        path
        for path in (folder, *sorted(folder.rglob("*")))
        if path.name != PUBLIC_FILE and path.exists() and path.stat().st_mode & 0o077
    ]
