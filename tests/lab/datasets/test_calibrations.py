"""Calibrations as data sets that QCoDeS and its plots open."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import matplotlib
import pytest
from msgspec import structs
from qcodes.dataset import load_by_id, plot_dataset

from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.steps import Step
from lab.datasets.calibrations import Origin, database_of, write_calibration
from lab.datasets.database import DatabaseError, readable

matplotlib.use("Agg")
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENDED = BEGAN + timedelta(seconds=9)
CURVE = Curve(
    "Clicks by level", "voltage / V", "clicks per level", [0.0, 0.1, 0.2],
    {"D1": [3.0, 2.0, 1.0], "D2": [1.0, 2.0, 4.0]}, {"D1": [3.1, 2.0, 0.9]}, {"D1": [1.0, 1.5, 1.0]},
)  # fmt: skip
FINDING = Finding(
    step=Step.PHASE,
    owner="alice",
    partner="carol",
    values={"v_pi_v": Measured(3.97, 0.0025, "V")},
    figures={"delays_ps": Measured([1.0, 2.0], [0.1, 0.2], "ps")},
    settings={"rf_gain": 20.0},
    quality={"chi2": 501.0},
    counts={"D1": [3, 2, 1]},
    curves=[CURVE],
    light_s=1.4,
)
ORIGIN = Origin("ring", "0" * 64, "", "0.1.0")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder with 100 %?" / "alice.db"


def written(path: Path, finding: Finding) -> int:
    return write_calibration(path, finding, ORIGIN, {"station": {}}, BEGAN, ENDED)


def test_a_curve_is_a_set_point_with_what_was_measured_and_fitted(path: Path) -> None:
    number = written(path, FINDING)
    with readable(path) as connection:
        data = load_by_id(number, connection)
        assert data.completed
        measured = data.get_parameter_data()
        plotted, _ = plot_dataset(data)
        assert (data.name, data.exp_name, data.sample_name) == ("phase of alice", "calibration", "ring")
        found = data.metadata
        specs = data.paramspecs
    assert measured["D1_clicks_per_level"]["D1_clicks_per_level"].tolist() == [3.0, 2.0, 1.0]
    assert measured["D1_clicks_per_level"]["voltage"].tolist() == CURVE.x
    assert measured["D1_clicks_per_level_fitted"]["D1_clicks_per_level_fitted"].tolist() == [3.1, 2.0, 0.9]
    assert measured["D1_clicks_per_level_sigma"]["D1_clicks_per_level_sigma"].tolist() == [1.0, 1.5, 1.0]
    assert measured["D2_clicks_per_level"]["D2_clicks_per_level"].tolist() == [1.0, 2.0, 4.0]
    assert (specs["voltage"].label, specs["voltage"].unit) == ("voltage", "V")
    assert specs["D1_clicks_per_level_fitted"].label == "D1: clicks per level, fitted"
    assert plotted[0].get_ylabel() == "D1: clicks per level"
    assert plotted[0].get_xlabel() == "voltage (mV)"  # QCoDeS takes the prefix that fits
    told = json.loads(found["finding"])
    assert told["values"]["v_pi_v"] == {"value": 3.97, "uncertainty": 0.0025, "unit": "V"}
    assert told["counts"] == {"D1": [3, 2, 1]}
    assert (told["quality"], told["curves"]) == ({"chi2": 501.0}, [])
    assert (found["step"], found["owner"], found["partner"]) == ("phase", "alice", "carol")
    assert found["ended"] == "2026-03-01T12:00:09+00:00"
    assert path.stat().st_mode & 0o077 == 0


def test_a_finding_without_curves_is_a_point_in_time_with_uncertainties(path: Path) -> None:
    number = written(path, structs.replace(FINDING, curves=[]))
    with readable(path) as connection:
        data = load_by_id(number, connection)
        measured = {name: each[name].tolist() for name, each in data.get_parameter_data().items()}
        plot_dataset(data)
    assert measured == {
        "v_pi_v": [3.97], "v_pi_v_sigma": [0.0025],
        "delays_ps_1": [1.0], "delays_ps_1_sigma": [0.1], "delays_ps_2": [2.0], "delays_ps_2_sigma": [0.2],
    }  # fmt: skip


def test_curves_of_one_finding_keep_apart(path: Path) -> None:
    number = written(
        path, structs.replace(FINDING, curves=[CURVE, structs.replace(CURVE, x=[5.0, 6.0, 7.0])])
    )
    with readable(path) as connection:
        data = load_by_id(number, connection).get_parameter_data()
    assert data["D1_clicks_per_level_1"]["voltage_1"].tolist() == CURVE.x
    assert data["D1_clicks_per_level_2"]["voltage_2"].tolist() == [5.0, 6.0, 7.0]


def test_an_origin_is_told_by_the_bytes_of_the_files(tmp_path: Path) -> None:
    testbed = tmp_path / "testbed.toml"
    testbed.write_text("a")
    assert Origin.of("ring", testbed).testbed_digest == sha256(b"a").hexdigest()
    assert Origin.of("ring", testbed).calibration_digest == ""
    (tmp_path / "calibration.toml").write_text("b")
    assert Origin.of("ring", testbed).calibration_digest == sha256(b"b").hexdigest()
    assert database_of(testbed, "bob") == tmp_path / "calibrations" / "bob.db"


def test_nothing_of_a_data_set_stands_there_that_could_not_be_written_to_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, FINDING)

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL  # type: ignore[misc]
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("qcodes.dataset.data_set.DataSet.mark_completed", full)
        with pytest.raises(DatabaseError, match=r"alice\.db: its disk is full; make room there") as caught:
            written(path, FINDING)
    assert caught.value.full
    assert written(path, FINDING) == 2


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"no database at all, but long enough to be none of them" * 40, "it is damaged"),
        ("half", "it is damaged"),
    ],
)
def test_a_damaged_database_is_named_and_left_as_it_is(path: Path, content: bytes | str, told: str) -> None:
    for _ in range(3):
        written(path, FINDING)
    before = path.read_bytes()
    broken = content if isinstance(content, bytes) else before[:100] + b"\xff" * 8000 + before[8100:]
    path.write_bytes(broken)
    with pytest.raises(DatabaseError, match=told) as caught:
        written(path, FINDING)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == broken


@pytest.mark.parametrize(
    ("version", "told"), [(99, "use the QCoDeS that wrote it"), (4, "brings a copy of it")]
)
def test_a_database_of_another_version_is_not_touched(path: Path, version: int, told: str) -> None:
    written(path, FINDING)
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match=told):
        written(path, FINDING)
    with pytest.raises(DatabaseError, match=f"version {version} of QCoDeS"), readable(path):
        raise AssertionError("it was opened")
    assert path.read_bytes() == before


def test_another_database_of_sqlite_is_not_taken_for_one_of_ours(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(DatabaseError, match="no data sets of QCoDeS"):
        written(path, FINDING)


def test_a_database_that_is_not_there_is_not_made_by_reading(path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no such file"), readable(path):
        raise AssertionError("it was opened")
    assert not path.exists()
