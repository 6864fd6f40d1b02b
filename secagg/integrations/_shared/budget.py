"""A node's privacy budget: an account on disk, and a count of its charges that survives losing the account."""

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

_CLAIM = bytes(32)  # the value of each entry of the count; only the entry's presence matters


def is_budgeted(config: Mapping[str, Any]) -> bool:
    """Whether the node's operator has set a budget, or a part of one."""
    return "secagg-epsilon" in config or "secagg-delta" in config


def open_budget(config: Mapping[str, Any], task: Task, ledger: FileLedger | None) -> PrivacyLedger:
    """Open the node's own budget.

    It is read from the node's config and never from an app, because apps come from the server, which the budget
    binds. The account's file can be lost or replaced by an older copy, so ``ledger`` counts the charges too.
    ``ConfigError`` if the account holds fewer charges than the ledger counts.
    """
    missing = {"secagg-epsilon", "secagg-delta", "secagg-dir"} - config.keys()
    if ledger is None or missing:
        raise ConfigError(
            f"got a privacy budget without {', '.join(sorted(missing))}; expected both of secagg-epsilon and "
            "secagg-delta, and of secagg-dir, the folder for its account"
        )
    release = task.encoder.release(task.layout.size)  # None without noise; then no client takes a budget
    trust: Trust = "distributed" if release is None else release.trust
    if trust == "central":
        raise ConfigError(
            "got a task in which the server adds the noise, and a privacy budget that must bind the server; "
            "expected an encoding in which clients add noise, such as dp.DistributedGaussian"
        )
    epsilon, delta, path = config["secagg-epsilon"], config["secagg-delta"], Path(config["secagg-dir"])
    charges = _count(ledger)
    try:
        budget = PrivacyLedger.open(
            path / "privacy.json", epsilon, delta, unit="client", trust=trust, create=not charges
        )
    except ValueError as error:  # dp's errors are ValueErrors
        raise ConfigError(str(error)) from error
    if (releases := budget.report().releases) < charges:
        raise ConfigError(
            f"got an account {path / 'privacy.json'} of {releases} charges, and a ledger that counts {charges}: "
            "the account is an older copy or a new file; restore the newest one, or stop using these data"
        )
    return budget


def count_charges(budget: PrivacyLedger, ledger: FileLedger) -> None:
    """Count the account's charges in ``ledger``. Run before the update that they paid for is sent."""
    for number in range(_count(ledger) + 1, budget.report().releases + 1):
        ledger.claim(_entry(number), _CLAIM)


def check_unbudgeted(config: Mapping[str, Any]) -> None:
    """``ConfigError`` if the node has a budget, because answers to evaluations and queries have no noise."""
    if is_budgeted(config) and config.get("secagg-evaluate") is not True:
        raise ConfigError(
            "got an evaluation or a query at a node with a privacy budget, which does not cover the answer; go on "
            "without it, or agree with its operator on secagg-evaluate=true"
        )


def _count(ledger: FileLedger) -> int:
    return next(number for number in count() if _entry(number + 1) not in ledger)


def _entry(number: int) -> bytes:
    return hashlib.sha256(encode_parts("secagg/v1/flower-charge", str(number))).digest()
