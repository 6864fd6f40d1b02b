"""A node's own files: what of them the server gets to read, and what a crash leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from secagg.store import FileLedger, FileStore
from tests.integrations import test_flower_budget as budgets
from tests.integrations.apps import CLIENTS, MODEL, enrol, error_texts, make_grid, make_task, record, secure, start

WITH_ROSTER = make_task(secagg.SecAgg(corruption=0.1), min_survivors=4)
REFUSAL = (
    "<class 'secagg.integrations._shared.party.RefusalError'>:"
    "<'this node can't take part with its config and files; its log says why'>"
)
Spoils = Callable[[dict[str, Any], Any], Any]


def no_key(config: dict[str, Any], monkeypatch: Any) -> None:
    Path(config["secagg-key"]).unlink()


def bad_roster(config: dict[str, Any], monkeypatch: Any) -> None:
    config["secagg-roster"] = config["secagg-key"]


def bad_shared_key(config: dict[str, Any], monkeypatch: Any) -> None:
    path = Path(config["secagg-dir"]) / "patients.he.json"
    path.write_text(json.dumps({"version": 7}))
    config["secagg-he-key"] = str(path)


def in_use(config: dict[str, Any], monkeypatch: Any) -> Any:
    return FileLedger(Path(config["secagg-dir"]) / "ledger")


def damaged_ledger(config: dict[str, Any], monkeypatch: Any) -> None:
    (Path(config["secagg-dir"]) / "ledger").write_bytes(bytes(960))


def full_disk(config: dict[str, Any], monkeypatch: Any) -> None:
    save = FileStore.__call__

    def fails(self: Any, number: int, state: bytes) -> None:
        if str(self._path).startswith(config["secagg-dir"]):
            raise OSError(28, "No space left on device", str(self._path))
        save(self, number, state)

    monkeypatch.setattr(FileStore, "__call__", fails)


@pytest.mark.parametrize(
    ("spoils", "why"),
    [
        (no_key, "c1.pem"),
        (bad_roster, "a roster that can't be read"),
        (bad_shared_key, "patients.he.json"),
        (in_use, "open already"),
        (damaged_ledger, "damaged at byte 0"),
        (full_disk, "No space left"),
    ],
)
def test_the_server_learns_that_a_nodes_files_do_not_work_and_no_more(
    spoils: Spoils, why: str, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    roster, configs, _ = enrol(WITH_ROSTER, tmp_path)
    held = spoils(configs[0], monkeypatch)
    grid = make_grid(WITH_ROSTER, configs)
    reasons = error_texts(grid)
    start(secure_grid := secure(grid, WITH_ROSTER, roster=roster))
    if held is not None:
        held.close()
    assert secure_grid.outcomes[0].survivors == ("c2", "c3", "c4", "c5")
    assert reasons == [REFUSAL]
    (line,) = [text for text in caplog.messages if text.startswith("secagg: this node can't take part: ")]
    assert why in line


def test_a_folder_that_is_not_there_is_made_for_its_owner_alone(tmp_path: Path, caplog: Any) -> None:
    folder = tmp_path / "fresh"
    grid = make_grid(configs=[{"secagg-dir": str(folder)}, *({} for _ in range(1, CLIENTS))])
    start(secure_grid := secure(grid))
    assert len(secure_grid.outcomes[0].survivors) == CLIENTS
    assert folder.stat().st_mode & 0o777 == 0o700
    assert f"made {folder}" in caplog.text


@pytest.mark.parametrize("where", ["no parent", "a file"])
def test_the_server_learns_that_a_folder_can_not_be_made_and_not_its_path(
    where: str, tmp_path: Path, caplog: Any
) -> None:
    folder = tmp_path / "fresh"
    if where == "a file":
        folder.touch()
    else:
        folder /= "below"
    grid = make_grid(configs=[{"secagg-dir": str(folder)}, *({} for _ in range(1, CLIENTS))])
    reasons = error_texts(grid)
    start(secure_grid := secure(grid))
    assert len(secure_grid.outcomes[0].survivors) == CLIENTS - 1
    (reason,) = reasons
    assert "secagg-dir does not exist and can't be made; its operator has to make it" in reason
    assert str(folder) not in reason
    assert str(folder) in caplog.text


def test_another_budget_than_the_folders_keeps_its_node_out_and_stays_in_its_log(
    tmp_path: Path, caplog: Any
) -> None:
    start(secure(budgets.make_grid(budgets.settings(tmp_path)), budgets.NOISED), model=budgets.MODEL)
    grid = budgets.make_grid(budgets.settings(tmp_path, **{"secagg-epsilon": 2 * budgets.FOR_TWO}))
    reasons = error_texts(grid)
    start(secure_grid := secure(grid, budgets.NOISED), model=budgets.MODEL)
    assert (budgets.survivors(secure_grid), budgets.trainings(grid)) == ([CLIENTS - 1], 0)
    assert reasons == [REFUSAL]
    assert "agree on another budget" in caplog.text


def test_the_file_that_a_crash_leaves_is_deleted_in_the_next_session(tmp_path: Path, monkeypatch: Any) -> None:
    """It may hold an update, as any state does."""
    grid = make_grid(configs=[{"secagg-dir": str(tmp_path)}, *({} for _ in range(1, CLIENTS))])
    node, replace, left = grid.nodes[1], Path.replace, []

    def crashes(path: Path, target: Any) -> Any:
        if path.parent == tmp_path and "arrays" in node.requests[-1] and not left:
            # A node that is killed here removes nothing: what it wrote stays under a name of this kind.
            left.append(path.with_name(path.name.replace(path.suffixes[-2], ".0123456789abcdef")))
            left[0].write_bytes(path.read_bytes())
            raise OSError("its node has crashed")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", crashes)
    secure_grid = secure(grid)
    start(secure_grid)
    assert left[0].exists()
    assert left[0].stat().st_size > 1000
    start(secure_grid, rounds=1, model=record({name: array + 1 for name, array in MODEL.items()}))
    assert [len(outcome.survivors) for outcome in secure_grid.outcomes] == [CLIENTS - 1, CLIENTS]
    (state,) = [path.name for path in tmp_path.iterdir() if path.name != "ledger"]
    assert state.endswith(".state")
    assert not left[0].name.startswith(state)
