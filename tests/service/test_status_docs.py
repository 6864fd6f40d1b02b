"""docs/service_status.md lists every field of the document and every metric, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from prometheus_client import generate_latest

from secagg.errors import FaultKind
from secagg.service import status
from secagg.service.metrics import Metrics
from secagg.service.operator import operator_app
from tests.service.played import Played

TEXT = (Path(__file__).parents[2] / "docs" / "service_status.md").read_text(encoding="utf-8")
STRUCTS = {
    name: kind for name, kind in vars(status).items() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}


def listed(heading: str) -> list[str]:
    """The names in the first column of the table under a heading."""
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


@pytest.mark.parametrize("name", STRUCTS)
def test_every_field_of_the_document_is_documented(name: str) -> None:
    assert sorted(listed(name)) == sorted(field.name for field in msgspec.structs.fields(STRUCTS[name]))


def used() -> Metrics:
    """Metrics with a sample of each series."""
    metrics = Metrics()
    metrics.watch(pending=lambda: 3, waiting_polls=lambda: 4, spool_bytes=lambda: 5)
    metrics.message("ShareKeys", "accepted", 1000, 0.001)
    metrics.message("ShareKeys", "repeated", 1000)
    metrics.round_closed("ShareKeys", 2.0)
    metrics.fault(FaultKind.SILENT)
    metrics.session_ended("done")
    metrics.watch_epsilon("ab" * 32, lambda: 1.5)
    return metrics


def test_the_metrics_and_their_labels_are_those_of_the_document() -> None:
    written = {
        metric: set(re.findall(r"`(\w+)`", labels))
        for metric, labels in re.findall(r"^\| `(secagg_\w+)` \| (.*?) ?\|", TEXT, re.MULTILINE)
    }
    offered: dict[str, set[str]] = {}
    for family in used().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        offered[name] = labels - {"le"}
    assert offered == written


def test_the_metrics_say_what_was_counted() -> None:
    text = generate_latest(used().registry).decode()
    for line in (
        'secagg_messages_total{result="accepted",round="ShareKeys"} 1.0',
        'secagg_messages_total{result="repeated",round="ShareKeys"} 1.0',
        "secagg_receive_seconds_count 1.0",
        "secagg_ingest_bytes_total 1000.0",
        'secagg_round_seconds_sum{round="ShareKeys"} 2.0',
        "secagg_pending 3.0",
        "secagg_waiting_polls 4.0",
        "secagg_spool_bytes 5.0",
        'secagg_faults_total{kind="silent"} 1.0',
        'secagg_faults_total{kind="malformed"} 0.0',
        'secagg_sessions_total{result="failed"} 0.0',
        'secagg_epsilon_spent{task="abababababab"} 1.5',
    ):
        assert line in text.splitlines()


def test_an_unknown_kind_of_fault_makes_no_new_series() -> None:
    with pytest.raises(ValueError, match="c1"):
        used().fault("c1")  # type: ignore[arg-type]


def test_the_routes_are_those_of_the_document() -> None:
    paths = {route.path for route in operator_app(Played()).routes}  # type: ignore[attr-defined]
    written = set(re.findall(r"^\| `(/\S*)` \|", TEXT, re.MULTILINE))
    assert written == paths - {"/status.js", "/status.css", "/favicon.ico"}
