"""Reads the updates that callers pass, without trusting their objects.

Arrays come from many libraries. An object's claims about itself may be wrong, and its data may be gone. So every
read happens under :func:`secagg.errors.blaming`, which turns exceptions into errors of ours that name the path.
"""

import sys
from collections.abc import Callable, Mapping, MutableMapping
from copy import copy
from operator import index
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from secagg._numbers import is_a
from secagg.errors import SecAggError, blaming, kind_of, shown

Path = tuple[str | int, ...]

MAX_DEPTH = 64  # nested containers, and dimensions of an array
MAX_NODES = 1 << 18  # arrays and containers; a task with more could not be written

SINGLE = frozenset({"float16", "bfloat16", "float32"})  # float32 holds these without loss
FLOATS = SINGLE | {"float64"}
INTEGERS = frozenset({f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"bool"})
NUMBERS = frozenset({"float", "int"})
_USUAL = {np.dtype(name): name for name in ("float16", "float32", "float64")}  # to ask a dtype its name is slow
EXPECTED_DTYPES = "expected a real number: float16, bfloat16, float32, float64, (u)int8 to (u)int64 or bool"


class LeafArray(NamedTuple):
    """The array of a leaf, and the shape and dtype that its layout has."""

    shape: tuple[int, ...]
    dtype: str
    array: Any  # a NumPy array or a Torch tensor


def where(path: Path) -> str:
    """A path as Python writes it, ``['layers'][0]['w']``, for messages."""
    return "".join(f"[{shown(key)}]" for key in path) or "the update"


def order(path: Path) -> tuple[tuple[bool, str | int], ...]:
    """The sort key of a path."""
    return tuple((is_a(key, str), key) for key in path)


def check_keys(keys: list[Any], path: Path, error: type[SecAggError]) -> None:
    """``error`` unless all keys of one dict are text, or all are integers."""
    if not (all(is_a(key, str) for key in keys) or all(is_a(key, int) and not is_a(key, bool) for key in keys)):
        kinds = ", ".join(sorted({kind_of(key) for key in keys}))
        raise error(f"{where(path)} has keys of type {kinds}; expected all str or all int")


def walk(update: object, error: type[SecAggError]) -> tuple[dict[Path, str], dict[Path, Any]]:
    """The containers of ``update`` (path → kind) and everything else (path → object)."""
    branches: dict[Path, str] = {}
    leaves: dict[Path, Any] = {}
    pending: list[tuple[Path, Any]] = [((), update)]
    while pending:
        path, node = pending.pop()
        if len(path) > MAX_DEPTH:
            raise error(f"got an update nested deeper than {MAX_DEPTH} containers; does it hold itself?")
        if type(node) is np.ndarray:  # the usual leaf, of which nothing can fail
            leaves[path] = node
            continue
        with blaming(error, f"{where(path)} can't be read"):
            if node is None:
                branches[path] = "none"
            elif is_a(node, (Mapping,)):
                branches[path] = "dict"
                pending += [((*path, key), child) for key, child in _items(node, path, error)]
            elif is_a(node, list | tuple):
                branches[path] = "list" if is_a(node, list) else "tuple"
                pending += [((*path, position), child) for position, child in enumerate(_some(node))]
            else:
                leaves[path] = node
        if len(branches) + len(leaves) + len(pending) > MAX_NODES:
            raise error(f"got an update of more than {MAX_NODES} arrays and containers; expected fewer")
    return branches, leaves


def _some(items: Any) -> list[Any]:
    """The items, or the first :data:`MAX_NODES` + 1, because an iterator may be endless."""
    return [item for _, item in zip(range(MAX_NODES + 1), items, strict=False)]


def _items(node: Mapping[Any, Any], path: Path, error: type[SecAggError]) -> list[tuple[str | int, Any]]:
    items = _some(node.items())
    check_keys([key for key, _ in items], path, error)
    children = {plain(key): child for key, child in items}
    if any(is_a(key, int) and not -(2**63) <= key < 2**63 for key in children):
        raise error(f"{where(path)} has an int of more than 64 bits as a key; expected at most 64 bits")
    if len(children) != len(items):
        raise error(f"{where(path)} has a key twice; expected each key once")
    return list(children.items())


def plain(key: str | int) -> str | int:
    """A dict's key as Python's own str or int."""
    # np.str_, StrEnum and IntEnum compare equal, but a decoded layout has plain keys.
    return str.__str__(key) if is_a(key, str) else index(key)


def is_tensor(array: object) -> bool:
    """Whether ``array`` is a Torch tensor. This never imports Torch."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and issubclass(type(array), tensor)


def read(leaf: Any, path: Path, error: type[SecAggError]) -> LeafArray:
    """The array of a leaf; ``error`` with its path if it is not an array or its data is not available."""
    if type(leaf) is np.ndarray and leaf.dtype in _USUAL:  # most leaves: without the questions to foreign objects
        return LeafArray(leaf.shape, _USUAL[leaf.dtype], leaf)
    with blaming(error, f"{where(path)} can't be read; expected an array whose data is there"):
        if is_tensor(leaf):
            if str(leaf.layout) != "torch.strided":
                raise error(f"{where(path)} is a tensor of layout {leaf.layout}; expected a dense one: to_dense()")
            array = leaf.detach()
            shape, dtype = tuple(map(int, array.shape)), str(array.dtype).removeprefix("torch.")
            labelled, number = any(name is not None for name in getattr(array, "names", ())), False
        else:
            number = is_a(leaf, bool | int | float | complex | np.generic)
            if not number and not hasattr(leaf, "__array__"):
                raise error(f"{where(path)} is a {kind_of(leaf)}; expected an array, a number or a container")
            if is_a(leaf, np.ma.MaskedArray):
                raise error(f"{where(path)} is a masked array, whose mask would be lost; expected filled()")
            labelled = not number and is_labelled(leaf)
            array = np.asarray(leaf)
            shape, dtype = array.shape, array.dtype.name
    if labelled:
        raise error(
            f"{where(path)} is a {kind_of(leaf)}, whose labels would be lost: two clients may have them in other "
            "orders. Put them in the order that all clients use, then pass to_numpy()"
        )
    if dtype not in FLOATS | INTEGERS:
        raise error(f"{where(path)} has dtype {dtype}; {EXPECTED_DTYPES}")
    return LeafArray(shape, ("float" if dtype in FLOATS else "int") if number else dtype, array)


def is_labelled(leaf: Any) -> bool:
    """Whether positions have names, as in pandas, Polars, xarray and libraries like them.

    An ``index`` that is a method, as that of a list or a str, does not count.
    """
    named = any(hasattr(leaf, name) for name in ("columns", "column_names", "coords"))
    return named or not callable(getattr(leaf, "index", callable))


def fill(target: NDArray[Any], source: Any) -> None:
    """Copy an array or a tensor of the same shape into ``target``, converting it."""
    if is_tensor(source):
        check_storage(source)
        # Torch's own copy converts dtypes, bfloat16 too, and moves data between devices.
        sys.modules["torch"].from_numpy(target).copy_(source)
    else:
        with np.errstate(over="ignore"):
            target[...] = source


def check_storage(tensor: Any) -> None:
    """``ValueError`` unless the memory of a Torch tensor holds all its coordinates.

    Torch itself would read past the end of freed memory and crash the process. Sharded training frees parameters
    that it does not need at the moment (``untyped_storage().resize_(0)``).
    """
    try:
        size = tensor.untyped_storage().nbytes()
    except NotImplementedError:  # a device without storage, so nothing can be freed
        return
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = int(tensor.storage_offset()) + sum((length - 1) * stride for length, stride in steps)
    needed = (last + 1) * tensor.element_size() if tensor.numel() else 0
    if size < needed:
        raise ValueError(
            f"its storage has {size} of {needed} bytes, so it was freed; gather or load the tensor first"
        )


def holds(target: NDArray[Any], source: Any) -> bool:
    """Whether ``target`` holds every number of ``source``, an array or a tensor of integers, without rounding."""
    numbers = source
    if is_tensor(source):
        check_storage(source)
        numbers = source.cpu().numpy()
    return bool(np.array_equal(target, numbers))


def as_kind(piece: NDArray[Any], dtype: str, model: Any) -> Any:
    """``piece`` in ``dtype``, as the same kind of array as ``model``; a NumPy array if ``model`` is None."""
    if is_tensor(model):
        torch = sys.modules["torch"]
        return torch.tensor(piece, dtype=getattr(torch, dtype), device=model.device)
    with np.errstate(over="ignore"):
        if dtype != "bfloat16":
            array = piece.astype(dtype, copy=False)
        elif getattr(getattr(model, "dtype", None), "name", "") == "bfloat16":
            array = piece.astype(model.dtype)
        else:
            array = piece.astype(np.float32, copy=False)
    if is_a(model, (np.generic,)):
        return array[()]
    return array.item() if is_a(model, bool | int | float) else array


def round_to(piece: NDArray[Any], dtype: str) -> NDArray[Any]:
    """``piece`` rounded for ``dtype``: for an integer or a bool, to the nearest integer in its range."""
    if dtype not in INTEGERS:
        return piece
    least, most = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    # The float nearest to 2^63 - 1 is 2^63, which int64 can't hold.
    top = np.float64(most) if int(np.float64(most)) <= most else np.nextafter(np.float64(most), 0.0)
    return np.clip(np.rint(piece.astype(np.float64, copy=False)), np.float64(least), top)


def container(kind: str, children: dict[str | int, Any], model: Any) -> Any:
    """A container of this kind with these children, of the same type as ``model`` unless that is None."""
    if kind == "dict":
        if is_a(model, (MutableMapping,)):
            filled = copy(model)
            filled.update(children)
            return filled
        return children if model is None else type(model)(children)
    make: Callable[..., Any] = {"list": list, "tuple": tuple}[kind] if model is None else type(model)
    return make(*children.values()) if hasattr(make, "_fields") else make(children.values())


def same(one: Any, other: Any) -> bool:
    """Whether two restored structures are equal, with the dtypes and all coordinates of arrays; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if is_a(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if is_a(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if is_a(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return bool(one == other or (one != one and other != other))
