"""One kernel with arguments of which some are secret."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, Array], None]


@dataclass(frozen=True)
class Secret:
    """An array that holds a secret before the kernel runs, and how to draw one.

    Only ``parts`` of it may be secret: views of the array, which is otherwise public and set anew each time.
    """

    array: Array
    draw: Draw
    parts: tuple[Array, ...] = ()
    public: Array = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.parts or (self.array,))
        object.__setattr__(self, "public", self.array.copy())

    def fill(self, rng: np.random.Generator) -> None:
        """Draw the secret parts."""
        for part in self.parts:
            self.draw(rng, part)


@dataclass(frozen=True)
class Output:
    """An array that the kernel writes; it is zero before."""

    array: Array


@dataclass(frozen=True)
class Case:
    """A call of the kernel with the dotted name ``kernel``, for one specialisation of it.

    ``call`` is the kernel, or a kernel of :mod:`tests.constant_time.wrappers` that keeps what it returns in
    an array, so that no integer of Python is made of a secret. ``declassified`` says what the caller
    reads of that, and why it may.
    """

    kernel: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    variant: str = ""
    declassified: str = ""

    @property
    def name(self) -> str:
        """The kernel, with what distinguishes this case from others of it."""
        return f"{self.kernel} ({self.variant})" if self.variant else self.kernel

    def run(self) -> None:
        """Call the kernel once."""
        self.call(*(a.array if isinstance(a, Secret | Output) else a for a in self.arguments))

    def clear(self) -> None:
        """Make the outputs zero, and restore what is public in arrays with secrets."""
        for argument in self.arguments:
            if isinstance(argument, Output):
                argument.array.fill(0)
            elif isinstance(argument, Secret):
                argument.array[...] = argument.public

    def fill(self, rng: np.random.Generator) -> None:
        """Clear everything, and draw the secrets."""
        self.clear()
        for argument in self.arguments:
            if isinstance(argument, Secret):
                argument.fill(rng)

    def secrets(self) -> Iterator[Array]:
        """The arrays that hold secrets before the kernel runs."""
        return (part for a in self.arguments if isinstance(a, Secret) for part in a.parts)

    def written(self) -> list[Array]:
        """The arrays that the kernel may write."""
        return [a.array for a in self.arguments if isinstance(a, Secret | Output)]


def integers(low: int, high: int) -> Draw:
    """Draws whole numbers from ``low`` up to, not including, ``high``."""

    def draw(rng: np.random.Generator, out: Array) -> None:
        out[...] = rng.integers(low, high, out.shape, out.dtype)

    return draw


def words(*shape: int, below: int = 0, kind: Any = np.uint64, lanes: bool = False) -> Secret:
    """A secret array of unsigned integers, of any value or below ``below``."""
    from he.ring.fields import lanes as aligned

    array = aligned(*shape[:-1]) if lanes else np.zeros(shape, kind)
    return Secret(array, integers(0, below or 2 ** (8 * array.itemsize)))


def signed(*shape: int, low: int, high: int, kind: Any = np.int64) -> Secret:
    """A secret array of signed integers."""
    return Secret(np.zeros(shape, kind), integers(low, high))


def reals(*shape: int, kind: Any = np.float64, spread: float = 1.0) -> Secret:
    """A secret array of numbers from a normal distribution."""

    def draw(rng: np.random.Generator, out: Array) -> None:
        out[...] = rng.normal(0, spread, out.shape)

    return Secret(np.zeros(shape, kind), draw)


def zeros(*shape: int, kind: Any = np.uint64) -> Output:
    """An array to write to."""
    return Output(np.zeros(shape, kind))
