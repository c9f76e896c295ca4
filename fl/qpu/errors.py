"""What can go wrong on the way to a quantum processor; every error says what to do next.

Texts that come from the service pass through ``without_secrets`` before anybody sees them.
"""

from __future__ import annotations

import os
import re


class QpuError(Exception):
    """Base of all errors of the QPU path."""


class AccountError(QpuError, ValueError):
    """No usable account: none saved, or the service refuses it."""


class UnknownBackendError(QpuError, ValueError):
    """No backend has this name."""


class UnconfirmedCostError(QpuError, ValueError):
    """The run costs QPU time and was not confirmed."""


class ModelError(QpuError, ValueError):
    """The model cannot be run on a QPU, or its file is not a model of this task."""


class QpuFolderError(QpuError, ValueError):
    """The run folder is unreadable, in use, or belongs to another run."""


class ServiceError(QpuError, ConnectionError):
    """The service could not be reached or did not answer; what was submitted goes on running there."""


class JobFailedError(QpuError):
    """Jobs failed or were cancelled; finished ones are kept in the run folder."""


_SECRET = re.compile(
    r"(?i)((?:bearer|api[-_ ]?key|token|authorization|x-access-token)[\"']?\s*[:=]?\s*[\"']?(?:bearer\s+)?)"
    r"[A-Za-z0-9_\-.~+/]{12,}=*"
)


def without_secrets(error: object) -> str:
    """The text of ``error`` without API keys and tokens: saved ones, the environment's, and what looks like one."""
    text = str(error)
    for secret in _known_secrets():
        text = text.replace(secret, "[removed]")
    return _SECRET.sub(r"\1[removed]", text)


def _known_secrets() -> list[str]:
    found = [value for name, value in os.environ.items() if name.endswith("_TOKEN") and "QISKIT" in name]
    try:
        from qiskit_ibm_runtime import QiskitRuntimeService

        found += [str(account.get("token", "")) for account in QiskitRuntimeService.saved_accounts().values()]
    except Exception:  # noqa: BLE001 - an unreadable account file must not hide the error being told
        pass
    return [secret for secret in found if len(secret) >= 8]
