"""The workload of ``bench resnet18``: updates with the shape of ResNet-18, 11.7 million values in 122 leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.workloads import Workload
from secagg.errors import ConfigError
from secagg.layout import Layout

WIDTH = 64  # channels of the first layer
CLASSES = 1000
STAGES, BLOCKS = 4, 2
MOST_WIDTH = 512

Update: TypeAlias = dict[str, Any]


def shapes(width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Name → shape of all parameters and buffers of ResNet-18, as in Torchvision's ``state_dict``.

    Other widths have as many leaves, and channels in proportion to ``width``. ResNet-18 is of 64.
    """
    names: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, inputs: int, outputs: int, kernel: int) -> None:
        names[f"{name}.weight"] = (outputs, inputs, kernel, kernel)

    def normalization(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            names[f"{name}.{part}"] = (channels,)
        names[f"{name}.num_batches_tracked"] = ()

    convolution("conv1", 3, width, 7)
    normalization("bn1", width)
    inputs = width
    for stage in range(STAGES):
        outputs = width << stage
        for block in range(BLOCKS):
            at = f"layer{stage + 1}.{block}"
            convolution(f"{at}.conv1", inputs, outputs, 3)
            normalization(f"{at}.bn1", outputs)
            convolution(f"{at}.conv2", outputs, outputs, 3)
            normalization(f"{at}.bn2", outputs)
            if inputs != outputs:
                convolution(f"{at}.downsample.0", inputs, outputs, 1)
                normalization(f"{at}.downsample.1", outputs)
            inputs = outputs
    names["fc.weight"], names["fc.bias"] = (CLASSES, inputs), (CLASSES,)
    return names


@dataclass(frozen=True)
class ResNet18(Workload):
    """Clients with updates of ResNet-18's shape: nested dicts of float32, each client's its own.

    An update is generated when it is asked for, so that no process holds those of all clients.
    """

    clients: int = 10
    coordinates: int = field(init=False, default=0)
    width: int = WIDTH

    def __post_init__(self) -> None:
        if isinstance(self.width, bool) or not isinstance(self.width, int) or not 1 <= self.width <= MOST_WIDTH:
            raise ConfigError(f"got --width {self.width}; expected 1 to {MOST_WIDTH:,}")
        object.__setattr__(self, "coordinates", sum(map(math.prod, self.shapes.values())))
        super().__post_init__()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the leaves."""
        return shapes(self.width)

    @property
    def layout(self) -> Layout:
        """The layout of an update: nested dicts, one level for each dot of a leaf's name."""
        return Layout.of(self._nested(np.broadcast_to(np.float32(0), self.coordinates)))

    def updates(self) -> Mapping[str, Update]:
        """Updates by client, uniform from -1 to 1, each generated when it is read."""
        return _Updates(self)

    def update(self, client: str) -> Update:
        """The update of ``client``."""
        flat = np.random.default_rng((self.seed, self.ids.index(client))).random(self.coordinates, np.float32)
        flat *= 2
        flat -= 1
        return _Update(self._nested(flat), workload=self, client=client)

    def flat(self, update: Any) -> NDArray[Any]:
        """All values of ``update``, leaf after leaf in the order of :func:`shapes`."""
        return np.concatenate([np.asarray(_leaf(update, name)).reshape(-1) for name in self.shapes])

    def _nested(self, flat: NDArray[np.float32]) -> Update:
        nested: Update = {}
        first = 0
        for name, shape in self.shapes.items():
            *folders, last = name.split(".")
            into, size = nested, math.prod(shape)
            for folder in folders:
                into = into.setdefault(folder, {})
            into[last] = flat[first : first + size].reshape(shape)
            first += size
        return nested


def _leaf(update: Any, name: str) -> Any:
    for key in name.split("."):
        update = update[key]
    return update


class _Update(Update):
    """An update that goes to another process as a rule: it is generated there, not copied."""

    def __init__(self, nested: Update, *, workload: ResNet18, client: str) -> None:
        super().__init__(nested)
        self._rule = (workload, client)

    def __reduce__(self) -> tuple[Any, ...]:
        return ResNet18.update, self._rule


class _Updates(Mapping[str, Update]):
    def __init__(self, workload: ResNet18) -> None:
        self._workload = workload

    def __getitem__(self, client: str) -> Update:
        return self._workload.update(client)

    def __iter__(self) -> Iterator[str]:
        return iter(self._workload.ids)

    def __len__(self) -> int:
        return self._workload.clients
