"""Handwritten digits over many clients, and the small network that they train: the workload of docs/federated.md.

The 1,797 images of 8x8 pixels are those that scikit-learn carries with it. Everything random follows from one
seed: ``default_rng([seed, 0])`` deals the images, ``[seed, 1]`` draws the first model, and
``[seed, 2, round, client]`` the order in which a client goes through its images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Model = dict[str, Floats]

PIXELS, HIDDEN, CLASSES = 64, 32, 10
TEST_IMAGES = 360
LEAST_IMAGES = 5  # of a client
MOST_CLIENTS = 50
SKEW = 0.3  # the Dirichlet's concentration: the smaller, the fewer of the ten digits a client has
EPOCHS, BATCH, RATE = 2, 16, 0.1  # of a client's training between two aggregations


@dataclass(frozen=True, eq=False)
class Shard:
    """Some images: ``features`` (images × 64, from 0 to 1) and ``labels`` (0 to 9)."""

    id: str
    features: Floats
    labels: NDArray[np.int64]

    @property
    def images(self) -> int:
        """How many images; the weight of this client's update."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Digits:
    """The clients, whose shards are disjoint, and the images of none of them for testing."""

    clients: tuple[Shard, ...]
    test: Shard


def client_ids(count: int) -> list[str]:
    """The ids of so many clients."""
    return [f"client-{number:02}" for number in range(1, count + 1)]


def load(clients: int, seed: int) -> Digits:
    """Deal the images to 1 to 50 clients.

    360 images, drawn at random, are the test set. Of each digit's other images every client gets a part that is
    drawn from a Dirichlet distribution. The parts are drawn again until every client has at least 5 images.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(len(data.target))
    labels = data.target.astype(np.int64)
    training = order[TEST_IMAGES:]

    def shard(name: str, chosen: NDArray[np.int64]) -> Shard:
        return Shard(name, data.data[chosen] / 16.0, labels[chosen])

    while True:
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
        for digit in range(CLASSES):
            images = training[labels[training] == digit]
            until = np.cumsum(rng.dirichlet(np.full(clients, SKEW)))[:-1]
            for mine, part in zip(parts, np.split(images, np.rint(until * len(images)).astype(int)), strict=True):
                mine.append(part)
        shards = [np.concatenate(mine) for mine in parts]
        if min(map(len, shards)) >= LEAST_IMAGES:
            break
    names = client_ids(clients)
    return Digits(
        tuple(shard(name, chosen) for name, chosen in zip(names, shards, strict=True)),
        shard("test", order[:TEST_IMAGES]),
    )


def initial(seed: int) -> Model:
    """The first model: weights normal with the variance 2 / inputs (He et al. 2015), biases zero; 2,410 in all."""
    rng = np.random.default_rng([seed, 1])
    return {
        "hidden": rng.normal(0.0, (2 / PIXELS) ** 0.5, (PIXELS, HIDDEN)),
        "hidden_bias": np.zeros(HIDDEN),
        "output": rng.normal(0.0, (2 / HIDDEN) ** 0.5, (HIDDEN, CLASSES)),
        "output_bias": np.zeros(CLASSES),
    }


def gradient(model: Model, features: Floats, labels: NDArray[np.int64]) -> Model:
    """The gradient of the mean cross-entropy over these images, by back-propagation."""
    hidden = np.maximum(features @ model["hidden"] + model["hidden_bias"], 0.0)
    scores = hidden @ model["output"] + model["output_bias"]
    error = np.exp(scores - scores.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= 1.0
    error /= len(labels)
    behind = (error @ model["output"].T) * (hidden > 0.0)
    return {
        "hidden": features.T @ behind,
        "hidden_bias": behind.sum(axis=0),
        "output": hidden.T @ error,
        "output_bias": error.sum(axis=0),
    }


def train(
    model: Model,
    shard: Shard,
    rng: np.random.Generator,
    *,
    epochs: int = EPOCHS,
    adjusted: Callable[[Model, Model], Model] = lambda slope, own: slope,
) -> Model:
    """What a client's training changes: its model minus ``model``.

    Each epoch goes through the images in a new order, in batches of 16, the last of which may be smaller.
    ``adjusted(gradient, own)`` is what a step follows in the gradient's place, as FedProx has it.
    """
    own = {name: array.copy() for name, array in model.items()}
    for _ in range(epochs):
        order = rng.permutation(shard.images)
        for start in range(0, shard.images, BATCH):
            batch = order[start : start + BATCH]
            slope = adjusted(gradient(own, shard.features[batch], shard.labels[batch]), own)
            for name, array in own.items():
                array -= RATE * slope[name]
    return {name: own[name] - model[name] for name in model}


def correct(model: Model, shard: Shard) -> int:
    """How many of these images the model classifies rightly."""
    hidden = np.maximum(shard.features @ model["hidden"] + model["hidden_bias"], 0.0)
    scores = hidden @ model["output"] + model["output_bias"]
    return int(np.sum(scores.argmax(axis=1) == shard.labels))
