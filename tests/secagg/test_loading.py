"""Functions that a command line names, and what the function of ``secagg client`` may return."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secagg._loading import load_function
from secagg._remote_commands import _weighted
from secagg.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("elsewhere")
    return tmp_path


def test_a_function_comes_from_a_module_of_the_current_folder(folder: Path) -> None:
    (folder / "my_training_loop.py").write_text("def run(service):\n    return service * 2\n\nNUMBER = 3\n")
    assert load_function("--loop", "my_training_loop:run")(21) == 42
    with pytest.raises(ConfigError, match="got --loop my_training_loop:NUMBER, which is not a function"):
        load_function("--loop", "my_training_loop:NUMBER")
    with pytest.raises(ConfigError, match="can't be imported: module 'my_training_loop' has no attribute 'walk'"):
        load_function("--loop", "my_training_loop:walk")


@pytest.mark.parametrize("name", ["", "run", "training:", ":run"])
def test_a_name_without_module_and_function_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=f"got --train {name}; expected module:function"):
        load_function("--train", name)


def test_a_module_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="got --train no_such_training:run, which can't be imported: No module"):
        load_function("--train", "no_such_training:run")


ARRAYS = [np.zeros(3), np.ones(2)]


@pytest.mark.parametrize(
    ("trained", "weight"),
    [
        ({"w": ARRAYS[0]}, None),
        (({"w": ARRAYS[0]}, 9), 9),
        (({"w": ARRAYS[0]}, np.int64(9)), 9),
        (({"w": ARRAYS[0]}, 9.5), 9.5),  # the role refuses it, and says why
        (({"w": ARRAYS[0]}, None), None),
    ],
)
def test_an_update_may_come_with_its_weight(trained: Any, weight: Any) -> None:
    update, stated = _weighted(trained)
    assert set(update) == {"w"}
    assert stated == weight


@pytest.mark.parametrize("update", [tuple(ARRAYS), (*ARRAYS, ARRAYS[0]), (ARRAYS[0],)])
def test_a_tuple_of_arrays_is_an_update(update: tuple[Any, ...]) -> None:
    assert _weighted(update) == (update, None)
