"""What the demo trains: the hospitals' classifier, or the network for handwritten digits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from secagg.demo import digits, hospitals, model
from secagg.errors import ConfigError
from secagg.federated import fedprox_gradient

Model = model.Model


class Problem(ABC):
    """Clients with data of their own, a first model, and a test set that belongs to none of them."""

    name: ClassVar[str]
    client: ClassVar[str]  # what a client is called, and what it has
    example: ClassVar[str]
    l2_clip: ClassVar[float]  # the largest L2 norm of an update in a noised training
    epochs: ClassVar[int]  # local epochs by default

    weights: Mapping[str, int]
    """Examples by client."""
    tested: int
    """Examples in the test set."""

    @abstractmethod
    def initial(self) -> Model:
        """The first model."""

    @abstractmethod
    def update(self, current: Model, client: str, number: int, epochs: int, proximal: float) -> Model:
        """What a client's training in round ``number`` changes; ``proximal`` is FedProx's μ."""

    @abstractmethod
    def correct(self, current: Model) -> int:
        """The number of test examples that the model classifies correctly."""

    @abstractmethod
    def describe(self) -> str:
        """How the data are spread over the clients, for the notes under the table."""

    @abstractmethod
    def shards(self) -> dict[str, dict[str, Any]]:
        """The size of each client's data, in plain types."""


class Hospitals(Problem):
    """Logistic regression over patients: every local epoch is one gradient step over all of a hospital's."""

    name = "hospitals"
    client, example = "hospital", "patient"
    l2_clip = 0.1
    epochs = model.STEPS

    def __init__(self, clients: int, seed: int, *, plausible: bool = False) -> None:
        self.study = hospitals.load(clients, np.random.default_rng([seed, 0]), plausible=plausible)
        self._by_id = {hospital.id: hospital for hospital in self.study.hospitals}
        self.weights = {hospital.id: hospital.patients for hospital in self.study.hospitals}
        self.tested = self.study.test.patients

    def initial(self) -> Model:
        """All zeros."""
        return model.initial(self.study.test.features.shape[1])

    def update(self, current: Model, client: str, number: int, epochs: int, proximal: float) -> Model:
        """Gradient steps over all patients; nothing is random."""
        hospital = self._by_id[client]
        if not proximal:
            return model.update(current, hospital, epochs)
        return model.update(current, hospital, epochs, partial(fedprox_gradient, anchor=current, mu=proximal))

    def correct(self, current: Model) -> int:
        """Patients of the test set."""
        return model.correct(current, self.study.test)

    def describe(self) -> str:
        """Sizes of the hospitals, and how many of their patients have a malignant tumour."""
        sick = [round(100 * one.malignant / one.patients) for one in self.study.hospitals]
        return f"{_span(self.weights)} patients, {min(sick)} to {max(sick)} % of them malignant"

    def shards(self) -> dict[str, dict[str, Any]]:
        """Patients, and how many are malignant."""
        return {one.id: {"patients": one.patients, "malignant": one.malignant} for one in self.study.hospitals}


class Digits(Problem):
    """A network of 2,410 weights for handwritten digits."""

    name = "digits"
    client, example = "client", "image"
    l2_clip = 0.5
    epochs = digits.EPOCHS

    def __init__(self, clients: int, seed: int) -> None:
        self.data, self.seed = digits.load(clients, seed), seed
        self._by_id = {shard.id: (at, shard) for at, shard in enumerate(self.data.clients)}
        self.weights = {shard.id: shard.images for shard in self.data.clients}
        self.tested = self.data.test.images

    def initial(self) -> Model:
        """Random, by the seed."""
        return digits.initial(self.seed)

    def update(self, current: Model, client: str, number: int, epochs: int, proximal: float) -> Model:
        """Gradient steps over batches, in an order that the seed, the round and the client decide."""
        at, shard = self._by_id[client]
        rng = np.random.default_rng([self.seed, 2, number, at])
        if not proximal:
            return digits.train(current, shard, rng, epochs=epochs)
        pulled = partial(fedprox_gradient, anchor=current, mu=proximal)
        return digits.train(current, shard, rng, epochs=epochs, adjusted=pulled)

    def correct(self, current: Model) -> int:
        """Images of the test set."""
        return digits.correct(current, self.data.test)

    def describe(self) -> str:
        """Sizes of the shards, and how many of the ten digits a client mostly has."""
        share = [np.bincount(one.labels).max() / one.images for one in self.data.clients]
        return f"{_span(self.weights)} images, on average {100 * np.mean(share):.0f} % of them of one digit"

    def shards(self) -> dict[str, dict[str, Any]]:
        """Images, and how many there are of each digit."""
        return {
            one.id: {"images": one.images, "digits": np.bincount(one.labels, minlength=10).tolist()}
            for one in self.data.clients
        }


def load(task: str, clients: int, seed: int, *, private: bool) -> Problem:
    """The problem that a command line names. ``private`` data are scaled by public constants alone."""
    if task == Hospitals.name:
        return Hospitals(clients, seed, plausible=private)
    if task == Digits.name:
        return Digits(clients, seed)
    raise ConfigError(f"got --task {task}; expected {Hospitals.name} or {Digits.name}")


def client_ids(task: str, count: int) -> list[str]:
    """The ids of the clients, before any data are loaded."""
    return hospitals.hospital_ids(count) if task == Hospitals.name else digits.client_ids(count)


def _span(sizes: Mapping[str, int]) -> str:
    return f"{min(sizes.values())} to {max(sizes.values())}"
