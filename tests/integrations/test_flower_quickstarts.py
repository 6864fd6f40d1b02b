"""The differences of docs/flower.md, applied to apps that are shaped as Flower's quickstarts are."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Context, RecordDict

from bench.loopback import RUN, LoopbackGrid
from secagg.integrations.flower import SecureClientApp, layout_of
from tests.integrations.apps import CLIENTS, METRICS, MODEL, TASK, record, start, training_reply

QUICKSTARTS = Path(__file__).parent / "quickstarts"
DOCUMENT = Path(__file__).parents[2] / "docs" / "flower.md"
NODES, MOST_LINES = 10, 5
CONFIGS: dict[str, dict[str, Any]] = {
    "sklearnexample": {"penalty": "l2", "num-server-rounds": 2},
    "pytorchexample": {"learning-rate": 0.05, "fraction-evaluate": 0.5, "num-server-rounds": 1},
}


def difference(package: str) -> dict[str, list[str]]:
    """The lines of the document's difference for each file of ``package``, without the lines that name the file."""
    blocks = re.findall(r"^```diff\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if f"--- {package}/" in block]
    files: dict[str, list[str]] = {}
    for line in block.splitlines():
        if line.startswith("--- "):
            lines = files[line.removeprefix("--- ")] = []
        elif not line.startswith("+++ "):
            lines.append(line)
    return files


def patched(text: str, lines: list[str]) -> str:
    """``text`` after the pieces of a difference, which ``@@`` separates; each must fit in one place."""
    for piece in "\n".join(lines).split("\n@@\n"):
        rows = piece.splitlines()
        before = "".join(f"{row[1:]}\n" for row in rows if row[0] in " -")
        after = "".join(f"{row[1:]}\n" for row in rows if row[0] in " +")
        assert text.count(before) == 1, piece
        text = text.replace(before, after)
    return text


@contextmanager
def torch_of(package: str) -> Iterator[None]:
    """PyTorch for its app, from the environment around Flower's, in which ``make`` installs it."""
    around = Path(sys.prefix).parent / "lib" / Path(np.__file__).parents[2].name / "site-packages"
    sys.path.append(str(around))  # last, so that all that Flower's environment has comes from there
    try:
        if package == "pytorchexample":
            torch = pytest.importorskip("torch", reason="needs PyTorch: make test-stacks")
            torch.set_num_threads(1)  # threads that wait for one another are slow where tests share the cores
        yield
    finally:
        sys.path.remove(str(around))


def play(package: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[str]]:
    """Run the app in ``folder``: the model at the end, and the names of the arrays that nodes sent."""
    sent: list[str] = []

    def tamper(node: int, reply: Any) -> Any:
        for arrays in reply.content.array_records.values():
            sent.extend(name for name, array in arrays.items() if array.stype == "numpy.ndarray")
        return reply

    result = folder / "result.npz"
    run_config = CONFIGS[package] | {"result": str(result)}
    with monkeypatch.context() as patch, torch_of(package):
        patch.syspath_prepend(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            patch.delitem(sys.modules, name)
        client, server = (importlib.import_module(f"{package}.{side}_app") for side in ("client", "server"))
        configs = [{"partition-id": number, "num-partitions": NODES} for number in range(NODES)]
        grid = LoopbackGrid([client.app] * NODES, configs)
        grid.tamper = tamper
        for node in grid.nodes.values():
            node.context.run_config = dict(run_config)
        server.app(grid, Context(RUN, 0, {}, RecordDict(), dict(run_config)))
    with np.load(result) as arrays:
        return [arrays[name] for name in arrays], sent


@pytest.mark.parametrize("package", CONFIGS)
def test_five_lines_secure_a_quickstart(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = difference(package)
    added = [line for lines in files.values() for line in lines if line.startswith("+")]
    assert 0 < len(added) <= MOST_LINES
    assert all(len(line) <= 100 for line in added)
    for name in ("plain", "secure"):
        shutil.copytree(QUICKSTARTS / package, tmp_path / name / package)
    for file, lines in files.items():
        path = tmp_path / "secure" / file
        path.write_text(patched(path.read_text(), lines))
    expected, in_the_clear = play(package, tmp_path / "plain", monkeypatch)
    arrays, secured = play(package, tmp_path / "secure", monkeypatch)
    assert any(np.abs(array).max() > 0.1 for array in arrays)
    for array, wanted in zip(arrays, expected, strict=True):
        assert array.dtype == wanted.dtype
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-3)
    assert in_the_clear, "the control"
    assert not secured


def test_a_secure_app_has_its_own_mods_within_and_its_task_on_both_sides() -> None:
    seen: list[float] = []

    def halve(message: Any, context: Any, call_next: Any) -> Any:
        reply = call_next(message, context)
        seen.append(reply.content["metrics"]["train_loss"])
        reply.content["metrics"]["train_loss"] /= 2
        return reply

    apps = [SecureClientApp(TASK, metrics=METRICS, mods=[halve]) for _ in range(CLIENTS)]
    for client, app in enumerate(apps, 1):
        app.train()(lambda message, context, c=client: training_reply(message, c, train_loss=float(c)))
    grid = LoopbackGrid(apps)
    result = start(apps[0].secure_grid(grid, grid.nodes[1].context, deadlines=0.0, poll=0.01))
    assert seen == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert result.train_metrics_clientapp[1]["train_loss"] == pytest.approx(1.5, abs=1e-6)


def test_a_secure_app_of_a_model_withstands_a_lying_server_unless_it_is_told_not_to() -> None:
    app = SecureClientApp.of(record(), max_clients=9)
    assert app.task.protocol == secagg.SecAgg()
    assert (app.task.min_survivors, app.task.max_weight, app.task.layout) == (8, None, layout_of(record()))
    assert SecureClientApp.of(record(), max_clients=9, threat_model="semi-honest").task.protocol == (
        secagg.SecAgg(threat_model="semi-honest")
    )


def test_what_is_neither_a_task_nor_a_model_is_named() -> None:
    with pytest.raises(secagg.ConfigError, match=r"class ArrayRecord as the task.*SecureClientApp\.of"):
        SecureClientApp(record())
    with pytest.raises(secagg.ConfigError, match="got a tuple as a model; expected an ArrayRecord, a list"):
        SecureClientApp.of((np.zeros(3),), max_clients=9)
    assert layout_of(list(MODEL.values())).size == layout_of(record()).size
