"""Where consents are kept: a client's private folder, beside the journal of what it masked.

One file for each run, named after the digest of its description, so that a file which was edited is noticed, and
one for how far the run is.  A run file carries a description to the operators, with its digest for the same reason.
What is agreed to, and the rule that rounds are held to: :mod:`orchestrator.delivery.consent`.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from orchestrator.delivery.consent import (
    FORMAT,
    Consent,
    Hex,
    RunDescription,
    RunPosition,
    check_description,
    check_round,
    check_terms,
    next_position,
)
from orchestrator.delivery.errors import ConsentError
from orchestrator.delivery.messages import RoundContext
from orchestrator.durable import locked, make_folder, read_kept, replace_file, write_kept
from orchestrator.wire.codec import Message, WireError, decode, encode

T = TypeVar("T", bound=Message)


class RunFile(Message, frozen=True):
    """A description on its way to the operators; ``digest`` shows whether it was edited."""

    format: int
    digest: Hex
    description: RunDescription


class ConsentBook:
    """The consents of one user in the private ``folder``, and how far each run is; files of mode 0600."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def give(self, user: str, description: RunDescription, accept: Sequence[str] = ()) -> Consent:
        """Consent to a run, durable on return; the same once more changes nothing.

        Raises OtherTermsError (:func:`check_terms`) or another ConsentError, and then nothing is written.
        """
        check_description(description)
        if user not in description.participants:
            raise ConsentError(
                f"{user} is not among the participants of run {description.run_id!r}:"
                f" {', '.join(description.participants)}"
            )
        try:
            make_folder(self.folder)
            with locked(self.folder / ".consent.lock"):
                earlier = self.consents()
                self._check_earlier(user, description, earlier, accept)
                check_terms(description, earlier, accept)
                consent = Consent(FORMAT, user, description, tuple(accept))
                write_kept(self._path("consent", description.digest(), "json"), consent, 0o600)
        except OSError as error:
            raise ConsentError(f"cannot keep a consent in {self.folder}: {error.strerror}") from error
        return consent

    def _check_earlier(
        self, user: str, description: RunDescription, earlier: Sequence[Consent], accept: Sequence[str]
    ) -> None:
        for consent in earlier:
            if consent.user != user:
                raise ConsentError(f"{self.folder} holds consents of {consent.user}, not of {user}")
            before = consent.description
            if before.run_id == description.run_id and before.digest() != description.digest():
                raise ConsentError(
                    f"run {before.run_id!r} was consented to as {before.name}; a run that is described otherwise"
                    f" ({description.name}) needs another id"
                )
        if unknown := sorted(set(accept) - {each.description.run_id for each in earlier}):
            raise ConsentError(f"{user} never consented to a run {', '.join(unknown)}")

    def consents(self) -> tuple[Consent, ...]:
        """All consents; raises ConsentError naming a file that is damaged or was edited."""
        return tuple(self._read(path) for path in sorted(self.folder.glob("consent-*.json")))

    def find(self, run: bytes) -> Consent | None:
        """The consent to the run of this digest, if there is one; raises ConsentError."""
        path = self._path("consent", run, "json")
        return self._read(path) if path.exists() else None

    def require(self, run: bytes, run_id: str) -> Consent:
        """The consent to a run; raises ConsentError saying how to give it."""
        consent = self.find(run)
        if consent is None:
            raise ConsentError(
                f"nobody consented here to run {run_id!r} with description {run.hex()}: read its run file with"
                " `qunetlab fl consent RUNFILE` and agree or not; no key was spent"
            )
        return consent

    def keep_offer(self, description: RunDescription) -> Path:
        """The run file of what a server offers, for the operator to read; raises OSError.

        It takes the place of the one before, so that a server which offers run after run fills no disk.
        """
        make_folder(self.folder)
        offered = self.folder / f"offered-{description.run_id}.json"
        for earlier in self.folder.glob("offered-*.json"):
            if earlier != offered:
                earlier.unlink(missing_ok=True)
        write_run_file(offered, description)
        return offered

    def check(self, context: RoundContext, weight: int | None = None) -> None:
        """Raise ConsentError unless the round is one of a run that was consented to (:func:`check_round`)."""
        consent = self.require(context.run, context.run_id)
        check_round(consent, self.position(context.run), context, weight)

    def position(self, run: bytes) -> RunPosition | None:
        """How far the run is, None before its first sum; raises ConsentError for a damaged file."""
        path = self._path("position", run, "state")
        try:
            position = decode(path.read_bytes(), RunPosition)
        except FileNotFoundError:
            return None
        except (OSError, WireError) as error:
            raise ConsentError(f"cannot read {path}: {error}; how far the run is, is unknown") from error
        if position.format != FORMAT or position.run != run:
            raise ConsentError(f"{path} is of another run or format {position.format}, not {FORMAT}")
        return position

    def begin(self, run: bytes, model: bytes) -> RunPosition:
        """The first model of a run, kept for a process that gets to see sums only; durable on return.

        Raises ConsentError for a run that has begun, or a file that cannot be kept.
        """
        return self._move(run, 0, model)

    def advance(self, run: bytes, round_number: int, model: bytes) -> RunPosition:
        """The sum of ``round_number`` is in ``model``: durable on return.

        Raises ConsentError for a round that does not come after the last one, or a file that cannot be kept.
        """
        return self._move(run, round_number, model)

    def _move(self, run: bytes, round_number: int, model: bytes) -> RunPosition:
        try:
            make_folder(self.folder)
            with locked(self.folder / ".consent.lock"):
                position = next_position(self.position(run), run, round_number, model)
                replace_file(self._path("position", run, "state"), encode(position), 0o600)
        except OSError as error:
            raise ConsentError(f"cannot keep a position in {self.folder}: {error.strerror}") from error
        return position

    def _path(self, kind: str, run: bytes, ending: str) -> Path:
        return self.folder / f"{kind}-{run.hex()}.{ending}"

    def _read(self, path: Path) -> Consent:
        consent = _from_json(path, Consent)
        if path.name != self._path("consent", consent.description.digest(), "json").name:
            raise ConsentError(
                f"{path} was edited: what stands in it is not what was consented to; remove it and consent again"
            )
        check_description(consent.description)
        if consent.user not in consent.description.participants:
            raise ConsentError(f"{path} names {consent.user}, who is no participant of its run")
        return consent


def write_run_file(path: Path, description: RunDescription) -> None:
    """The description for the operators to read; raises OSError."""
    file = RunFile(FORMAT, description.name, description)
    write_kept(path, file)


def read_run_file(path: Path) -> RunDescription:
    """The description in a run file; raises ConsentError naming the place of what is wrong."""
    file = _from_json(path, RunFile)
    if not hmac.compare_digest(file.digest, file.description.name):
        raise ConsentError(
            f"{path} was edited: its description has the digest {file.description.name}, and {file.digest} stands"
            " in it; ask the learning server's operator for the file again"
        )
    check_description(file.description)
    return file.description


def _from_json(path: Path, kind: type[T]) -> T:
    try:
        return read_kept(path, kind, FORMAT)
    except OSError as error:
        raise ConsentError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConsentError(f"{path} is no {kind.__name__} that this program knows: {error}") from error
