"""Between a nested update and the one flat vector that is aggregated.

An *update* is what a model's training yields: arrays in dicts, lists and tuples, nested as they
come. A :class:`Layout` is its shape without its numbers, and is part of the task, so every client
flattens alike and the server can give the mean back in the caller's own structure.
"""

import math
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from secagg.errors import ConfigError, EncodingError, SecAggError

Path = tuple[str | int, ...]
AnyFloat = NDArray[np.float32] | NDArray[np.float64]

MAX_SIZE = 1 << 40  # coordinates
MAX_DEPTH = 64  # nested containers, and dimensions of an array

_SINGLE = frozenset({"float16", "bfloat16", "float32"})  # what float32 holds without loss
_FLOATS = _SINGLE | {"float64"}
_INTEGERS = frozenset({f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"bool"})
_KINDS = ("dict", "list", "tuple")


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of an update: where it is, its shape, and the name of its dtype.

    ``path`` holds the dict keys (str, or int from -2^63 to 2^63 - 1) and the positions that lead to
    it, ``()`` for an update that is a single array. ``dtype`` is one of float16, bfloat16, float32,
    float64, (u)int8 to (u)int64 and bool. ``ConfigError`` if a field is anything else.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        _check_path(self.path)
        if not isinstance(self.shape, tuple) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise ConfigError(f"{where(self.path)} has shape {self.shape!r}; expected a tuple of ints >= 0")
        if len(self.shape) > MAX_DEPTH or math.prod(n or 1 for n in self.shape) > MAX_SIZE:
            raise ConfigError(
                f"{where(self.path)} has a shape of {len(self.shape)} dimensions that is too large; "
                f"expected at most {MAX_DEPTH} dimensions and {MAX_SIZE} coordinates"
            )
        if not isinstance(self.dtype, str) or self.dtype not in _FLOATS | _INTEGERS:
            raise ConfigError(f"{where(self.path)} has dtype {self.dtype!r}; {_EXPECTED_DTYPES}")

    @property
    def name(self) -> str:
        """The path with dots: ``layers.0.weight``; ``update`` where the update is a single array."""
        return ".".join(map(str, self.path)) if self.path else "update"

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Branch:
    """One container of an update: where it is, and whether it is a ``dict``, ``list`` or ``tuple``."""

    path: Path
    kind: str

    def __post_init__(self) -> None:
        _check_path(self.path)
        if not isinstance(self.kind, str) or self.kind not in _KINDS:
            raise ConfigError(f"{where(self.path)} is a {self.kind!r}; expected one of {', '.join(_KINDS)}")


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of an update: its leaves by sorted path, and the containers that hold them.

    Usually made by :meth:`of`. The flat vector holds the leaves in this order, each in C order,
    whatever order the caller's dicts have. Containers without a leaf are kept. Within one dict the
    keys are all str or all int, since ``1`` and ``"1"`` would have no order and share a name; two
    leaves with the same dotted :attr:`Leaf.name` are refused. ``ConfigError`` where leaves and
    branches don't make one tree, or hold no coordinate or more than 2^40.
    """

    leaves: tuple[Leaf, ...]
    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        _check_all(self.leaves, Leaf, "leaves")
        _check_all(self.branches, Branch, "branches")
        _check_tree([leaf.path for leaf in self.leaves], self.branches)
        if not 1 <= self.size <= MAX_SIZE:
            raise ConfigError(f"got an update of {self.size} coordinates; expected 1 to {MAX_SIZE}")
        names: dict[str, Path] = {}
        for leaf in self.leaves:
            twin = names.setdefault(leaf.name, leaf.path)
            if twin != leaf.path:
                raise ConfigError(
                    f"{where(leaf.path)} and {where(twin)} are both named {leaf.name!r}; rename a key"
                )

    @classmethod
    def of(cls, update: object) -> Self:
        """The layout of ``update``: nested dicts, lists and tuples of arrays, or a single array.

        Arrays are NumPy's, Torch's on any device, Python's numbers and NumPy's scalars (0-d), and
        anything with ``__array__``. Any ``Mapping`` counts as a dict and a named tuple as a tuple.
        ``ConfigError`` names the path of what can't be aggregated: complex numbers, objects, text.
        """
        branches, arrays = _walk(update, ConfigError)
        leaves = []
        for path, array in arrays.items():
            shape, dtype = _shape_and_dtype(array, path, ConfigError)
            leaves.append(Leaf(path, shape, dtype))
        return cls(
            tuple(sorted(leaves, key=lambda leaf: _order(leaf.path))),
            tuple(sorted((Branch(p, k) for p, k in branches.items()), key=lambda branch: _order(branch.path))),
        )

    @property
    def size(self) -> int:
        """The number of coordinates of the flat vector."""
        return sum(leaf.size for leaf in self.leaves)

    @property
    def slices(self) -> dict[str, slice]:
        """Leaf name → its part of the flat vector, in the vector's order."""
        return {leaf.name: part for leaf, part in self._parts()}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The flat vector's: float32 if every leaf is a float of at most 32 bits, else float64."""
        return np.dtype(np.float32 if all(leaf.dtype in _SINGLE for leaf in self.leaves) else np.float64)

    def flatten(self, update: object) -> AnyFloat:
        """``update`` as one new vector of :attr:`size` coordinates of :attr:`dtype`; run by a client.

        Structure and shapes must be the layout's. A leaf's dtype needn't be: any real number is
        converted to the vector's, as assignment to a NumPy array does. Integers are thereby rounded
        to the nearest float: beyond 2^53 in a float64 vector, beyond 2^24 in a float32 one. A float64
        too large for a float32 vector becomes infinite, which an encoding refuses.

        Raises ``EncodingError`` that names the first path that differs.
        """
        arrays = self._matched(update)
        vector = np.empty(self.size, self.dtype)
        for leaf, part in self._parts():
            _copy(arrays[leaf.path], vector[part].reshape(leaf.shape))
        return vector

    def restore(self, vector: NDArray[Any], *, like: object = None, dtype: str | None = None) -> Any:
        """The nested structure whose flat vector is ``vector``.

        Floats come back in their leaf's dtype, integers and bools as float64, bfloat16 as float32
        (NumPy has none). ``dtype`` ("float16", "float32" or "float64") forces one for all leaves.
        ``like``, an update of this layout, lends its containers (order and type of its dicts, named
        tuples) and its kinds of array: Torch tensors on the device of its tensors, bfloat16 where
        they are, Python and NumPy scalars; other kinds of array come back as NumPy's. A NumPy leaf
        whose dtype is the vector's is a view of the vector.

        Raises ``EncodingError`` if ``vector`` is not 1-D with :attr:`size` real coordinates or
        ``like`` has another structure, ``ConfigError`` for an unknown ``dtype``.
        """
        if dtype not in (None, "float16", "float32", "float64"):
            raise ConfigError(f"got dtype {dtype!r}; expected float16, float32, float64 or None")
        vector = np.asarray(vector)
        if vector.shape != (self.size,) or vector.dtype.kind not in "fiu":
            raise EncodingError(
                f"got a vector of shape {vector.shape} and dtype {vector.dtype}; "
                f"expected {self.size} real coordinates, shape ({self.size},)"
            )
        models = {} if like is None else self._matched(like)
        arrays: dict[Path, Any] = {}
        for leaf, part in self._parts():
            target = dtype or (leaf.dtype if leaf.dtype in _FLOATS else "float64")
            arrays[leaf.path] = _as_kind(vector[part].reshape(leaf.shape), target, models.get(leaf.path))
        return _rebuild(self, arrays, like)

    def _parts(self) -> Iterator[tuple[Leaf, slice]]:
        start = 0
        for leaf in self.leaves:
            yield leaf, slice(start, start + leaf.size)
            start += leaf.size

    def _matched(self, update: object) -> dict[Path, Any]:
        """The arrays of ``update`` by path; ``EncodingError`` unless structure and shapes are the same."""
        branches, arrays = _walk(update, EncodingError)
        expected = {branch.path: f"a {branch.kind}" for branch in self.branches}
        expected |= {leaf.path: f"an array of shape {leaf.shape}" for leaf in self.leaves}
        got = {path: f"a {kind}" for path, kind in branches.items()}
        for path, array in arrays.items():
            got[path] = f"an array of shape {_shape_and_dtype(array, path, EncodingError)[0]}"
        for path in sorted(got | expected, key=_order):
            if got.get(path) != expected.get(path):
                raise EncodingError(
                    f"{where(path)}: got {got.get(path, 'nothing')}; "
                    f"expected {expected.get(path, 'nothing')}, as the task's layout says"
                )
        return arrays


_EXPECTED_DTYPES = "expected a real number: float16, bfloat16, float32, float64, (u)int8 to (u)int64 or bool"


def where(path: Path) -> str:
    """A path as Python writes it, ``['layers'][0]['w']``, for messages."""
    return "".join(f"[{key!r}]" for key in path) or "the update"


def _order(path: Path) -> tuple[tuple[bool, str | int], ...]:
    return tuple((isinstance(key, str), key) for key in path)


def _check_path(path: Path) -> None:
    if not isinstance(path, tuple) or len(path) > MAX_DEPTH:
        raise ConfigError(f"got a path that is no tuple or longer than {MAX_DEPTH} keys")
    for key in path:
        if type(key) is str:
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"got the key {key!r}; expected text that UTF-8 can write") from error
        elif type(key) is not int or not -(2**63) <= key < 2**63:
            raise ConfigError(f"got the key {key!r}; expected a str, or an int of at most 64 bits")


def _check_all(items: object, kind: type, what: str) -> None:
    if not isinstance(items, tuple) or not all(isinstance(item, kind) for item in items):
        raise ConfigError(f"got {what} that are no tuple of {kind.__name__}")


def _check_tree(leaves: list[Path], branches: tuple[Branch, ...]) -> None:
    """``ConfigError`` unless the paths are sorted, unique, and make one tree."""
    for paths in (leaves, [branch.path for branch in branches]):
        orders = [_order(path) for path in paths]
        if any(first >= second for first, second in pairwise(orders)):
            raise ConfigError("got a layout whose paths repeat or are not sorted")
    keys: dict[Path, list[str | int]] = {branch.path: [] for branch in branches}
    nodes = [*leaves, *keys]
    if len(set(nodes)) != len(nodes) or () not in nodes:
        raise ConfigError("got a layout in which a path is both an array and a container, or nothing is the root")
    for path in nodes:
        if path:
            if path[:-1] not in keys:
                raise ConfigError(f"{where(path)} has no container in the layout")
            keys[path[:-1]].append(path[-1])
    for branch in branches:
        found = keys[branch.path]
        if branch.kind == "dict":
            _check_keys(found, branch.path, ConfigError)
        elif sorted(found, key=lambda key: _order((key,))) != list(range(len(found))):
            raise ConfigError(f"{where(branch.path)} is a {branch.kind} whose positions are not 0, 1, 2, …")


def _check_keys(keys: list[Any], path: Path, error: type[SecAggError]) -> None:
    if not (
        all(isinstance(key, str) for key in keys)
        or all(isinstance(key, int) and not isinstance(key, bool) for key in keys)
    ):
        kinds = ", ".join(sorted({type(key).__name__ for key in keys}))
        raise error(f"{where(path)} has keys of type {kinds}; expected all str or all int")


def _walk(update: object, error: type[SecAggError]) -> tuple[dict[Path, str], dict[Path, Any]]:
    """The containers of ``update`` (path → kind) and everything else (path → object)."""
    branches: dict[Path, str] = {}
    arrays: dict[Path, Any] = {}
    pending: list[tuple[Path, Any]] = [((), update)]
    while pending:
        path, node = pending.pop()
        if len(path) > MAX_DEPTH:
            raise error(f"got an update nested deeper than {MAX_DEPTH} containers; does it hold itself?")
        if isinstance(node, Mapping):
            branches[path] = "dict"
            _check_keys(list(node), path, error)
            pending += (((*path, _plain(key)), child) for key, child in node.items())
        elif isinstance(node, list | tuple):
            branches[path] = "list" if isinstance(node, list) else "tuple"
            pending += (((*path, position), child) for position, child in enumerate(node))
        else:
            arrays[path] = node
    return branches, arrays


def _plain(key: str | int) -> str | int:
    # np.str_, StrEnum and IntEnum are equal to these but are not what the layout is read back as.
    return str.__str__(key) if isinstance(key, str) else index(key)


def _is_tensor(array: object) -> bool:
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(array).__mro__)


def _shape_and_dtype(array: Any, path: Path, error: type[SecAggError]) -> tuple[tuple[int, ...], str]:
    if _is_tensor(array):
        shape, dtype = tuple(map(int, array.shape)), str(array.dtype).removeprefix("torch.")
        if str(array.layout) != "torch.strided":
            raise error(f"{where(path)} is a tensor of layout {array.layout}; expected a dense one: to_dense()")
    elif isinstance(array, bool | int | float | complex | np.generic) or hasattr(array, "__array__"):
        if isinstance(array, np.ma.MaskedArray):
            raise error(f"{where(path)} is a masked array, whose mask would be lost; expected filled()")
        found = np.asarray(array)
        shape, dtype = found.shape, found.dtype.name
    else:
        raise error(f"{where(path)} is a {type(array).__name__}; expected an array, a number or a container")
    if dtype not in _FLOATS | _INTEGERS:
        raise error(f"{where(path)} has dtype {dtype}; {_EXPECTED_DTYPES}")
    return shape, dtype


def _copy(array: Any, target: NDArray[Any]) -> None:
    if _is_tensor(array):
        # Torch converts and moves between devices in its own copy, bfloat16 too.
        sys.modules["torch"].from_numpy(target).copy_(array.detach())
    else:
        with np.errstate(over="ignore"):
            target[...] = array


def _as_kind(piece: NDArray[Any], dtype: str, model: Any) -> Any:
    """``piece`` in ``dtype`` as the kind of array that ``model`` is; NumPy's if that is None."""
    if _is_tensor(model):
        torch = sys.modules["torch"]
        return torch.tensor(piece, dtype=getattr(torch, dtype), device=model.device)
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            array = piece.astype(dtype, copy=False)
        elif getattr(getattr(model, "dtype", None), "name", "") == "bfloat16":
            array = piece.astype(model.dtype)
        else:
            array = piece.astype(np.float32, copy=False)
    if isinstance(model, np.generic):
        return array[()]
    return float(array) if isinstance(model, bool | int | float) else array


def _rebuild(layout: Layout, arrays: dict[Path, Any], like: Any) -> Any:
    kinds = {branch.path: branch.kind for branch in layout.branches}
    keys: dict[Path, list[str | int]] = {path: [] for path in kinds}
    for path in sorted({*arrays, *kinds} - {()}, key=_order):
        keys[path[:-1]].append(path[-1])

    def build(path: Path, model: Any) -> Any:
        if path in arrays:
            return arrays[path]
        kind = kinds[path]
        order = model if kind == "dict" and model is not None else keys[path]
        children = {key: build((*path, _plain(key)), None if model is None else model[key]) for key in order}
        return _container(kind, children, model)

    return build((), like)


def _container(kind: str, children: dict[str | int, Any], model: Any) -> Any:
    """The container of this kind with these children; of the type of ``model`` unless that is None."""
    if kind == "dict":
        if isinstance(model, MutableMapping):
            filled = copy(model)
            filled.update(children)
            return filled
        return children if model is None else type(model)(children)
    make = {"list": list, "tuple": tuple}[kind] if model is None else type(model)
    return make(*children.values()) if hasattr(make, "_fields") else make(children.values())
