"""What is learned, and from what: put your own model and data here.

This one tells handwritten digits of 8 x 8 pixels apart (1797 of them, which scikit-learn brings along).  Every fifth
digit is the server's test set; the others are shared out among the clients.
"""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy


def make_model() -> nn.Module:
    """The model before the first round: the same for everybody who makes it."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels from 0 to 1, float32 of shape (n, 64), and classes, 1-d int64."""
    pixels, classes = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(classes)


def shard(index: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples of one client of ``number``: float32 of shape (n, 64), and 1-d int64."""
    inputs, classes = digits()
    own = [each for each in range(len(inputs)) if each % 5 and each // 5 % number == index]
    return inputs[own], classes[own]


def train(
    model: nn.Module, inputs: torch.Tensor, classes: torch.Tensor, steps: int, learning_rate: float
) -> None:
    """Some steps on all of one client's examples, float32 of shape (n, 64) and 1-d int64."""
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(model(inputs), classes).backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def evaluate(model: nn.Module) -> tuple[float, float]:
    """Accuracy and loss on the test set."""
    inputs, classes = (part[::5] for part in digits())
    outputs = model(inputs)
    accuracy = (outputs.argmax(1) == classes).float().mean()
    return float(accuracy), float(cross_entropy(outputs, classes))
