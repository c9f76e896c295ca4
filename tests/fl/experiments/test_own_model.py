"""The key cost of a model of one's own, from the file of its state_dict alone, and files that are none."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from published_schema import hold_against_schema
from typer.testing import CliRunner

from fl.experiments.own_model import OwnModel, OwnModelError, read_model, round_cost
from fl.rounds.config import ConfigError
from lab.cli.keycost import as_text
from lab.cli.main import app
from lab.runs.key_cost import key_cost

FOUR = ("alice", "bob", "carol", "dave")
LAYERS = {
    "weight": ("F32", [10, 64]),
    "bias": ("F32", [10]),
    "bn.running_mean": ("F32", [64]),
    "steps": ("I64", []),
}


def safetensors(path: Path, header: object) -> Path:
    """A file of the format, whose values are all zero."""
    data = json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + bytes(4096))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    header = {name: {"dtype": kind, "shape": shape} for name, (kind, shape) in LAYERS.items()}
    return safetensors(tmp_path / "model.safetensors", {"__metadata__": {"format": "pt"}, **header})


def test_names_and_sizes_are_read_and_no_value(model: Path) -> None:
    found = read_model(model)
    assert found.summed == {"weight": 640, "bias": 10, "bn.running_mean": 64}
    assert found.kept == {"steps": 1}


def test_a_round_costs_what_its_aggregation_says(model: Path) -> None:
    """Four clients of 127 levels: sums from -508 to 508 take 10 bits; buffers stay with each client."""
    cost = round_cost(read_model(model), FOUR)
    assert (cost.n_parameters, cost.n_values, cost.value_bits) == (714, 650, 10)
    assert (cost.upload_bytes, cost.key_bits_per_pair) == (813, 6500)
    assert round_cost(read_model(model), FOUR, levels=7).value_bits == 6
    assert round_cost(read_model(model), FOUR, "expanded").key_bits_per_pair == 256
    assert round_cost(read_model(model), FOUR, "plain").key_bits_per_pair == 0
    with pytest.raises(ConfigError, match="levels"):
        round_cost(read_model(model), FOUR, levels=1 << 40)


def test_seconds_of_ring_follow_from_the_planned_rates(model: Path) -> None:
    cost = key_cost(model, None, 10, "otp", None, "simulated-four-node")
    pairs = cost.forecast.pairs
    assert len(pairs) == 6
    assert cost.ring_s_per_round == pytest.approx(sum(6500 / each.rate_bps for each in pairs))
    assert cost.forecast.ring_s == pytest.approx(10 * cost.ring_s_per_round)
    text = as_text(cost)
    assert "6.5 kbit per pair and round, 39 kbit over 6 pairs; 390 kbit in 10 rounds" in text
    assert "64 stay with each client" in text


def test_torch_files_are_read_without_running_what_is_in_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[learning]'")
    network = torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.BatchNorm1d(10))
    torch.save(network.state_dict(), tmp_path / "model.pt")
    found = read_model(tmp_path / "model.pt")
    assert sum(found.summed.values()) == 650 + 40
    assert found.kept == {"1.num_batches_tracked": 1}

    torch.save({"epoch": 3, "model": network.state_dict()}, tmp_path / "checkpoint.pt")
    with pytest.raises(OwnModelError, match="it holds epoch, model"):
        read_model(tmp_path / "checkpoint.pt")


class Hostile:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


def test_a_file_that_would_run_something_is_refused_and_nothing_ran(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[learning]'")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Hostile(tmp_path / "ran")}, protocol=2))
    with pytest.raises(OwnModelError, match="nothing of it was run"):
        read_model(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert (tmp_path / "ran").exists()  # so it would have


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk" * 10,
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (30).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":3}}'[:30],
        (40).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[3,-1]}}    ',
    ],
)
def test_a_damaged_file_is_told_by_its_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(OwnModelError, match=r"model\.safetensors is no safetensors file"):
        read_model(tmp_path / "model.safetensors")


def test_what_cannot_be_trained_is_told(tmp_path: Path) -> None:
    counters = safetensors(tmp_path / "n.safetensors", {"steps": {"dtype": "I64", "shape": [3]}})
    with pytest.raises(OwnModelError, match="nothing to train"):
        read_model(counters)
    with pytest.raises(OwnModelError, match=r"\.safetensors"):
        read_model(tmp_path / "model.h5")
    with pytest.raises(ValueError, match="left out"):
        round_cost(OwnModel("m", {"bn.running_mean": 3}), FOUR)


def test_the_command_takes_a_testbed_and_answers_in_json(model: Path) -> None:
    told = CliRunner().invoke(app, ["keycost", str(model), "--clients", "3", "--rounds", "2", "--json"])
    assert told.exit_code == 0, told.output
    hold_against_schema(["keycost"], told.stdout)
    cost = json.loads(told.stdout)
    assert (cost["clients"], cost["forecast"]["n_pairs"], cost["forecast"]["rounds"]) == (3, 3, 2)
