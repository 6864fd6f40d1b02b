"""A node's privacy budget: its account on the disk, and the count of charges that no lost account can undo."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

from dp import PrivacyLedger
from dp.events import Trust
from mpc.keys import encode_parts
from secagg.errors import ConfigError
from secagg.store import FileLedger
from secagg.task import Task

_COUNTED = bytes(32)  # what stands under an entry of the count: that it is there is all it says


def is_budgeted(config: Mapping[str, Any]) -> bool:
    """Whether the node's operator has set a budget, be it in part."""
    return "secagg-epsilon" in config or "secagg-delta" in config


def open_budget(config: Mapping[str, Any], task: Task, ledger: FileLedger | None) -> PrivacyLedger:
    """The node's own, which no app sets: that comes through the server whom it binds.

    The file can be lost, or replaced by an older copy; ``ledger`` lies beside it and counts what was charged.
    ``ConfigError`` for an account that holds fewer charges than were counted.
    """
    missing = {"secagg-epsilon", "secagg-delta", "secagg-dir"} - config.keys()
    if ledger is None or missing:
        raise ConfigError(
            f"got a privacy budget without {', '.join(sorted(missing))}; expected both of secagg-epsilon and "
            "secagg-delta, and secagg-dir to keep its account in"
        )
    trust: Trust = getattr(task.encoder, "trust", "distributed")  # without noise no client takes a budget
    if trust == "central":
        raise ConfigError(
            "got a task whose noise the server adds, and a privacy budget that is to bind the server; expected an "
            "encoding of the clients' own noise, such as dp.DistributedGaussian"
        )
    epsilon, delta, path = config["secagg-epsilon"], config["secagg-delta"], Path(config["secagg-dir"])
    counted = _counted(ledger)
    try:
        budget = PrivacyLedger.open(
            path / "privacy.json", epsilon, delta, unit="client", trust=trust, create=not counted
        )
    except ValueError as error:  # dp's own errors are
        raise ConfigError(str(error)) from error
    if (found := budget.report().releases) < counted:
        raise ConfigError(
            f"got an account {path / 'privacy.json'} of {found} charges, and a ledger that counts {counted}: it is "
            "an older copy or a new file; restore the newest one, or take no further part with these data"
        )
    return budget


def count_charges(budget: PrivacyLedger, ledger: FileLedger) -> None:
    """Write into ``ledger`` how many charges the account holds; run before what they paid for leaves."""
    for number in range(_counted(ledger) + 1, budget.report().releases + 1):
        ledger.claim(_entry(number), _COUNTED)


def check_unbudgeted(config: Mapping[str, Any]) -> None:
    """``ConfigError`` if a budget is to cover what leaves: what an evaluation tells of the data has no noise."""
    if is_budgeted(config) and config.get("secagg-evaluate") is not True:
        raise ConfigError(
            "got an evaluation or a query at a node with a privacy budget, which does not cover the answer; go on "
            "without it, or agree with its operator on secagg-evaluate=true"
        )


def _counted(ledger: FileLedger) -> int:
    return next(number for number in count() if _entry(number + 1) not in ledger)


def _entry(number: int) -> bytes:
    return hashlib.sha256(encode_parts("secagg/v1/flower-charge", str(number))).digest()
