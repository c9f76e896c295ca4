"""Jobs at the service: submitted once, found again after any interruption, never paid for twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fl.qpu.backends import AccountChoice, Device, open_device
from fl.qpu.cost import CostEstimate
from fl.qpu.errors import (
    AccountError,
    JobFailedError,
    QpuFolderError,
    ServiceError,
    UnconfirmedCostError,
    UnknownBackendError,
)
from fl.qpu.evaluate import QpuReport, evaluate
from fl.qpu.journal import JobRecord, JobResult, QpuFolder
from fl.qpu.model import CircuitModel
from fl.qpu.options import Mitigation, RunOptions
from fl.qpu.request import kept_request
from fl.qpu.runner import LISTED_WITHIN_S


class Killed(BaseException):
    """The process ends here."""


def run(model: CircuitModel, device: Device, options: RunOptions, path: Path, **more: Any) -> QpuReport:
    with QpuFolder(path) as folder:
        return evaluate(
            model,
            device,
            options,
            folder,
            **{"agree": lambda cost: True, "sleep": lambda seconds: None, **more},
        )


def kill() -> None:
    raise Killed


def kill_at(cloud: Any, count: int) -> None:
    """End the process when the service has just taken its ``count``-th job."""

    def on_submit(job: Any) -> None:
        if len(cloud.jobs) == count:
            cloud.on_submit = lambda job: None
            raise Killed

    cloud.on_submit = on_submit


def test_a_run_submits_every_chunk_once(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    report = run(model, device, options, tmp_path / "run")
    assert len(cloud.jobs) == report.submitted == report.jobs == 3
    assert report.job_ids == tuple(cloud.jobs)
    assert report.qpu_s == 9
    assert not report.local
    assert report.unused_locally == ()
    assert report.comparison.agreement >= 0.75
    again = run(model, device, options, tmp_path / "run", resume=True)
    assert (again.submitted, again.comparison, len(cloud.jobs)) == (0, report.comparison, 3)


def test_options_circuit_and_session_reach_the_service(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    chosen = msgspec.structs.replace(
        options,
        mitigation="none",
        dynamical_decoupling="XpXm",
        twirl_gates=True,
        execution="session",
        max_job_s=60,
    )
    run(model, device, chosen, tmp_path / "run")
    job = next(iter(cloud.jobs.values()))
    (item,) = cloud.program_of(job).items
    assert job.max_execution_time == 60
    (session,) = cloud.sessions.values()
    assert (session["mode"], session["accepting_jobs"]) == ("dedicated", False)
    assert {each.session_id for each in cloud.jobs.values()} == {session["id"]}
    assert item.circuit.num_qubits == 5
    gates = set(item.circuit.count_ops())
    assert {"rz", "sx", "cx", "measure", "delay"} <= gates
    assert "ry" not in gates


@pytest.mark.parametrize(("mitigation", "items"), [("none", 1), ("trex", 2), ("zne", 4)])
def test_what_is_submitted_costs_what_was_said(
    cloud: Any,
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    tmp_path: Path,
    mitigation: Mitigation,
    items: int,
) -> None:
    chosen = msgspec.structs.replace(options, mitigation=mitigation, shots=300, sets_per_job=6)
    costs: list[CostEstimate] = []
    report = run(model, device, chosen, tmp_path / "run", agree=lambda cost: costs.append(cost) or True)
    programs = [cloud.program_of(job) for job in cloud.jobs.values()]
    assert [len(program.items) for program in programs] == [items] * 2
    circuits = [item.size() for program in programs for item in program.items]
    assert report.cost == costs[0]
    assert report.cost.circuits == sum(circuits)
    assert report.cost.executions == sum(
        program.shots * item.size() for program in programs for item in program.items
    )
    # The calibration of |0> is one circuit over all qubits, and the last of every job.
    if mitigation != "none":
        assert "_meas" in {register.name for register in programs[0].items[-1].circuit.cregs}


def test_mitigation_is_as_good_for_a_job_that_was_fetched_by_its_id(
    cloud: Any,
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    account: AccountChoice,
    tmp_path: Path,
) -> None:
    chosen = msgspec.structs.replace(options, mitigation="zne", shots=1024, sets_per_job=12)
    cloud.fail_next(("RUNNING", None))
    with pytest.raises(Killed):
        run(model, device, chosen, tmp_path / "run", sleep=lambda seconds: kill())
    next(iter(cloud.jobs.values())).state = "COMPLETED"
    report = run(model, open_device(device.name, account), chosen, tmp_path / "run", resume=True)
    assert (report.submitted, len(cloud.jobs)) == (0, 1)
    assert report.at_own_noise is not None
    assert report.comparison.deviation.contrast > report.at_own_noise.deviation.contrast
    assert report.comparison.deviation.rest < report.at_own_noise.deviation.rest


def test_a_result_of_another_shape_is_told(
    cloud: Any,
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from qiskit_ibm_runtime import RuntimeJobV2

    whole = RuntimeJobV2.result
    monkeypatch.setattr(RuntimeJobV2, "result", lambda self: whole(self)[:0])
    with pytest.raises(JobFailedError, match=r"the result has 0 parts, one was submitted"):
        run(model, device, msgspec.structs.replace(options, sets_per_job=12), tmp_path / "run")
    with QpuFolder(tmp_path / "run") as folder:
        assert folder.jobs()[0].state == "failed"


@pytest.mark.parametrize(
    ("name", "read"),
    [("run.json", lambda folder: QpuFolder(folder).plan()), ("request.json", kept_request)],
)
def test_a_folder_of_an_older_version_is_refused_with_what_to_do(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    (tmp_path / name).write_text(json.dumps({"format": 1, "options": {"resilience_level": 1}}))
    with pytest.raises(
        QpuFolderError, match=rf"{name}: it has format 1, this version reads \d: use the version of qunetlab"
    ):
        read(tmp_path)


def test_without_batch_or_session_none_is_opened(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    run(model, device, msgspec.structs.replace(options, execution="job"), tmp_path / "run")
    assert cloud.sessions == {}
    assert len(cloud.jobs) == 3


@pytest.mark.parametrize("at", [1, 3])
def test_killed_between_submission_and_note_the_job_is_found_by_its_tag(
    cloud: Any,
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    tmp_path: Path,
    at: int,
    account: AccountChoice,
) -> None:
    kill_at(cloud, at)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    with QpuFolder(tmp_path / "run") as folder:
        last = folder.jobs()[-1]
    assert (last.state, last.job_id) == ("submitting", "")
    report = run(model, open_device(device.name, account), options, tmp_path / "run", resume=True)
    assert len(cloud.jobs) == 3
    assert report.submitted == 3 - at


def test_a_job_that_is_listed_late_is_waited_for(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    kill_at(cloud, 3)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    cloud.listed_late = 10
    kinds: list[str] = []
    report = run(
        model,
        device,
        options,
        tmp_path / "run",
        resume=True,
        report=lambda event: kinds.append(event.kind),
    )
    assert (len(cloud.jobs), report.submitted) == (3, 0)
    assert kinds.index("looking") < kinds.index("found", kinds.index("looking"))


def test_killed_before_the_service_took_the_job_it_is_submitted_under_the_same_tag(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    kill_at(cloud, 2)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    tags = cloud.jobs.pop(list(cloud.jobs)[-1]).tags
    waited: list[float] = []
    report = run(model, device, options, tmp_path / "run", resume=True, sleep=waited.append)
    assert len(cloud.jobs) == 3
    assert report.submitted == 2
    assert list(cloud.jobs.values())[1].tags == tags
    # It is given up only when the service must have listed it.
    assert sum(waited) == pytest.approx(LISTED_WITHIN_S, abs=5)
    long_ago = dict(json.loads((tmp_path / "run" / "job-0001.json").read_text()))
    long_ago |= {"state": "submitting", "job_id": "", "submitted_at": "2026-01-01T00:00:00+00:00"}
    (tmp_path / "run" / "job-0001.json").write_text(json.dumps(long_ago))
    waited.clear()
    again = run(model, device, options, tmp_path / "run", resume=True, sleep=waited.append)
    assert (again.submitted, waited) == (0, [])


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_wall_clock_stepped_by_an_hour_does_not_have_a_job_submitted_twice(
    hours: int, cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    """The service has taken the job and lists it only half a minute later."""
    kill_at(cloud, 2)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    name, taken = list(cloud.jobs.items())[-1]
    del cloud.jobs[name]
    path = tmp_path / "run" / "job-0001.json"
    record = json.loads(path.read_text())
    moved = datetime.fromisoformat(record["submitted_at"]) + timedelta(hours=hours)
    path.write_text(json.dumps(record | {"submitted_at": moved.isoformat()}))
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if sum(waited) > 30:
            cloud.jobs.setdefault(name, taken)

    report = run(model, device, options, tmp_path / "run", resume=True, sleep=sleep)
    assert sum(waited) > 30
    assert report.submitted == 1, "the job that was taken is not paid for twice"


def test_two_runs_of_the_same_thing_do_not_take_each_others_jobs(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    run(model, device, options, tmp_path / "one")
    kill_at(cloud, 4)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "two")
    del cloud.jobs[list(cloud.jobs)[-1]]
    report = run(model, device, options, tmp_path / "two", resume=True)
    assert report.submitted == 3
    assert len({job.tags[1] for job in cloud.jobs.values()}) == 6


def test_killed_while_waiting_jobs_are_fetched_by_their_id(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    cloud.fail_next(("RUNNING", None), ("QUEUED", None))

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, device, options, tmp_path / "run", sleep=interrupted)
    assert [job.state for job in cloud.jobs.values()] == ["RUNNING", "QUEUED"]
    assert all(not session["accepting_jobs"] for session in cloud.sessions.values())
    for job in cloud.jobs.values():
        job.state = "COMPLETED"
    events: list[tuple[str, int]] = []
    report = run(
        model,
        device,
        options,
        tmp_path / "run",
        resume=True,
        report=lambda event: events.append((event.kind, event.job)),
    )
    assert ("found", 0) in events
    assert ("found", 1) in events
    assert (report.submitted, len(cloud.jobs)) == (1, 3)


def test_a_job_that_fails_half_way_is_told_and_the_rest_is_kept(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    cloud.fail_next(("COMPLETED", None), ("FAILED", "Error code 6054: the instruction is not supported"))
    one_by_one = msgspec.structs.replace(options, max_pending=1)
    with pytest.raises(
        JobFailedError, match=r"(?s)1 of 3 jobs failed, 1 are finished.*6054.*--retry-failed"
    ) as caught:
        run(model, device, one_by_one, tmp_path / "run")
    assert "d000001" in str(caught.value)
    assert len(cloud.jobs) == 2
    with pytest.raises(JobFailedError, match="6054"):
        run(model, device, one_by_one, tmp_path / "run", resume=True)
    assert len(cloud.jobs) == 2
    report = run(model, device, one_by_one, tmp_path / "run", resume=True, retry_failed=True)
    assert (report.submitted, len(cloud.jobs)) == (2, 4)
    with QpuFolder(tmp_path / "run") as folder:
        record = folder.job(1)
    assert record is not None
    assert (record.attempt, record.earlier_job_ids, record.state) == (2, ("d000001",), "done")


def test_jobs_under_way_are_collected_after_a_failure(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    cloud.fail_next(("CANCELLED", None))
    with pytest.raises(JobFailedError, match="cancelled"):
        run(model, device, options, tmp_path / "run")
    with QpuFolder(tmp_path / "run") as folder:
        assert [record.state for record in folder.jobs()] == ["failed", "done"]
    assert len(cloud.jobs) == 2


def test_a_job_the_service_does_not_know_is_submitted_again_only_when_asked(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    kill_at(cloud, 2)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    hidden = cloud.jobs.pop("d000000")
    with pytest.raises(JobFailedError, match=r"does not know job d000000.*another account.*--retry-failed"):
        run(model, device, options, tmp_path / "run", resume=True)
    assert list(cloud.jobs) == ["d000001"]
    # It is only out of sight: seen again, it is taken as it is.
    cloud.jobs["d000000"] = hidden
    assert run(model, device, options, tmp_path / "run", resume=True).submitted == 1


def test_a_job_that_was_deleted_is_submitted_again_on_request(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    cloud.fail_next(("RUNNING", None))
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run", sleep=lambda seconds: kill())
    cloud.jobs.clear()
    report = run(model, device, options, tmp_path / "run", resume=True, retry_failed=True)
    assert (report.submitted, len(cloud.jobs)) == (3, 3)


def test_another_instance_of_the_service_does_not_go_on_with_a_run(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    kill_at(cloud, 1)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    kept = json.loads(path.read_text())
    assert kept["instance"].startswith("crn:v1:bluemix")
    path.write_text(json.dumps({**kept, "instance": "crn:of-the-group"}))
    with pytest.raises(QpuFolderError, match=r"begun under the service instance crn:of-the-group"):
        run(model, device, options, tmp_path / "run", resume=True)
    assert len(cloud.jobs) == 1


def test_a_network_that_fails_for_a_while_is_waited_for(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    def outage(job: Any) -> None:
        cloud.outage = 3

    cloud.on_submit = outage
    assert run(model, device, options, tmp_path / "run").submitted == 3


def test_a_network_that_stays_away_is_told_without_the_token(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    def outage(job: Any) -> None:
        cloud.outage = 10**6

    cloud.on_submit = outage
    with pytest.raises(ServiceError, match=r"(?s)no route to host.*--resume") as caught:
        run(model, device, options, tmp_path / "run")
    assert "secret-api-key" not in str(caught.value)
    cloud.outage, cloud.on_submit = 0, lambda job: None
    report = run(model, device, options, tmp_path / "run", resume=True)
    assert len(cloud.jobs) == 3
    assert report.jobs == 3


def test_no_token_in_the_run_folder(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    run(model, device, options, tmp_path / "run")
    for path in (tmp_path / "run").iterdir():
        assert b"secret-api-key" not in path.read_bytes(), path


def test_nothing_is_submitted_without_consent(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    with pytest.raises(UnconfirmedCostError, match=r"12 parameter sets x 1 basis x 256 shots.*--yes"):
        run(model, device, options, tmp_path / "run", agree=lambda cost: cost.free)
    assert cloud.jobs == {}


def test_a_folder_is_not_continued_with_something_else(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    run(model, device, options, tmp_path / "run")
    turned = model.with_weights(model.weights + 1e-9)
    with pytest.raises(QpuFolderError, match="another run"):
        run(turned, device, options, tmp_path / "run", resume=True)
    with pytest.raises(QpuFolderError, match="another run"):
        run(model, device, msgspec.structs.replace(options, shots=512), tmp_path / "run", resume=True)
    with pytest.raises(QpuFolderError, match="already holds a run"):
        run(model, device, options, tmp_path / "run")
    assert len(cloud.jobs) == 3


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with QpuFolder(tmp_path), pytest.raises(QpuFolderError, match="in use"), QpuFolder(tmp_path):
        pass
    with QpuFolder(tmp_path):
        pass


def test_damaged_files_are_told(tmp_path: Path) -> None:
    with QpuFolder(tmp_path) as folder:
        folder.save(JobRecord(0, 0, 4, "d"))
        (tmp_path / "job-0000.json").write_text("{")
        with pytest.raises(QpuFolderError, match="job-0000"):
            folder.jobs()
        kept = JobResult(np.zeros((1, 4, 3)), np.ones((1, 4, 3)))
        record = folder.save_result(JobRecord(1, 0, 4, "d"), kept)
        assert folder.result(record).standard_errors.sum() == 12
        (tmp_path / "result-0001.npz").write_bytes(b"PK")
        with pytest.raises(QpuFolderError, match="result-0001"):
            folder.result(record)


def test_a_record_of_another_run_is_refused(
    cloud: Any, model: CircuitModel, device: Device, options: RunOptions, tmp_path: Path
) -> None:
    kill_at(cloud, 1)
    with pytest.raises(Killed):
        run(model, device, options, tmp_path / "run")
    path = tmp_path / "run" / "job-0000.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": "0" * 64}))
    with pytest.raises(QpuFolderError, match="belongs to another run"):
        run(model, device, options, tmp_path / "run", resume=True)


def test_without_an_account_the_error_says_how_to_save_one(cloud: Any, tmp_path: Path) -> None:
    missing = AccountChoice(filename=str(tmp_path / "none.json"))
    with pytest.raises(AccountError, match=r"save_account\(channel="):
        open_device("ibm_brisbane", missing)


def test_accounts_that_cannot_be_read_are_no_matter_of_the_network(cloud: Any, tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    nowhere = AccountChoice(filename=str(tmp_path / "home" / "qiskit-ibm.json"))
    with pytest.raises(AccountError, match=r"(?s)saved accounts cannot be opened .*home.*save_account"):
        open_device("ibm_brisbane", nowhere)


def test_an_unknown_machine_is_refused_with_the_known_ones(cloud: Any, account: AccountChoice) -> None:
    with pytest.raises(UnknownBackendError, match=r"'ibm_nowhere'.*ibm_testville"):
        open_device("ibm_nowhere", account)


def test_an_account_the_service_refuses_is_told_without_the_token(account: AccountChoice) -> None:
    from qiskit_ibm_runtime.exceptions import IBMNotAuthorizedError

    token = json.loads(Path(str(account.filename)).read_text())["default-ibm-quantum-platform"]["token"]

    def refuse(**choice: Any) -> None:
        raise IBMNotAuthorizedError(f"401 for apikey={token}")

    with pytest.raises(AccountError, match="refuses the account") as caught:
        open_device("ibm_testville", account, refuse)
    assert token not in str(caught.value)
