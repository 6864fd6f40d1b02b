import json
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies as st
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
    layout = Layout.of({"layers": [{"w": np.ones((2, 3), np.float32), "b": np.zeros((), np.float16)}], "a.b": 2})
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
        (["float32", "int8"], "float32"),
        (["float32", "int64"], "float32"),
        (["int32", "int64"], "float64"),
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
    for wrong in (np.array(["float16", "float32"]), ["float16"], 7, "like"):
        with pytest.raises(ConfigError, match="got dtype"):
            layout.restore(np.ones(4), dtype=wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="got dtype"):
            layout.flatten(update, dtype=wrong)  # type: ignore[arg-type]
    restored = layout.restore(np.ones(4), dtype=np.str_("float16"))
    assert {array.dtype.name for array in restored.values()} == {"float16"}


@pytest.mark.parametrize("vector", [[[1], [2, 3]], [object()] * 4, None, "text", {}, iter([1.0])])
def test_a_vector_that_cannot_be_read_is_named(vector: Any) -> None:
    with pytest.raises(EncodingError, match=r"got a vector .*; expected 4 real coordinates"):
        Layout.of(np.ones(4)).restore(vector)


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
        ({"w": None}, "0 coordinates"),
        (None, "0 coordinates"),
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
        (None, "the update: got None; expected a dict"),
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


def test_one_counter_widens_the_vector_only_where_float32_would_round_it() -> None:
    update: dict[str, Any] = {"w": np.ones(4, np.float32), "steps": np.array([1500, -(2**24)]), "n": 7, "loss": 0.1}
    layout = Layout.of(update)
    assert layout.dtype == layout.flatten(update).dtype == np.float32
    for name, value in (("steps", np.array([0, 2**24 + 1])), ("n", 2**24 + 1)):
        wide = layout.flatten(update | {name: value})
        assert wide.dtype == np.float64
        assert wide[layout.slices[name]][-1] == 2**24 + 1


def test_numbers_come_back_as_numbers() -> None:
    update = {
        "loss": 0.5,
        "n": 7,
        "flag": True,
        "mean": np.float64(1.5),
        "count": np.int64(3),
        "small": np.float32(2),
    }
    layout = Layout.of(update)
    assert {leaf.name: leaf.dtype for leaf in layout.leaves} == {
        "loss": "float", "n": "int", "flag": "int", "mean": "float", "count": "int", "small": "float",
    }  # fmt: skip
    got = layout.restore(layout.flatten(update))
    assert json.loads(json.dumps(got)) == {"loss": 0.5, "n": 7, "flag": 1, "mean": 1.5, "count": 3, "small": 2}
    assert {type(value) for value in got.values()} == {float}
    assert layout == Layout.of(update | {"loss": np.float32(1)})
    array = Layout.of(np.zeros(()))
    assert type(array.restore(np.ones(1))) is np.ndarray


def test_restored_like_an_update_with_its_dtypes_too() -> None:
    update = {
        "w": np.zeros(2, np.float16), "n": np.zeros(3, np.int64), "byte": np.zeros(2, np.uint8),
        "flag": np.zeros(2, bool), "count": 3, "scalar": np.int32(1), "big": np.zeros(1, np.int64),
    }  # fmt: skip
    layout = Layout.of(update)
    vector = np.zeros(layout.size)
    for name, values in {
        "w": [0.5, 1], "n": [1.4, 1.6, -2.7], "byte": [300.0, -4], "flag": [0.4, 0.6], "count": [2.6],
        "scalar": [7.2], "big": [2.0**70],
    }.items():  # fmt: skip
        vector[layout.slices[name]] = values
    got = layout.restore(vector, like=update, dtype="like")
    assert {name: np.asarray(value).tolist() for name, value in got.items()} == {
        "w": [0.5, 1], "n": [1, 2, -3], "byte": [255, 0], "flag": [False, True], "count": 3, "scalar": 7,
        "big": [2**63 - 1024],
    }  # fmt: skip
    assert {name: np.asarray(value).dtype for name, value in got.items()} == {
        name: np.asarray(value).dtype for name, value in update.items()
    }
    assert type(got["count"]) is int
    assert type(got["scalar"]) is np.int32
    with pytest.raises(ConfigError, match="'like' with like="):
        layout.restore(vector, dtype="like")


def test_none_is_structure() -> None:
    update = {"w": np.ones(2), "state": (None, {"m": np.ones(1), "none": None})}
    layout = Layout.of(update)
    assert Branch(("state", 0), "none") in layout.branches
    for like in (None, update):
        got = layout.restore(layout.flatten(update), like=like)
        assert got["state"][0] is None
        assert got["state"][1]["none"] is None
    with pytest.raises(EncodingError, match=r"\['state'\]\[0\]: got nothing; expected None"):
        layout.flatten({"w": np.ones(2), "state": ()})
    with pytest.raises(EncodingError, match=r"\[0\]: got None; expected an array"):
        Layout.of([np.ones(1)]).flatten([None])
    with pytest.raises(EncodingError, match=r"\[0\]: got an array of shape \(1,\); expected None"):
        Layout.of([None, np.ones(1)]).flatten([np.ones(1), np.ones(1)])
    with pytest.raises(ConfigError, match="None, which is empty"):
        Layout((Leaf(("a",), (1,), "float32"),), (Branch((), "none"),))


class Labelled:
    """What pandas, Polars and xarray have in common: an array with names beside it."""

    def __init__(self, **labels: Any) -> None:
        self.__dict__ |= labels

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.ones(2)


@pytest.mark.parametrize("labels", [{"index": ["b", "a"]}, {"columns": ["y", "x"]}, {"coords": {}}])
def test_an_array_whose_positions_have_names_is_refused(labels: Any) -> None:
    with pytest.raises(ConfigError, match=r"\['w'\] is a Labelled, whose labels would be lost: .*to_numpy\(\)"):
        Layout.of({"w": Labelled(**labels)})
    with pytest.raises(EncodingError, match="labels would be lost"):
        Layout.of({"w": np.ones(2)}).flatten({"w": Labelled(**labels)})
    assert Layout.of({"w": Labelled()}).size == 2


class Fickle:
    """An array that has another shape the second time: it would be broadcast."""

    reads = 0

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.reads += 1
        return np.ones(4 if self.reads < 2 else 1)


def test_an_array_is_read_once_for_its_shape_and_its_data() -> None:
    layout = Layout.of([np.zeros(4)])
    fickle = Fickle()
    assert layout.flatten([fickle]).tolist() == [1] * 4
    with pytest.raises(EncodingError, match=r"\[0\]: got an array of shape \(1,\)"):
        layout.flatten([fickle])


def test_an_update_too_large_for_memory_is_refused() -> None:
    huge = np.broadcast_to(np.float32(0), (MAX_SIZE,))
    with pytest.raises(EncodingError, match=f"no memory for {MAX_SIZE:,} coordinates"):
        Layout.of(huge).flatten(huge)


def test_reprs_are_short_and_escape_what_keys_say() -> None:
    layout = Layout.of({f"<b>{i}\n": np.ones(2) for i in range(1000)})
    assert len(repr(layout)) < 300
    assert "2,000 coordinates in 1000 leaves" in repr(layout)
    assert "\n" not in repr(layout)
    assert "<b>" not in layout._repr_html_()
    assert "&lt;b&gt;0" in layout._repr_html_()
    assert "and 950 more" in layout._repr_html_()


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
    assert vector.dtype == np.float32
    assert vector.tolist() == [0.5, 1.5, 3, 0, 1, 2, 3, 4, 5]
    wide = layout.flatten(update | {"steps": torch.tensor(2**24 + 1)})
    assert wide.dtype == np.float64
    assert wide[2] == 2**24 + 1
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


@pytest.mark.stacks
def test_torch_on_the_meta_device_has_a_layout_and_no_data() -> None:
    torch = pytest.importorskip("torch")
    update = {"w": torch.zeros(3, device="meta")}
    with pytest.raises(EncodingError, match=r"\['w'\] can't be read; expected an array whose data is there"):
        Layout.of(update).flatten(update)


@pytest.mark.stacks
def test_pandas_is_refused() -> None:
    pandas = pytest.importorskip("pandas")
    series = pandas.Series({"age": 0.1, "bmi": 0.2})
    for labelled in (series, series.to_frame()):
        with pytest.raises(ConfigError, match=r"to_numpy\(\)"):
            Layout.of({"w": labelled})
    assert Layout.of({"w": series.to_numpy()}).size == 2


FREED = """
import torch, secagg
kinds = {
    "all": lambda base: base,
    "parameter": torch.nn.Parameter,
    "view": lambda base: base[1:],
    "transposed": lambda base: base.reshape(4, -1).T,
    "repeated": lambda base: base[-1].expand(7),
}
for kind, make in kinds.items():
    for dtype in (torch.float32, torch.int64):
        if kind == "parameter" and dtype == torch.int64:
            continue
        for everything in (True, False):
            base = torch.zeros(1 << 20, dtype=dtype)
            update = {"w": make(base), "x": torch.zeros(1)}
            layout, held = secagg.Layout.of(update), base.untyped_storage().nbytes()
            base.untyped_storage().resize_(0 if everything else held - 1)
            assert secagg.Layout.of(update) == layout
            try:
                layout.flatten(update)
            except secagg.EncodingError as error:
                print(error)
"""


@pytest.mark.stacks
def test_a_tensor_whose_memory_was_freed_is_our_error() -> None:
    """In a process of its own, since Torch reads what is not there, and the process dies."""
    pytest.importorskip("torch")
    done = subprocess.run([sys.executable, "-c", FREED], check=True, timeout=60, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 18
    assert all(line.startswith("['w'] can't be read") for line in lines)
    assert all("it was freed; gather or load the tensor first" in line for line in lines)


@pytest.mark.stacks
def test_a_tensor_of_no_coordinates_needs_no_memory() -> None:
    torch = pytest.importorskip("torch")
    update = {"w": torch.zeros(0, 3), "x": torch.zeros(1)}
    update["w"].untyped_storage().resize_(0)
    assert Layout.of(update).flatten(update).shape == (1,)
