"""Layouts: from a nested update to the flat vector that is aggregated, and back.

An *update* is the result of training a model: arrays in nested dicts, lists and tuples. A
:class:`Layout` is its structure without its numbers. It is part of the task, so every client
flattens its update in the same way, and the server returns the mean in the caller's structure.
"""

import html
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from secagg import _reading
from secagg._numbers import is_a
from secagg._reading import EXPECTED_DTYPES, FLOATS, INTEGERS, MAX_DEPTH, NUMBERS, SINGLE, Path, order, where
from secagg.errors import ConfigError, EncodingError, blaming, chosen, shown

#: A vector of float32 or float64.
AnyFloat = NDArray[np.float32] | NDArray[np.float64]

#: The most coordinates of a layout.
MAX_SIZE = 1 << 40

_TARGETS = ("float16", "float32", "float64")
_KINDS = ("dict", "list", "tuple", "none")
_EXACT = FLOATS | {"float", "bool", "int8", "uint8", "int16", "uint16"}  # never make the vector float64


@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of an update: where it is, its shape, and the name of its dtype.

    ``path`` holds the dict keys (str, or int from -2^63 to 2^63 - 1) and the positions that lead to it, ``()`` for
    an update that is a single array. ``shape`` is that of the array, ``()`` for a single number. ``dtype`` is one
    of float16, bfloat16, float32, float64, (u)int8 to (u)int64 and bool; or ``float`` or ``int`` for a single
    number, of Python or NumPy, which is restored as a Python float. ``ConfigError`` if a field is anything else.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        _check_path(self.path)
        if not is_a(self.shape, tuple) or not all(type(n) is int and n >= 0 for n in self.shape):
            raise ConfigError(f"the shape of {where(self.path)} is not a tuple of ints >= 0")
        if len(self.shape) > MAX_DEPTH or math.prod(n or 1 for n in self.shape) > MAX_SIZE:
            raise ConfigError(
                f"{where(self.path)} has a shape of {len(self.shape)} dimensions that is too large; "
                f"expected at most {MAX_DEPTH} dimensions and {MAX_SIZE} coordinates"
            )
        if type(self.dtype) is not str or self.dtype not in FLOATS | INTEGERS | NUMBERS:
            raise ConfigError(f"{where(self.path)} has dtype {shown(self.dtype)}; {EXPECTED_DTYPES}")
        if self.dtype in NUMBERS and self.shape:
            raise ConfigError(f"{where(self.path)} has dtype {self.dtype} and a shape; a number has shape ()")

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
    """One container of an update: where it is (``path``, as in :class:`Leaf`), and of which ``kind``.

    A kind is ``dict``, ``list`` or ``tuple``. ``None`` in an update counts as a container of kind ``none``, which
    is empty.
    """

    path: Path
    kind: str

    def __post_init__(self) -> None:
        _check_path(self.path)
        if type(self.kind) is not str or self.kind not in _KINDS:
            raise ConfigError(f"{where(self.path)} is a {shown(self.kind)}; expected one of {', '.join(_KINDS)}")


@dataclass(frozen=True, slots=True, repr=False)
class Layout:
    """The structure of an update: its leaves by sorted path, and the containers that hold them.

    :meth:`of` makes it from an update. The flat vector holds the ``leaves`` in this order, each in C order; the
    order of the caller's dicts does not matter. ``branches`` are the containers, also by sorted path. Empty
    containers and ``None`` are kept. The keys of one dict are all str or all int, because ``1`` and ``"1"`` can't
    be sorted and have the same name. Two leaves with the same dotted :attr:`Leaf.name` are refused. ``ConfigError``
    if leaves and branches don't form one tree, or if there are no coordinates or more than 2^40.
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

        An array is a NumPy array, a Torch tensor on any device, a number of Python or NumPy (0-d), or an object
        with ``__array__``. Any ``Mapping`` counts as a dict, and a named tuple as a tuple. ``None`` is part of the
        structure, as in JAX and Optax. Arrays whose positions have names (pandas, xarray) are refused, because
        another client may have them in another order.

        Tied weights, one tensor under two names, are two leaves: they are sent twice, and come back equal
        only to the grid step. Unpack packed leaves first, such as two 4-bit weights in a byte: their bytes would
        be summed, which is meaningless. Convert all clients' arrays to the same unit first, because units (of
        Astropy or Pint) are dropped, as by ``np.asarray``.

        ``ConfigError`` names the path of anything that can't be aggregated: complex numbers, objects, text,
        arrays with labels, and arrays whose data is not available.
        """
        branches, leaves = _reading.walk(update, ConfigError)
        described = []
        for path, leaf in leaves.items():
            shape, dtype, _ = _reading.read(leaf, path, ConfigError)
            described.append(Leaf(path, shape, dtype))
        return cls(
            tuple(sorted(described, key=lambda leaf: order(leaf.path))),
            tuple(sorted((Branch(p, k) for p, k in branches.items()), key=lambda branch: order(branch.path))),
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
        """The flat vector's dtype: float32 if the layout has arrays of floats, none above 32 bits; else float64.

        Numbers and integers next to such arrays don't change that, but a vector becomes float64 if the update has
        an integer that float32 can't hold.
        """
        floats = {leaf.dtype for leaf in self.leaves} & FLOATS
        return np.dtype(np.float32 if floats and floats <= SINGLE else np.float64)

    def flatten(self, update: object, *, dtype: str | None = None) -> AnyFloat:
        """``update`` as one new vector of :attr:`size` coordinates of :attr:`dtype`; run by a client.

        Structure and shapes must match the layout. Dtypes need not: real numbers are converted to the vector's
        dtype, as by assignment to a NumPy array. If an integer leaf has a value that float32 can't hold, the
        vector is float64; integers beyond 2^53 are rounded to the nearest float64. A float64 that is too large for
        a float32 vector becomes infinite, which encodings refuse. ``dtype="float64"`` forces a float64 vector.

        Raises ``EncodingError`` that names the first path that differs or can't be read.
        """
        arrays = self._matched(update)
        if dtype is not None and chosen(dtype, ("float64",)) is None:
            raise ConfigError(f"got dtype {shown(dtype)}; expected float64 or None")
        vector = self._filled(arrays, np.dtype(dtype or self.dtype))
        if vector is None:
            vector = self._filled(arrays, np.dtype(np.float64))
        assert vector is not None
        return vector

    def restore(self, vector: NDArray[Any], *, like: object = None, dtype: str | None = None) -> Any:
        """The nested structure whose flat vector is ``vector``.

        Floats come back in their leaf's dtype, integers and bools as float64, bfloat16 as float32
        (NumPy has no bfloat16), numbers as Python floats. ``dtype`` ("float16", "float32" or "float64") forces
        one for all leaves. The result takes its containers (order and type of dicts, named tuples) and its
        kinds of array from ``like``, an update of this layout: Torch tensors on the same devices, bfloat16, and
        Python and NumPy scalars. Other kinds of array come back as NumPy's. With ``dtype="like"`` it takes the
        dtypes too: integers are then rounded to the nearest and kept in range.
        A NumPy leaf whose dtype is the vector's is a view of the vector.

        Raises ``EncodingError`` if ``vector`` is not 1-D with :attr:`size` real coordinates or
        ``like`` has another structure, ``ConfigError`` for an unknown ``dtype``.
        """
        named = None if dtype is None else chosen(dtype, _TARGETS if like is None else (*_TARGETS, "like"))
        if named is None and dtype is not None:
            raise ConfigError(
                f"got dtype {shown(dtype)}; expected float16, float32, float64 or None, or 'like' with like="
            )
        with blaming(EncodingError, f"got a vector that can't be read; expected {self.size} real coordinates"):
            # NumPy would read an iterable to its end, and a foreign object's may be endless.
            if not is_a(vector, list | tuple) and not hasattr(type(vector), "__array__"):
                raise EncodingError(f"got a vector that is {shown(vector)}; expected {self.size} real coordinates")
            vector = np.asarray(vector)
        if vector.shape != (self.size,) or vector.dtype.kind not in "fiu":
            raise EncodingError(
                f"got a vector of shape {vector.shape} and dtype {vector.dtype}; "
                f"expected {self.size} real coordinates, shape ({self.size},)"
            )
        models = {} if like is None else self._matched(like)
        arrays: dict[Path, Any] = {}
        for leaf, part in self._parts():
            piece, model = vector[part].reshape(leaf.shape), models.get(leaf.path)
            target = named or (leaf.dtype if leaf.dtype in FLOATS else "float64")
            if leaf.path in models:
                sample = _reading.read(model, leaf.path, EncodingError)
                if sample.shape != leaf.shape:
                    raise _differs(leaf.path, _array(sample.shape), _array(leaf.shape))
                own = str(sample.array.dtype).removeprefix("torch.")
                if named == "like":
                    target, piece = own, _reading.round_to(piece, own)
                elif leaf.dtype == "float" and named is None and own in FLOATS:
                    target = own  # of a NumPy scalar
            with blaming(EncodingError, f"{where(leaf.path)} can't be built like the update's"):
                array = _reading.as_kind(piece, target, model)
                arrays[leaf.path] = float(array) if leaf.dtype in NUMBERS and model is None else array
        with blaming(EncodingError, "got an update whose containers can't be rebuilt"):
            return _rebuild(self, arrays, like)

    @property
    def extent(self) -> str:
        """How many coordinates and leaves there are, in words."""
        coordinates = "1 coordinate" if self.size == 1 else f"{self.size:,} coordinates"
        return f"{coordinates} in {'1 leaf' if len(self.leaves) == 1 else f'{len(self.leaves)} leaves'}"

    def __repr__(self) -> str:
        first = [f"{leaf.name[:40]!r} {leaf.shape} {leaf.dtype}" for leaf in self.leaves[:3]]
        more = ", ..." if len(self.leaves) > len(first) else ""
        return f"<Layout of {self.extent}: {', '.join(first)}{more}>"

    def _repr_html_(self) -> str:
        """The leaves as a table, for notebooks; keys are escaped."""
        rows = "".join(
            f"<tr><td>{html.escape(leaf.name[:80])}</td><td>{leaf.shape}</td><td>{leaf.dtype}</td></tr>"
            for leaf in self.leaves[:_ROWS]
        )
        more = len(self.leaves) - _ROWS
        note = f"<p>and {more:,} more</p>" if more > 0 else ""
        head = "<tr><th>leaf</th><th>shape</th><th>dtype</th></tr>"
        return f"<p>{self.extent}</p><table>{head}{rows}</table>{note}"

    def _filled(self, arrays: dict[Path, Any], dtype: np.dtype[Any]) -> AnyFloat | None:
        """The vector of these arrays; None where ``dtype`` is float32 and can't hold an integer leaf."""
        with blaming(EncodingError, f"got no memory for {self.size:,} coordinates"):
            vector: AnyFloat = np.empty(self.size, dtype)
        for leaf, part in self._parts():
            # Read once, because an object may return another shape the next time.
            source = _reading.read(arrays[leaf.path], leaf.path, EncodingError)
            if source.shape != leaf.shape:
                raise _differs(leaf.path, _array(source.shape), _array(leaf.shape))
            target = vector[part].reshape(leaf.shape)
            with blaming(EncodingError, f"{where(leaf.path)} can't be read; expected an array whose data is there"):
                _reading.fill(target, source.array)
                rounds = dtype == np.float32 and leaf.dtype not in _EXACT and source.dtype not in FLOATS
                if rounds and not _reading.holds(target, source.array):
                    return None
        return vector

    def _parts(self) -> Iterator[tuple[Leaf, slice]]:
        start = 0
        for leaf in self.leaves:
            yield leaf, slice(start, start + leaf.size)
            start += leaf.size

    def _matched(self, update: object) -> dict[Path, Any]:
        """The leaves of ``update`` by path, not yet read; ``EncodingError`` unless its structure matches."""
        branches, leaves = _reading.walk(update, EncodingError)
        kinds = {branch.path: branch.kind for branch in self.branches}
        if branches == kinds and leaves.keys() == {leaf.path for leaf in self.leaves}:
            return leaves
        expected: dict[Path, str] = {path: _container(kind) for path, kind in kinds.items()}
        actual = {path: _container(kind) for path, kind in branches.items()}
        shapes = {leaf.path: leaf.shape for leaf in self.leaves}
        for path in sorted(expected.keys() | actual.keys() | shapes.keys() | leaves.keys(), key=order):
            if (path in leaves) != (path in shapes) or actual.get(path) != expected.get(path):
                raise _differs(
                    path,
                    _array(_reading.read(leaves[path], path, EncodingError).shape)
                    if path in leaves
                    else actual.get(path, "nothing"),
                    _array(shapes[path]) if path in shapes else expected.get(path, "nothing"),
                )
        return leaves


_ROWS = 50  # leaves that a notebook shows


def _container(kind: str) -> str:
    return "None" if kind == "none" else f"a {kind}"


def _array(shape: tuple[int, ...]) -> str:
    return f"an array of shape {shape}"


def _differs(path: Path, got: str, expected: str) -> EncodingError:
    return EncodingError(f"{where(path)}: got {got}; expected {expected}, as the layout says")


def _check_path(path: Path) -> None:
    if type(path) is not tuple or len(path) > MAX_DEPTH:
        raise ConfigError(f"got a path that is not a tuple, or is longer than {MAX_DEPTH} keys")
    for key in path:
        if type(key) is str:
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"got the key {shown(key)}; expected text that UTF-8 can write") from error
        elif type(key) is not int or not -(2**63) <= key < 2**63:
            raise ConfigError(f"got the key {shown(key)}; expected a str, or an int of at most 64 bits")


def _check_all(items: object, kind: type, what: str) -> None:
    if not is_a(items, tuple) or not all(is_a(item, kind) for item in items):
        raise ConfigError(f"got {what} that are not a tuple of {kind.__name__}")


def _check_tree(leaves: list[Path], branches: tuple[Branch, ...]) -> None:
    """``ConfigError`` unless the paths are sorted and unique, and form one tree."""
    for paths in (leaves, [branch.path for branch in branches]):
        orders = [order(path) for path in paths]
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
        children = keys[branch.path]
        if branch.kind == "dict":
            _reading.check_keys(children, branch.path, ConfigError)
        elif branch.kind == "none":
            if children:
                raise ConfigError(f"{where(branch.path)} is None, which is empty; got {len(children)} entries")
        elif sorted(children, key=lambda key: order((key,))) != list(range(len(children))):
            raise ConfigError(f"{where(branch.path)} is a {branch.kind} whose positions are not 0, 1, 2, …")


def _rebuild(layout: Layout, arrays: dict[Path, Any], like: Any) -> Any:
    kinds = {branch.path: branch.kind for branch in layout.branches}
    keys: dict[Path, list[str | int]] = {path: [] for path in kinds}
    for path in sorted({*arrays, *kinds} - {()}, key=order):
        keys[path[:-1]].append(path[-1])

    def build(path: Path, model: Any) -> Any:
        if path in arrays:
            return arrays[path]
        kind = kinds[path]
        if kind == "none":
            return None
        names = model if kind == "dict" and model is not None else keys[path]
        children = {
            key: build((*path, _reading.plain(key)), None if model is None else model[key]) for key in names
        }
        return _reading.container(kind, children, model)

    return build((), like)
