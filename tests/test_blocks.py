"""Each block of code in README and the pages runs in a test, or a comment before it says why it doesn't."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import secagg
from secagg.beacon import SignedBeacon
from secagg.identity import enrol
from tests.test_docs import DOCUMENTS

ROOT = Path(__file__).parent.parent
#: Kinds of blocks that nobody runs: directives of the site, settings, differences and drawings.
STILL = ("{", "mermaid", "toml", "ini", "nginx", "dockerfile", "diff", "text", "bibtex", "json", "yaml")
#: Which test runs a document's blocks: those of a kind that contain a text, or all of the kind if there is none.
RUN = {
    ("README.md", "python", ""): "tests/test_readme.py",
    ("README.md", "", ""): "tests/test_readme.py",
    ("docs/driving.md", "python", ""): "tests/test_readme.py",
    ("docs/driving.md", "", ""): "tests/test_readme.py",
    ("docs/choosing.md", "python", ""): "tests/test_blocks.py",
    ("docs/executors.md", "python", "server = task.server"): "tests/test_blocks.py",
    ("docs/executors.md", "python", "receive_all"): "tests/test_blocks.py",
    ("docs/executors.md", "bash", "openssl"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "class Shard"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "actor=True"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "from distributed import Client"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "import RayExecutor"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "ray.remote(Shard)"): "tests/secagg/clusters.py",
    ("docs/extending.md", "python", "Session("): "tests/examples/test_own_protocol.py",
    ("docs/extending.md", "python", "check_protocol("): "tests/examples/test_own_protocol.py",
    ("docs/federated.md", "python", ""): "tests/secagg/federated/test_documents.py",
    ("docs/flower.md", "python", ""): "tests/integrations/test_flower_document.py",
    ("docs/learn/your_training_loop.md", "python", ""): "tests/examples/test_learn.py",
    ("docs/nvflare.md", "python", "TASK = "): "tests/flare/test_document.py",
    ("docs/nvflare.md", "python", "add_client_output_filter"): "tests/flare/test_document.py",
    ("docs/operations.md", "console", ""): "tests/test_operations.py",
    ("docs/oneshot.md", "python", ""): "tests/test_blocks.py",
    ("docs/privacy.md", "python", ""): "tests/secagg/test_adaptive_clip.py",
    ("docs/service.md", "console", ""): "tests/service/test_service_document.py",
    ("docs/service.md", "python", ""): "tests/service/test_service_document.py",
    ("docs/service_client.md", "python", "secagg.connect"): "tests/remote/test_torch_loop.py",
    ("docs/tenseal.md", "python", ""): "tests/he/test_tenseal.py",
    ("docs/transports.md", "python", ""): "tests/test_blocks.py",
}


class Block(NamedTuple):
    """A fenced block: its kind, its text, and why it does not run if the line before says so."""

    kind: str
    text: str
    reason: str


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a document."""
    found = re.finditer(
        r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^ *```(?P<kind>\S*)[^\n]*\n(?P<text>.*?)^ *```$",
        document,
        re.DOTALL | re.MULTILINE,
    )
    for one in found:
        yield Block(one["kind"], one["text"], one["reason"] or "")


def unaccounted(name: str, document: str) -> list[str]:
    """The first lines of the blocks that nothing runs and of which nothing says why."""
    known = [(kind, text) for path, kind, text in RUN if path == name]
    return [
        block.text.partition("\n")[0]
        for block in blocks(document)
        if not block.kind.startswith(STILL)
        and not block.reason
        and not any(kind == block.kind and text in block.text for kind, text in known)
    ]


def test_short_examples_run() -> None:
    """With the names that their pages have introduced."""
    update = {"w": np.zeros(3)}
    names = {
        "secagg": secagg,
        "SignedBeacon": SignedBeacon,
        "update": update,
        "public_key": bytes(range(32)),
        "first_round": 9,
    }
    for page in ("choosing.md", "oneshot.md"):
        for block in blocks((ROOT / "docs" / page).read_text(encoding="utf-8")):
            if block.kind == "python" and not block.reason:
                exec(compile(block.text, page, "exec"), names)
    assert names["protocol"].members == 100


def python_of(page: str) -> list[str]:
    """The blocks of Python of a page of docs/ that run."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [block.text for block in blocks(text) if block.kind == "python" and not block.reason]


def test_a_transport_of_ones_own_carries_sessions_as_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last two blocks are what one client does; the server and the other clients are played around them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    names: dict[str, Any] = {}
    queues, session, *of_one_client = python_of("transports.md")
    exec(compile(queues, "transports.md", "exec"), names)
    exec(compile(session, "transports.md", "exec"), names)
    task, keys, roster, updates = (names[name] for name in ("task", "keys", "roster", "updates"))
    assert names["outcome"].mean["w"] == pytest.approx(np.full(3, 0.1), abs=1e-4)
    assert len(of_one_client) == 2
    to_server = names["ToServer"]
    for number, block in enumerate(of_one_client, 2):
        named = {"roster": roster, "session": b"round %d" % number}

        def others(party: str, named: Any = named) -> None:
            client = task.client(party, identity=keys[party], **named)
            client.contribute(updates[party])
            secagg.run_client(client, to_server(party))

        with ThreadPoolExecutor(3) as threads:
            playing = [threads.submit(others, party) for party in ("c2", "c3")]
            server = task.server(list(updates), **named)
            serving = threads.submit(secagg.run_server, server, names["ToParties"](), deadlines=60)
            names |= {"key": keys["c1"], "name": named["session"], "wire": to_server("c1")}
            names |= {"update": updates["c1"], "train": lambda: updates["c1"]}
            names["client"] = task.client("c1", identity=keys["c1"], **named)
            exec(compile(block, "transports.md", "exec"), names)
            assert serving.result(60).survivors == ("c1", "c2", "c3")
            for one in playing:
                one.result(60)


def test_roles_take_an_executor_as_its_page_says() -> None:
    roles, batch = (one for one in python_of("executors.md") if "task.server(" in one or "receive_all(" in one)
    updates = {name: {"w": np.full(3, 0.1)} for name in ("c1", "c2", "c3")}
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(updates["c1"]),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=3,
        min_survivors=3,
    )
    keys, roster = enrol(list(updates))
    with ThreadPoolExecutor(2) as executor:
        names: dict[str, Any] = {"secagg": secagg, "task": task, "cohort": list(updates), "updates": updates}
        names |= {"roster": roster, "identity": keys["c1"], "executor": executor}
        exec(compile(roles, "executors.md", "exec"), names)
        assert names["result"].mean["w"] == pytest.approx(np.full(3, 0.1), abs=1e-4)
        clients = {
            name: task.client(name, identity=keys[name], roster=roster, session=b"round 3") for name in updates
        }
        asked = names["server"].start()
        forwarded: list[str] = []
        names["batch"] = [(name, client.receive(asked[name])) for name, client in clients.items()]
        names["forward"] = lambda party, message: forwarded.append(party)
        exec(compile(batch, "executors.md", "exec"), names)
    assert not names["server"].faults
    assert len(names["server"].close_round()) == 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_block_runs_or_says_why_not(document: Path) -> None:
    name = str(document.relative_to(ROOT))
    assert unaccounted(name, document.read_text(encoding="utf-8")) == []


def strange(block: Block) -> list[str]:
    """The lines of a block that says it is an extract of a file, and that the file does not have."""
    extract = re.fullmatch(r"an extract of (\S+)", block.reason)
    there = (
        {line.strip() for line in (ROOT / extract[1]).read_text(encoding="utf-8").splitlines()}
        if extract
        else set()
    )
    return [line for line in block.text.splitlines() if extract and line.strip() not in there]


def test_extracts_are_in_the_files_that_they_name() -> None:
    all_blocks = [block for path in DOCUMENTS for block in blocks(path.read_text(encoding="utf-8"))]
    assert [line for block in all_blocks for line in strange(block)] == []
    assert any(block.reason.startswith("an extract of ") for block in all_blocks)
    assert strange(Block("python", "import re\nimport os\n", "an extract of tests/test_blocks.py")) == ["import os"]


def test_the_tests_that_run_blocks_name_their_document() -> None:
    for (path, kind, text), test in RUN.items():
        source = (ROOT / test).read_text(encoding="utf-8")
        assert Path(path).name in source, (path, test)
        assert any(
            block.kind == kind and text in block.text for block in blocks((ROOT / path).read_text(encoding="utf-8"))
        )


def test_control_a_block_without_test_or_reason_is_noticed() -> None:
    page = "```python\nx = 1\n```\n\n<!-- not run: it needs a server -->\n```python\ny = 2\n```\n"
    assert unaccounted("docs/new.md", page) == ["x = 1"]
    assert unaccounted("docs/privacy.md", page) == []
