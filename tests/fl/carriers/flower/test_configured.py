"""``QkdFedAvg()`` in the place of ``FedAvg()``: everything follows from the run configuration, and what is missing is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from fl.carriers.flower.configured import OWN, SETTINGS, secure_run_of
from fl.carriers.flower.participant import SetupError
from fl.carriers.flower.secure_run import SecureRun
from fl.carriers.flower.strategy import QkdFedAvg
from fl.experiments.options import TrainOptions, rows_of
from lab.runs.testbeds.folder import create_folder, template_path
from tests.fl.carriers.flower.conftest import RUN, SERVER_NODE, Federation, model_of, values_of


def run_app(federation: Federation, config: dict[str, Any], **arguments: Any) -> list[Any]:
    """A server app as Flower calls it; gives the strategy and the result."""
    app, made = ServerApp(), list[Any]()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        made.append(QkdFedAvg(**arguments))
        made.append(made[0].start(grid, model_of(federation.initial), num_rounds=2, timeout=400))

    app(federation.grid, Context(RUN, SERVER_NODE, {}, RecordDict(), config))  # type: ignore[arg-type]
    return made


def test_without_arguments_it_trains_what_the_run_configuration_says(
    federation: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = federation(seed=7, levels=31)
    config = {"key-supply": "simulated", "state-folder": str(tmp_path / "kept"), "seed": 7, "levels": 31}
    with caplog.at_level(logging.INFO):
        strategy, result = run_app(four, config)
    assert [outcome.reason for outcome in strategy.outcomes] == ["", ""]
    assert strategy.outcomes[0].participants == four.users
    four.strategy = strategy
    np.testing.assert_array_equal(values_of(result.arrays), four.expected(2))
    assert list((tmp_path / "kept").iterdir())
    bits = strategy.outcomes[0].key_bits
    assert bits == 6 * 37 * strategy._config.ring_width
    assert f"round 1: {bits / 1e3:.3g} kbit of key (simulated) used, 6 pairs" in caplog.text


def test_what_fedavg_takes_is_taken(federation: Any, tmp_path: Path) -> None:
    config = {"key-supply": "simulated", "state-folder": str(tmp_path / "kept"), "clients": 4}
    strategy, _ = run_app(federation(), config, min_available_nodes=3, fraction_evaluate=0.5)
    assert (strategy.min_available_nodes, strategy.fraction_evaluate) == (3, 0.5)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, 'neither testbed="FILE".*nor key-supply="simulated"'),
        ({"key-supply": "quantum"}, "key-supply = 'quantum'"),
        ({"key-supply": "simulated", "clip": "much"}, "clip = 'much'.*float"),
        ({"key-supply": "simulated", "levels": 7.5}, "levels = 7.5.*int"),
        ({"key-supply": "simulated", "mode": "plain"}, "mode = 'plain'.*otp"),
        ({"key-supply": "simulated", "clients": 1}, "clients = 1.*at least 2"),
        ({"testbed": "/nowhere/testbed.toml", "run-id": "spring"}, "cannot read the testbed file"),
        ({"testbed": "/nowhere/testbed.toml"}, "run-id"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_sent(
    federation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    four = federation()
    with pytest.raises(SetupError, match=told):
        run_app(four, config)
    assert not four.grid.sent


def test_outside_a_server_app_it_asks_for_a_run_configuration(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="main function of a ServerApp"):
        QkdFedAvg()
    given = {"key-supply": "simulated", "state-folder": str(tmp_path)}
    assert QkdFedAvg(run_config=given).roster.key_supply == "simulated"


def test_with_keys_from_nodes_the_roster_is_the_testbed_files(tmp_path: Path) -> None:
    path = create_folder(tmp_path / "bed", template_path("simulated-four-node"))
    for testbed in (path, path.parent):
        strategy = QkdFedAvg(run_config={"testbed": str(testbed), "run-id": "spring"})
        assert strategy.roster.users() == ("alice", "bob", "carol", "dave")
        assert (strategy.roster.key_supply, strategy.min_available_nodes) == ("node", 4)
        assert strategy.secure_run.run_id == "spring"


def test_zero_and_nothing_leave_what_the_app_prefers() -> None:
    chosen = secure_run_of({"clip": 0.0, "levels": 3, "run-id": ""}, SecureRun(clip=0.2, levels=9))
    assert (chosen.clip, chosen.levels, chosen.run_id) == (0.2, 3, "")


def test_options_of_every_run_are_keys_of_the_run_configuration_by_the_same_names() -> None:
    shared = set(SETTINGS) - set(OWN) - {"run-id"}
    assert shared == {
        *("mode", "seed", "levels", "ring-width", "clip", "clip-decay", "keep", "colluders", "survivors")
    }
    assert shared <= {row.name for row in rows_of(TrainOptions)}
    run = secure_run_of({"clip-decay": 0.9, "ring-width": 12, "seed": 3})
    assert (run.clip_decay, run.ring_width, run.seed) == (0.9, 12, 3)
    with pytest.raises(SetupError, match="clip-decay = 'a' in the run configuration: it is of type float"):
        secure_run_of({"clip-decay": "a"})
