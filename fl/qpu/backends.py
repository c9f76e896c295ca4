"""Backends by name; only this module knows whether a name means a machine or its simulated stand-in.

``fake_manila`` or ``FakeManilaV2``: a snapshot of a real device, simulated by Aer with its noise (the local
testing mode of qiskit-ibm-runtime); ``aer:fake_manila`` is the same.  ``aer``: Aer without noise, shots
only.  Anything else is a backend of the IBM Quantum service, opened with a saved
account.  Tokens are read by qiskit-ibm-runtime from its own file and never pass through here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import msgspec

from fl.qpu.errors import AccountError, ServiceError, UnknownBackendError, without_secrets

HOW_TO_SAVE = (
    "save one once, in Python:\n"
    "  from qiskit_ibm_runtime import QiskitRuntimeService\n"
    '  QiskitRuntimeService.save_account(channel="ibm_quantum_platform", token="<API key>", '
    'instance="<CRN>", set_as_default=True)\n'
    "The API key is made at https://quantum.cloud.ibm.com. Without an account use a local backend: "
    "fake_manila, fake_brisbane, aer."
)

NO_ACCOUNT_FILE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC)
"""qiskit-ibm-runtime makes an empty file of accounts where it finds none."""


class AccountChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which saved account to use; names and places only, nothing secret."""

    name: str | None = None
    channel: str | None = None
    instance: str | None = None
    filename: str | None = None


@dataclass(frozen=True)
class Device:
    """A backend that is ready to take jobs; ``service`` is None for the ones simulated here."""

    name: str
    backend: Any
    service: Any | None

    @property
    def local(self) -> bool:
        """Whether it is simulated on this machine and costs nothing."""
        return self.service is None

    @property
    def instance(self) -> str:
        """The service instance that its jobs are charged to and known under."""
        return "" if self.service is None else str(self.service.active_instance() or "")


ServiceFactory = Callable[..., Any]


def open_device(
    name: str, account: AccountChoice | None = None, service_factory: ServiceFactory | None = None
) -> Device:
    """The backend called ``name``.

    Raises UnknownBackendError, AccountError (how to save one), ServiceError when the service is out of reach.
    """
    if name.lower() == "aer" or name.lower().startswith("aer:"):
        return Device(name, _fake(name[4:]) if name[4:] else _aer(), None)
    if name.lower().startswith("fake"):
        return Device(name, _fake(name), None)
    service = open_service(account or AccountChoice(), service_factory)
    return Device(name, _real(service, name), service)


def open_service(account: AccountChoice, factory: ServiceFactory | None = None) -> Any:
    """The IBM Quantum service with a saved account."""
    if factory is None:
        from qiskit_ibm_runtime import QiskitRuntimeService

        factory = QiskitRuntimeService
    from qiskit_ibm_runtime.exceptions import IBMAccountError, IBMError, IBMNotAuthorizedError

    chosen = {name: value for name, value in msgspec.structs.asdict(account).items() if value is not None}
    try:
        return factory(**chosen)
    except IBMAccountError as error:
        which = f" called {account.name!r}" if account.name else ""
        raise AccountError(
            f"no usable IBM Quantum account{which}: {without_secrets(error)}\n{HOW_TO_SAVE}"
        ) from None
    except IBMNotAuthorizedError as error:
        raise AccountError(
            f"the IBM Quantum service refuses the account: {without_secrets(error)}\n{HOW_TO_SAVE}"
        ) from None
    except (IBMError, ValueError) as error:
        raise AccountError(f"the account does not work: {without_secrets(error)}\n{HOW_TO_SAVE}") from None
    except Exception as error:  # noqa: BLE001 - the service's HTTP layer raises many kinds; none may show a token
        if isinstance(error, OSError) and error.errno in NO_ACCOUNT_FILE:
            raise AccountError(
                f"the file of saved accounts cannot be opened ({without_secrets(error)}), and none can be saved "
                f"there; set HOME to the folder that has it, or\n{HOW_TO_SAVE}"
            ) from None
        raise ServiceError(
            f"the IBM Quantum service cannot be reached: {without_secrets(error)}; check the network and proxy"
        ) from None


def _real(service: Any, name: str) -> Any:
    from qiskit.providers.exceptions import QiskitBackendNotFoundError

    try:
        return service.backend(name)
    except QiskitBackendNotFoundError:
        known = _names(service)
        listed = f"this account has {', '.join(known)}" if known else "this account has none"
        raise UnknownBackendError(
            f"no backend is called {name!r}; {listed}; local ones are fake_manila, fake_brisbane, aer "
            "(`qunetlab qpu backends` lists all)"
        ) from None
    except Exception as error:  # noqa: BLE001 - as above
        raise ServiceError(f"backend {name} cannot be opened: {without_secrets(error)}") from None


def _names(service: Any) -> list[str]:
    try:
        return [backend.name for backend in service.backends()]
    except Exception:  # noqa: BLE001 - only decorates another error
        return []


def fake_names() -> tuple[str, ...]:
    """Names of all device snapshots that can be simulated here."""
    return tuple(sorted(_snapshots()))


def _snapshots() -> dict[str, type[Any]]:
    from qiskit_ibm_runtime import fake_provider

    classes = [value for name, value in vars(fake_provider).items() if name.startswith("Fake")]
    return {
        each.backend_name: each for each in classes if isinstance(getattr(each, "backend_name", None), str)
    }


def _fake(name: str) -> Any:
    snapshots = _snapshots()
    for backend_name, kind in snapshots.items():
        if name.lower() in (backend_name, kind.__name__.lower()):
            return kind()
    close = get_close_matches(name.lower(), snapshots, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UnknownBackendError(
        f"no device snapshot is called {name!r}; {hint}fake_manila and fake_brisbane are two of {len(snapshots)} "
        "(`qunetlab qpu backends --local` lists all)"
    )


def _aer() -> Any:
    from qiskit_aer import AerSimulator

    class SteadyAer(AerSimulator):  # type: ignore[misc]
        """Aer makes its target anew at every look, and the transpiler looks some fifty times."""

        @cached_property
        def target(self) -> Any:
            return super().target

    # Circuits are twirled in the gates of a device, of which Aer alone would ask for none.
    return SteadyAer(basis_gates=["id", "rz", "sx", "x", "cx"])
