"""What the README shows, run: its Python as it stands, over a transport of queues; its commands exist."""

import queue
import re
import shlex
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.identity import load_identity
from secagg.protocols.base import rounds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIMULATED, SWAPPED, NOISED, SERVED, JOINED = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
CLIENTS = [f"c{i}" for i in range(100)]


@pytest.fixture(scope="module")
def simulated() -> dict[str, Any]:
    """The first snippet's names after it ran."""
    rng = np.random.default_rng(0)
    updates = {c: {"w": rng.uniform(-1, 1, (2, 3)).astype(np.float32)} for c in CLIENTS}
    names = {
        "update": updates["c0"],
        "updates": updates,
        "n_examples": {c: int(rng.integers(1, 5001)) for c in CLIENTS},
    }
    exec(SIMULATED, names)
    return names


def test_sum_in_one_process(simulated: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    result, updates, weights = (simulated[name] for name in ("result", "updates", "n_examples"))
    assert set(result.survivors) == set(CLIENTS) - {"c7"}
    assert set(result.bytes_up["c1"]) == set(rounds(secagg.SecAgg()))
    expected = sum(weights[c] * updates[c]["w"].astype(float) for c in result.survivors) / result.total_weight
    np.testing.assert_allclose(result.mean["w"], expected, atol=5_000 * 99 * 2**-14 / result.total_weight)


def test_swap_the_protocol(simulated: dict[str, Any]) -> None:
    exec(SWAPPED, simulated)
    exec(NOISED, simulated)


def test_server_and_clients_over_ones_own_transport(simulated: dict[str, Any], tmp_path: Path) -> None:
    from secagg.cli import main
    from secagg.store import FileLedger, FileStore

    task, updates, weights = (simulated[name] for name in ("task", "updates", "n_examples"))
    with pytest.raises(SystemExit) as left:
        main(["keygen", *CLIENTS, "--out", str(tmp_path)])
    assert left.value.code == 0
    roster = secagg.load_roster(tmp_path / "roster.json")
    inboxes = {c: queue.Queue() for c in CLIENTS}
    to_server: queue.Queue[tuple[str, bytes]] = queue.Queue()
    failures: list[BaseException] = []

    def join(client: str) -> None:
        ledger = FileLedger(tmp_path / f"{client}.ledger")
        names = {
            "task": task, "roster": roster, "update": updates[client], "n": weights[client],
            "key": load_identity(tmp_path / f"{client}.pem"),
            "store": FileStore(tmp_path / f"{client}.state", ledger=ledger),
            "recv": inboxes[client].get, "send": lambda reply: to_server.put((client, reply)),
        }  # fmt: skip
        try:
            exec(JOINED.replace('"c1"', repr(client)), names)
        except BaseException as error:
            failures.append(error)
        finally:
            ledger.close()

    def forward(outbox: dict[str, bytes]) -> None:
        for party, message in outbox.items():
            inboxes[party].put(message)

    def exchange(outbox: dict[str, bytes], pending: frozenset[str]) -> Any:
        forward(outbox)
        for _ in pending:
            yield to_server.get(timeout=60)

    threads = [threading.Thread(target=join, args=(c,), daemon=True) for c in CLIENTS]
    for thread in threads:
        thread.start()
    names = {"task": task, "cohort": CLIENTS, "roster": roster, "exchange": exchange, "forward": forward}
    exec(SERVED, names)
    for thread in threads:
        thread.join(60)
    assert not failures
    outcome = names["server"].outcome
    assert set(outcome.survivors) == set(CLIENTS)
    expected = sum(weights[c] * updates[c]["w"].astype(float) for c in CLIENTS) / outcome.total_weight
    np.testing.assert_allclose(outcome.mean["w"], expected, atol=5_000 * 100 * 2**-14 / outcome.total_weight)


def test_commands_are_there() -> None:
    from secagg.cli import parser

    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    fenced = README.split("```")[1::2]
    lines = [line for block in fenced if block.startswith("\n") for line in block.splitlines() if line]
    assert len(lines) >= 3
    for line in lines:
        program, command, *rest = shlex.split(line, comments=True)
        if program == "make":
            assert command in targets
        else:
            assert program == "secagg"
            parser().parse_args([command, *rest])


def test_exported_names_in_the_readme_exist() -> None:
    for name in set(re.findall(r"\bsecagg\.([A-Z]\w+)", README)):
        assert name in secagg.__all__
