"""Jobs from a plan: submit what is missing, wait, keep the results - never the same work twice.

Jobs already finished are read from the run folder, jobs that were submitted before an interruption are
fetched by their id, and a job whose submission was cut short is looked for by its tag, for as long as the
service may take to list it; only what is left is submitted.  A job the service does not know is never
replaced unasked: it may be there for another account.  After a failure nothing more is submitted, jobs already at the service are still collected, and
the error lists what is missing.  Jobs simulated on this machine end with its process; they are run again,
which costs nothing, and the report says so.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from fl.qpu.backends import Device
from fl.qpu.errors import JobFailedError, QpuFolderError, ServiceError, without_secrets
from fl.qpu.estimator import DeviceJobs, measured
from fl.qpu.extrapolate import Floats, to_zero_noise
from fl.qpu.journal import JobRecord, JobResult, QpuFolder, RunPlan, slices, tag_of

POLL_S = 2.0
PATIENCE = 5
"""Failed looks at a job in a row before the service counts as out of reach."""
LISTED_WITHIN_S = 60.0
"""A job that the service has taken is listed under its tag within this time."""
DAY_S = 86_400.0


@dataclass(frozen=True)
class QpuEvent:
    """Something happened to job ``job`` of ``jobs``: ``kept``, ``looking``, ``found``, ``again``, ``submitted``,
    ``status``, ``done``, ``failed`` or ``open`` (a session that could not be closed)."""

    kind: str
    job: int
    jobs: int
    text: str


Report = Callable[[QpuEvent], None]


@dataclass(frozen=True)
class Measured:
    """Expectation values and standard errors, float64 (parameter sets, observables), and how they came about.

    ``raw`` is at the device's own noise; with zero-noise extrapolation the others are at none, else the same.
    """

    expectations: Floats
    standard_errors: Floats
    raw: Floats
    raw_errors: Floats
    records: tuple[JobRecord, ...]
    submitted: int
    """Jobs submitted by this call; the others were finished or under way before."""


class Runner:
    """Runs one plan in one folder; the folder is open and holds the plan."""

    def __init__(
        self,
        device: Device,
        folder: QpuFolder,
        plan: RunPlan,
        circuit: QuantumCircuit,
        operators: list[SparsePauliOp],
        values: Floats,
        *,
        retry_failed: bool = False,
        report: Report = lambda event: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``circuit`` is transpiled, ``operators`` are laid out like it, ``values`` (sets, parameters) are in the
        order of ``circuit.parameters``."""
        self._device = device
        self._folder = folder
        self._plan = plan
        self._circuit = circuit
        self._operators = operators
        self._values = values
        self._retry_failed = retry_failed
        self._report = report
        self._sleep = sleep
        self._jobs = DeviceJobs(device, plan.options.execution)
        self._submitted = 0

    def run(self) -> Measured:
        """Have every parameter set measured; raises JobFailedError, ServiceError, QpuFolderError."""
        records = [
            self._record(*chunk)
            for chunk in enumerate(slices(len(self._values), self._plan.options.sets_per_job))
        ]
        self._refuse_failed(records)
        try:
            self._drive(records)
        finally:
            self._close_jobs(records[-1])
        results = [self._folder.result(record) for record in records]
        values = np.concatenate([result.expectations for result in results], axis=1)
        errors = np.concatenate([result.standard_errors for result in results], axis=1)
        factors = self._plan.options.noise_factors
        at_none, error_at_none = (
            to_zero_noise(values, errors, factors, self._plan.options.shots)
            if len(factors) > 1
            else (values[0], errors[0])
        )
        return Measured(at_none, error_at_none, values[0], errors[0], tuple(records), self._submitted)

    def _record(self, number: int, chunk: tuple[int, int]) -> JobRecord:
        record = self._folder.job(number)
        if record is None:
            return JobRecord(number, *chunk, self._plan.digest)
        if record.digest != self._plan.digest or (record.first, record.count) != chunk:
            raise QpuFolderError(f"job {number} in {self._folder.folder} belongs to another run")
        return record

    def _refuse_failed(self, records: list[JobRecord]) -> None:
        failed = [record for record in records if record.state == "failed"]
        if failed and not self._retry_failed:
            raise self._failure(records)

    def _drive(self, records: list[JobRecord]) -> None:
        flying: deque[tuple[JobRecord, Any]] = deque()
        waiting: deque[JobRecord] = deque()
        for record in records:
            if record.state == "done":
                self._tell("kept", record, "finished earlier, results are here")
                continue
            job = self._recover(record)
            if job is None:
                waiting.append(record)
            else:
                flying.append((self._folder.job(record.number) or record, job))
        window = 1 if self._device.local else self._plan.options.max_pending
        failed = False
        while flying or (waiting and not failed):
            while waiting and not failed and len(flying) < window:
                flying.append(self._submit(waiting.popleft()))
            record, job = flying.popleft()
            records[record.number] = self._collect(record, job)
            failed = failed or records[record.number].state == "failed"
        if failed:
            raise self._failure(records)

    def _recover(self, record: JobRecord) -> Any | None:
        """The job of ``record`` if it was submitted before, else None."""
        if record.state not in ("submitting", "submitted"):
            return None
        if self._device.local:
            self._tell(
                "again", record, "was being simulated when the run stopped; simulated again at no cost"
            )
            return None
        if record.state == "submitting":
            return self._found_by_tag(record)
        job = self._look(record, lambda: self._jobs.job(record.job_id))
        if job is None and not self._retry_failed:
            raise JobFailedError(
                f"the service does not know job {record.job_id} (job {record.number} of {self._folder.folder}): "
                "it was deleted there, or belongs to another account; run again with --resume under the account "
                "that submitted it, or with --resume and --retry-failed to submit it anew and pay for it again"
            )
        if job is not None:
            self._tell("found", record, f"job {record.job_id} was submitted earlier, not submitted again")
        return job

    def _found_by_tag(self, record: JobRecord) -> Any | None:
        """The job whose submission was cut short, if the service took it; waits until it must be listed.

        The wall clock is believed to a day: after a step of hours a job submitted a moment ago would look old,
        and be submitted, and paid for, again.
        """
        age_s = (datetime.now(UTC) - datetime.fromisoformat(record.submitted_at)).total_seconds()
        looks = 1 + (0 if age_s > DAY_S else math.ceil(LISTED_WITHIN_S / POLL_S))
        for look in range(looks):
            jobs = self._look(record, lambda: self._jobs.tagged(record.tag))
            if jobs:
                break
            if look == 0 and looks > 1:
                text = "its submission was cut short; looking for it at the service"
                self._tell("looking", record, f"{text} for up to {looks * POLL_S:.0f} s")
            if look < looks - 1:
                self._sleep(POLL_S)
        else:
            return None
        states = [str(self._look(record, job.status)) for job in jobs]
        job = jobs[states.index("DONE")] if "DONE" in states else jobs[0]
        record = msgspec.structs.replace(record, state="submitted", job_id=str(job.job_id()))
        self._folder.save(record)
        self._tell("found", record, f"job {record.job_id} was submitted earlier, not submitted again")
        if others := [str(each.job_id()) for each in jobs if each is not job]:
            self._tell("found", record, f"the service also holds {', '.join(others)} of the same submission")
        return job

    def _submit(self, record: JobRecord) -> tuple[JobRecord, Any]:
        # A submission that was cut short keeps its tag: should it appear later after all, it is found by it.
        attempt = max(record.attempt, 1) if record.state == "submitting" else record.attempt + 1
        earlier = (*record.earlier_job_ids, record.job_id) if record.job_id else record.earlier_job_ids
        record = JobRecord(
            number=record.number,
            first=record.first,
            count=record.count,
            digest=record.digest,
            state="submitting",
            attempt=attempt,
            tag=tag_of(self._plan, record.number, attempt),
            submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
            earlier_job_ids=earlier,
        )
        self._folder.save(record)
        values = self._values[record.first : record.first + record.count]
        settings = self._plan.options.for_estimator(
            local=self._device.local, tag=record.tag, chunk=record.number
        )
        try:
            job = self._jobs.submit(self._circuit, self._operators, values, settings)
        except Exception as error:
            if self._device.local:
                raise
            raise self._out_of_reach(record, error) from None
        record = msgspec.structs.replace(
            record,
            state="submitted",
            job_id=str(job.job_id()),
            session_id=self._jobs.session_id,
        )
        self._folder.save(record)
        self._submitted += 1
        self._tell("submitted", record, f"{record.count} parameter sets as job {record.job_id}")
        return record, job

    def _collect(self, record: JobRecord, job: Any) -> JobRecord:
        status = self._wait(record, job)
        if status != "DONE":
            reason = without_secrets(self._look(record, job.error_message) or status.lower())
            return self._fail(record, reason)
        factors = self._plan.options.noise_factors
        try:
            result = JobResult(*self._look(record, lambda: measured(job, factors)))
        except JobFailedError as error:
            return self._fail(record, str(error))
        expected = (len(factors), record.count, len(self._operators))
        if result.expectations.shape != expected or result.standard_errors.shape != expected:
            return self._fail(
                record, f"the result has shape {result.expectations.shape} instead of {expected}"
            )
        if not all(np.isfinite(values).all() for values in vars(result).values()):
            return self._fail(record, "the result has values that are not finite")
        qpu_s = None if self._device.local else _usage_s(job)
        record = self._folder.save_result(msgspec.structs.replace(record, qpu_s=qpu_s), result)
        self._tell(
            "done", record, f"{record.first + record.count} of {len(self._values)} parameter sets measured"
        )
        return record

    def _wait(self, record: JobRecord, job: Any) -> str:
        if self._device.local:
            try:
                job.result()
            except Exception as error:
                raise self._failure([self._fail(record, f"the simulation failed: {error}")]) from error
            return "DONE"
        shown = ""
        while True:
            status = str(self._look(record, job.status))
            if status != shown:
                self._tell("status", record, f"job {record.job_id} {status.lower()}")
                shown = status
            if status in ("DONE", "ERROR", "CANCELLED"):
                return status
            self._sleep(POLL_S)

    def _look(self, record: JobRecord, call: Callable[[], Any]) -> Any:
        """``call()``, repeated while the network fails for a short time."""
        for attempt in range(PATIENCE):
            try:
                return call()
            except JobFailedError:
                raise
            except Exception as error:
                if self._device.local:
                    raise
                if attempt == PATIENCE - 1:
                    raise self._out_of_reach(record, error) from None
                self._sleep(POLL_S * 2**attempt)
        raise AssertionError("unreachable")

    def _fail(self, record: JobRecord, reason: str) -> JobRecord:
        record = msgspec.structs.replace(record, state="failed", error=reason)
        self._folder.save(record)
        self._tell("failed", record, reason)
        return record

    def _failure(self, records: list[JobRecord]) -> JobFailedError:
        failed = [record for record in records if record.state == "failed"]
        done = sum(record.state == "done" for record in records)
        lines = [f"  job {record.number} ({record.job_id or 'no id'}): {record.error}" for record in failed]
        charged = "" if self._device.local else " (a job that failed at the service may have been charged)"
        return JobFailedError(
            f"{len(failed)} of {self._plan.jobs} jobs failed, {done} are finished and kept in "
            f"{self._folder.folder}:\n"
            + "\n".join(lines)
            + f"\nrun again with --resume and --retry-failed to submit the failed ones anew{charged}"
        )

    def _out_of_reach(self, record: JobRecord, error: Exception) -> ServiceError:
        return ServiceError(
            f"job {record.number}: the service did not answer as expected: {without_secrets(error)}\n"
            f"what was submitted is noted in {self._folder.folder}; run again with --resume and nothing is paid twice"
        )

    def _close_jobs(self, record: JobRecord) -> None:
        try:
            self._jobs.close()
        except Exception as error:  # noqa: BLE001 - an open session ends by itself; results matter more
            text = f"the {self._plan.options.execution} could not be closed and ends by itself"
            self._tell("open", record, f"{text}: {without_secrets(error)}")

    def _tell(self, kind: str, record: JobRecord, text: str) -> None:
        self._report(QpuEvent(kind, record.number, self._plan.jobs, text))


def _usage_s(job: Any) -> float | None:
    """QPU seconds the service charges for a job, if it says."""
    try:
        return float(job.usage(partial=True) or 0.0)
    except Exception:  # noqa: BLE001 - a figure for the report only
        return None
