"""Each block of code in README and the pages runs in a test, or a comment before it says why it doesn't."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import secagg
from secagg.beacon import SignedBeacon
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
    ("docs/executors.md", "bash", "openssl"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "class Shard"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "actor=True"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "from distributed import Client"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "import RayExecutor"): "tests/secagg/clusters.py",
    ("docs/executors.md", "python", "ray.remote(Shard)"): "tests/secagg/clusters.py",
    ("docs/extending.md", "python", "Session("): "tests/examples/test_own_protocol.py",
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_block_runs_or_says_why_not(document: Path) -> None:
    name = str(document.relative_to(ROOT))
    assert unaccounted(name, document.read_text(encoding="utf-8")) == []


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
