"""What every process that serves others answers at its control socket: who is revoked, and ``keys revoke``."""

from __future__ import annotations

from orchestrator.wire.control_socket import Done, Failed, Reply, Request, Revoke, Revoked, ShowRevoked
from orchestrator.wire.gate import Gate
from orchestrator.wire.revoked import RevokedError

CONTROL_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, RevokedError)
"""What becomes a plain answer at the control socket of a process that serves others."""


def answer_about_gate(gate: Gate, request: Request) -> Reply:
    """Revoke a role or list the revoked; anything else is not for such a process.

    Raises RevokedError for a role that is not served here, OSError if the list cannot be kept.
    """
    if isinstance(request, Revoke):
        gate.revoke(request.role)
        return Done(f"the key of {request.role} is refused from here on and its connections are ended")
    if isinstance(request, ShowRevoked):
        return Revoked(gate.revoked)
    return Failed(f"this process does not answer {type(request).__name__}; ask the node")
