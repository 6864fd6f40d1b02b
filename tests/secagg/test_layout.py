import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from secagg.errors import ConfigError, EncodingError
from secagg.layout import MAX_SIZE, Branch, Layout, Leaf

FLOATS = [np.dtype(f"float{bits}") for bits in (16, 32, 64)]
INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)] + [np.dtype(bool)]


def _arrays(dtype: np.dtype[Any]) -> Any:
    elements: dict[str, Any] = {}
    if dtype.kind in "iu":
        limit = min(2**53, int(np.iinfo(dtype).max))
        elements = {"elements": st.integers(0 if dtype.kind == "u" else -limit, limit)}
    elif dtype.kind == "f":
        elements = {"elements": st.floats(-100, 100, width=16)}
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), **elements)


ARRAYS = st.sampled_from(FLOATS + INTEGERS).flatmap(_arrays)
KEYS = st.text("abz9_é", max_size=3)
UPDATES = st.recursive(
    ARRAYS,
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(st.integers(-20, 20), inner, max_size=3),
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


def size(update: Any) -> int:
    if isinstance(update, dict):
        update = list(update.values())
    return sum(map(size, update)) if isinstance(update, list | tuple) else int(np.size(update))


def reversed_dicts(update: Any) -> Any:
    if isinstance(update, dict):
        return {key: reversed_dicts(update[key]) for key in reversed(update)}
    if isinstance(update, list | tuple):
        return type(update)(map(reversed_dicts, update))
    return update


def assert_same(got: Any, expected: Any, *, ordered: bool) -> None:
    if isinstance(expected, dict | list | tuple):
        assert type(got) is type(expected)
        assert len(got) == len(expected)
        if isinstance(expected, dict):
            assert (list(got) == list(expected)) if ordered else (set(got) == set(expected))
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            assert_same(got[key], expected[key], ordered=ordered)
    else:
        assert isinstance(got, np.ndarray)
        assert got.shape == expected.shape
        assert got.dtype == (expected.dtype if expected.dtype.kind == "f" else np.float64)
        np.testing.assert_array_equal(got, expected)


@given(UPDATES.filter(size))
def test_round_trip(update: Any) -> None:
    layout = Layout.of(update)
    vector = layout.flatten(update)
    assert vector.shape == (layout.size,) == (size(update),)
    assert_same(layout.restore(vector), update, ordered=False)
    assert_same(layout.restore(vector, like=update), update, ordered=True)


@given(UPDATES.filter(size))
def test_the_order_of_a_dict_means_nothing(update: Any) -> None:
    other = reversed_dicts(update)
    assert Layout.of(other) == Layout.of(update)
    assert hash(Layout.of(other)) == hash(Layout.of(update))
    layout = Layout.of(update)
    np.testing.assert_array_equal(layout.flatten(other), layout.flatten(update))
    assert_same(layout.restore(layout.flatten(update), like=other), other, ordered=True)


@given(UPDATES.filter(size))
def test_slices_cover_the_vector_in_order(update: Any) -> None:
    layout = Layout.of(update)
    parts = list(layout.slices.values())
    assert list(layout.slices) == [leaf.name for leaf in layout.leaves]
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == layout.size


def test_names_paths_and_order() -> None:
    layout = Layout.of({"layers": [{"w": np.ones((2, 3), np.float32), "b": np.float16(1)}], "a.b": 2})
    assert layout.slices == {"a.b": slice(0, 1), "layers.0.b": slice(1, 2), "layers.0.w": slice(2, 8)}
    assert layout.leaves[2] == Leaf(("layers", 0, "w"), (2, 3), "float32")
    assert layout.branches == (Branch((), "dict"), Branch(("layers",), "list"), Branch(("layers", 0), "dict"))
    assert list(Layout.of([np.ones(1)] * 11).slices)[-1] == "10"
    assert Layout.of(np.ones(3)).slices == {"update": slice(0, 3)}


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float16", "float32"], "float32"),
        (["float16"], "float32"),
        (["float32", "float64"], "float64"),
        (["float32", "int8"], "float64"),
        (["bool"], "float64"),
    ],
)
def test_dtype_of_the_vector(dtypes: list[str], expected: str) -> None:
    update = [np.ones(2, dtype) for dtype in dtypes]
    assert Layout.of(update).dtype == Layout.of(update).flatten(update).dtype == expected


def test_another_real_dtype_is_converted() -> None:
    layout = Layout.of({"w": np.zeros(3, np.float32)})
    vector = layout.flatten({"w": np.array([1.0, 0.1, 1e300])})
    assert vector.dtype == np.float32
    assert vector.tolist() == [1.0, float(np.float32(0.1)), np.inf]
    assert layout.flatten({"w": np.array([1, 2, 2**24 + 1])}).tolist() == [1.0, 2.0, 2.0**24]
    assert Layout.of(2**53).flatten(2**53 + 1).tolist() == [2.0**53]


def test_the_vector_is_a_copy_of_the_update() -> None:
    update = np.ones(3, np.float32)
    Layout.of(update).flatten(update)[:] = 7
    assert update.tolist() == [1, 1, 1]


def test_strides_and_byte_orders() -> None:
    update = {"a": np.arange(6, dtype=">f4").reshape(2, 3).T, "b": np.arange(6, dtype=np.float32)[::-2]}
    assert Layout.of(update).flatten(update).tolist() == [0, 3, 1, 4, 2, 5, 5, 3, 1]


def test_dtype_forces_all_leaves() -> None:
    update = {"a": np.ones(2, np.float16), "b": np.ones(2, np.int8)}
    layout = Layout.of(update)
    for dtype in ("float16", "float32", "float64"):
        restored = layout.restore(np.full(4, 0.1), dtype=dtype)
        assert {array.dtype.name for array in restored.values()} == {dtype}
    with pytest.raises(ConfigError, match="expected float16, float32, float64 or None"):
        layout.restore(np.ones(4), dtype="int8")


def test_a_bfloat16_leaf_comes_back_as_float32() -> None:
    layout = Layout((Leaf((), (3,), "bfloat16"),), ())
    assert layout.dtype == np.float32
    assert layout.restore(np.ones(3)).dtype == np.float32
    assert layout.restore(np.ones(3), like=np.ones(3)).dtype == np.float32


class Pair(NamedTuple):
    w: Any
    b: Any


class Wrapped:
    def __init__(self, array: Any) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self._array, dtype=dtype)


def test_like_gives_the_callers_containers_and_scalars() -> None:
    update: dict[str, Any] = {
        "pair": Pair(np.ones(2, np.float32), np.float32(3)),
        "ordered": OrderedDict(z=1.5, a=Wrapped([1.0, 2.0])),
        "frozen": MappingProxyType({"x": np.ones(1)}),
        "none": [],
    }
    layout = Layout.of(update)
    got = layout.restore(layout.flatten(update), like=update)
    assert list(got) == list(update)
    assert type(got["pair"]) is Pair
    assert type(got["pair"].b) is np.float32
    assert type(got["ordered"]) is OrderedDict
    assert next(iter(got["ordered"].items())) == ("z", 1.5)
    assert got["ordered"]["a"].tolist() == [1.0, 2.0]
    assert type(got["frozen"]) is MappingProxyType
    assert got["none"] == []
    assert update["ordered"]["z"] == 1.5
    assert isinstance(update["ordered"]["a"], Wrapped)  # the caller's own containers were left alone
    plain = layout.restore(layout.flatten(update))
    assert type(plain["pair"]) is tuple
    assert type(plain["ordered"]) is dict


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"layers": [{"w": np.ones(2, complex)}]}, r"\['layers'\]\[0\]\['w'\] has dtype complex128"),
        ({"w": np.array([object()])}, r"\['w'\] has dtype object"),
        ({"w": np.ones(2, np.longdouble)}, r"\['w'\] has dtype .*; expected a real number"),
        ({"w": np.array(["a"])}, r"\['w'\] has dtype str"),
        ({"w": 1j}, "complex128"),
        ({"w": 2**64}, "object"),
        ({"w": "text"}, r"\['w'\] is a str; expected an array"),
        ({"w": None}, r"\['w'\] is a NoneType"),
        (None, "the update is a NoneType"),
        ({}, "0 coordinates"),
        ([[], {"a": np.ones((0, 3))}], "0 coordinates"),
        ({1: np.ones(1), "1": np.ones(1)}, "keys of type int, str"),
        ({"a": {True: np.ones(1)}}, r"\['a'\] has keys of type bool"),
        ({2.5: np.ones(1)}, "keys of type float"),
        ({2**63: np.ones(1)}, "at most 64 bits"),
        ({"\ud800": np.ones(1)}, "UTF-8"),
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, "are both named 'a.b'"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(update: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Layout.of(update)


def test_an_update_that_holds_itself_is_refused() -> None:
    update: list[Any] = [np.ones(1)]
    update.append(update)
    with pytest.raises(ConfigError, match="does it hold itself"):
        Layout.of(update)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"a": [np.ones((3, 2))]}, r"\['a'\]\[0\]: got an array of shape \(3, 2\); expected .* \(2, 3\)"),
        ({"a": [np.ones(6)]}, r"got an array of shape \(6,\)"),
        ({"a": (np.ones((2, 3)),)}, r"\['a'\]: got a tuple; expected a list"),
        ({"a": []}, r"\['a'\]\[0\]: got nothing; expected an array of shape \(2, 3\)"),
        ({"a": np.ones((2, 3))}, r"\['a'\]: got an array of shape \(2, 3\); expected a list"),
        ({"a": [np.ones((2, 3))], "b": 1.0}, r"\['b'\]: got an array of shape \(\); expected nothing"),
        ({"a": [np.ones((2, 3), complex)]}, r"\['a'\]\[0\] has dtype complex128"),
        ([np.ones((2, 3))], "the update: got a list; expected a dict"),
        (None, "the update is a NoneType"),
    ],
)
def test_another_structure_is_refused(update: Any, message: str) -> None:
    layout = Layout.of({"a": [np.ones((2, 3))]})
    with pytest.raises(EncodingError, match=message):
        layout.flatten(update)
    if update is not None:
        with pytest.raises(EncodingError, match=message):
            layout.restore(np.ones(6), like=update)


@pytest.mark.parametrize("vector", [np.ones(5), np.ones(7), np.ones((2, 3)), np.ones(6, complex), np.ones(6, "U1")])
def test_a_vector_that_does_not_fit_is_refused(vector: Any) -> None:
    with pytest.raises(EncodingError, match=r"expected 6 real coordinates, shape \(6,\)"):
        Layout.of({"a": [np.ones((2, 3))]}).restore(vector)


ONE = Leaf(("a",), (2,), "float32")
ROOT = Branch((), "dict")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Layout([ONE], (ROOT,)),  # type: ignore[arg-type]
        lambda: Layout((ONE,), [ROOT]),  # type: ignore[arg-type]
        lambda: Layout((("a", (2,), "float32"),), (ROOT,)),  # type: ignore[arg-type]
        lambda: Layout((), (ROOT,)),
        lambda: Layout((ONE,), ()),
        lambda: Layout((ONE, ONE), (ROOT,)),
        lambda: Layout((replace(ONE, path=("b",)), ONE), (ROOT,)),
        lambda: Layout((ONE,), (ROOT, ROOT)),
        lambda: Layout((ONE,), (ROOT, Branch(("a",), "dict"))),
        lambda: Layout((ONE, replace(ONE, path=(1,))), (ROOT,)),
        lambda: Layout((replace(ONE, path=("b", "c")),), (ROOT,)),
        lambda: Layout((ONE,), (replace(ROOT, kind="list"),)),
        lambda: Layout((replace(ONE, path=(1,)),), (replace(ROOT, kind="list"),)),
        lambda: Layout((replace(ONE, path=(-1,)), replace(ONE, path=(0,))), (replace(ROOT, kind="tuple"),)),
        lambda: Layout((replace(ONE, shape=(0,)),), (ROOT,)),
        lambda: Layout((replace(ONE, shape=(MAX_SIZE,)), replace(ONE, path=("b",), shape=(1,))), (ROOT,)),
        lambda: replace(ONE, shape=(MAX_SIZE + 1,)),
        lambda: replace(ONE, shape=(0, MAX_SIZE + 1)),
        lambda: replace(ONE, shape=(1,) * 65),
        lambda: replace(ONE, shape=(-1,)),
        lambda: replace(ONE, shape=(True,)),
        lambda: replace(ONE, shape=(2.0,)),  # type: ignore[arg-type]
        lambda: replace(ONE, shape=[2]),  # type: ignore[arg-type]
        lambda: replace(ONE, shape=None),  # type: ignore[arg-type]
        lambda: replace(ONE, dtype="complex64"),
        lambda: replace(ONE, dtype=("float32",)),  # type: ignore[arg-type]
        lambda: replace(ONE, dtype=None),  # type: ignore[arg-type]
        lambda: replace(ONE, path="a"),  # type: ignore[arg-type]
        lambda: replace(ONE, path=(b"a",)),  # type: ignore[arg-type]
        lambda: replace(ONE, path=(True,)),
        lambda: replace(ONE, path=(2**63,)),
        lambda: replace(ONE, path=("a",) * 65),
        lambda: replace(ROOT, kind="set"),
        lambda: replace(ROOT, kind=["dict"]),  # type: ignore[arg-type]
        lambda: replace(ROOT, path=None),  # type: ignore[arg-type]
    ],
)
def test_a_layout_that_is_no_tree_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_the_layout_those_refusals_start_from_is_fine() -> None:
    assert Layout((ONE,), (ROOT,)).size == 2


def test_importing_loads_neither_numba_nor_torch() -> None:
    code = (
        "import sys, secagg.layout, secagg.encoding, secagg.packing, numpy as np\n"
        "layout = secagg.layout.Layout.of({'a': np.ones(3)})\n"
        "layout.restore(layout.flatten({'a': np.ones(3)}))\n"
        "assert not {'numba', 'torch', 'secagg._kernels', 'mpc.masks'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.stacks
def test_torch_round_trip() -> None:
    torch = pytest.importorskip("torch")
    update = OrderedDict(
        w=torch.nn.Parameter(torch.arange(6, dtype=torch.float32).reshape(2, 3)),
        half=torch.tensor([0.5, 1.5], dtype=torch.bfloat16),
        steps=torch.tensor(3),
    )
    layout = Layout.of(update)
    assert [leaf.dtype for leaf in layout.leaves] == ["bfloat16", "int64", "float32"]
    vector = layout.flatten(update)
    assert vector.dtype == np.float64
    assert vector.tolist() == [0.5, 1.5, 3, 0, 1, 2, 3, 4, 5]
    vector.flags.writeable = False
    got = layout.restore(vector, like=update)
    assert list(got) == ["w", "half", "steps"]
    assert {name: str(tensor.dtype) for name, tensor in got.items()} == {
        "w": "torch.float32",
        "half": "torch.bfloat16",
        "steps": "torch.float64",
    }
    assert torch.equal(got["w"], update["w"].detach())
    assert torch.equal(got["half"], update["half"])
    assert got["steps"].item() == 3
    assert layout.restore(vector)["half"].dtype == np.float32


@pytest.mark.stacks
def test_torch_transposed_and_sparse() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    assert Layout.of(tensor).flatten(tensor).tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(ConfigError, match="expected a dense one"):
        Layout.of({"w": tensor.to_sparse()})
    with pytest.raises(ConfigError, match=r"\['w'\] has dtype complex64"):
        Layout.of({"w": torch.zeros(2, dtype=torch.complex64)})
