"""Arguments of the adapter that are of another kind than it takes: one clear line, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from secagg.integrations.flower import SecureClientApp, SecureGrid, client_mod, hosted, layout_of
from tests.integrations.apps import TASK, make_grid, record


def in_round(number: Any) -> Message:
    return Message(RecordDict({"arrays": record(), "config": ConfigRecord({"server-round": number})}), 1, "train")


ARGUMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a grid as the task": (lambda: SecureGrid(TASK, make_grid()), "got a LoopbackGrid as the task"),
    "a task's name": (lambda: client_mod("task"), "got 'task' as the task; expected a secagg.Task"),
    "one task twice": (lambda: client_mod(TASK, simulated=TASK), "got simulated= the task itself"),
    "a name for a party": (
        lambda: SecureGrid(make_grid(), TASK, parties={"dec": "host"}),
        "got parties=a dict; expected the party's id and a function",
    ),
    "parties that the protocol does not have": (
        lambda: SecureGrid(make_grid(), TASK, parties={"dec": bytes}),
        "got parties= for dec, which SecAgg does not have",
    ),
    "one class": (lambda: SecureGrid(make_grid(), TASK, strategies=FedAvg), "expected a list of classes"),
    "no pause": (lambda: SecureGrid(make_grid(), TASK, poll=0), "got poll=0; expected seconds, more than 0"),
    "a context": (
        lambda: SecureGrid(make_grid(), TASK, run_config=make_grid().nodes[1].context),
        "got run_config=a Context; expected the ServerApp's context.run_config",
    ),
    "a value of a beacon": (
        lambda: SecureGrid(make_grid(), TASK, beacon=b""),
        "as beacon; expected a function",
    ),
    "grid and context": (
        lambda: SecureClientApp(TASK).secure_grid(None, make_grid()),
        "got a LoopbackGrid as the context; expected secure_grid",
    ),
    "a text as the round": (
        lambda: SecureGrid(make_grid(), TASK, strategies=[None]).send_and_receive([in_round("1")]),
        "got server-round='1' in a train message; expected a whole number",
    ),
    "a text as a number": (
        lambda: SecureClientApp.of(record(), max_clients="9"),
        "got max_clients='9'; expected a whole number",
    ),
    "a model of objects": (lambda: layout_of([np.array([None])]), "got a list as a model; expected an ArrayRecord"),
    "a role": (lambda: hosted(TASK.client("c1")), "got a .* for hosted; expected a function"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_an_argument_of_another_kind_is_refused_by_name(what: str) -> None:
    call, why = ARGUMENTS[what]
    with pytest.raises(secagg.ConfigError, match=why):
        call()
