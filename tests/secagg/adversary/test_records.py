"""Attacks on the records of a client that trains with DP-SGD: on their order, and on a batch that is used again.

The attacker sees every gradient that the client shows, and knows all of its records but one.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dp
from dp.events import PoissonSampled, SelfComposed
from secagg.errors import ConfigError
from secagg.federated import DPSGD, PoissonBatch, PoissonBatches, clients
from tests.secagg.adversary.registry import attack

DELTA = 1e-5
RECORDS = 1000
#: Of a whole epoch of Poisson batches of one record.
CLAIMED = DPSGD(1.0, 1.0).epsilon(DELTA, rate=1 / RECORDS, steps=RECORDS)


def ledger() -> dp.PrivacyLedger:
    return dp.PrivacyLedger(1e6, DELTA, unit="record", trust="central")


def told_apart(draw: Callable[[], Any], trials: int = 1000) -> float:
    """A lower bound, four deviations strong, on the ε of one gradient: does record 0 exist? All others are 0."""
    private, rates, keys = DPSGD(1.0, 1.0), [], np.random.default_rng(8).bytes
    for value in (1.0, 0.0):
        account = ledger()

        def per_example(rows: Any, value: float = value) -> Any:
            return value * (rows == 0)[:, None]

        seen = [private.gradient(np.zeros(1), per_example, draw(), account, rng=keys)[0] for _ in range(trials)]
        share = float(np.mean(np.array(seen) > 1.5))
        rates.append((share, 4 * math.sqrt(share * (1 - share) / trials)))
    (hit, less), (miss, more) = rates
    return math.log(max(hit - less, 1e-9) / (miss + more))


@attack(
    title="A loader goes through the records in an order that is known, so one gradient is the victim's",
    attacker="an observer of the gradients, to learn whether the victim's record is in the data",
    defence="only Poisson batches are taken, of which nobody knows who is in them (`clients._check_batch`)",
    control="with the loader's batch let through: one gradient tells more than the account says of a whole epoch",
    source="Abadi et al. 2016 for the sampling; Chua et al. 2024 for the gap",
)
class TestKnownOrder:
    class Loaded(SimpleNamespace):
        """The batch of the step in which record 0 has its turn."""

        indices, rate, records = np.zeros(1, np.int64), 1 / RECORDS, RECORDS

        def _claim(self) -> None:
            """Any use is fine."""

        def __len__(self) -> int:
            return 1

    def test_refused(self) -> None:
        assert pytest.approx(0.678, abs=1e-3) == CLAIMED
        with pytest.raises(ConfigError, match="a shuffled loader or of a fixed size are not"):
            told_apart(self.Loaded)
        batches = PoissonBatches(RECORDS, 1, rng=np.random.default_rng(9).bytes)
        assert told_apart(batches.draw) < CLAIMED

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clients, "_check_batch", lambda batch: None)
        assert told_apart(self.Loaded) > CLAIMED + 0.1


@attack(
    title="Four hundred gradients of one batch, whose noise averages out",
    attacker="an observer of the gradients, to learn the victim's",
    defence="a batch is good for one gradient (`PoissonBatch._claim`)",
    control="without that: their mean is the victim's gradient, and the ledger has a hundredth of the cost",
    source="own",
)
class TestBatchUsedAgain:
    private, rate, secret = DPSGD(1.0, 1.0), 0.01, 0.6

    def mean(self, account: dp.PrivacyLedger) -> float:
        batch = PoissonBatch._drawn(np.zeros(1, np.int64), self.rate, 100)  # the victim's record alone
        keys = np.random.default_rng(7).bytes

        def per_example(rows: Any) -> Any:
            return np.full((1, 1), self.secret)

        return float(
            np.mean(
                [self.private.gradient(np.zeros(1), per_example, batch, account, rng=keys)[0] for _ in range(400)]
            )
        )

    def test_refused(self) -> None:
        account = ledger()
        with pytest.raises(ConfigError, match="two releases from the same records cost more than two samples"):
            self.mean(account)
        assert account.report().releases == 1

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PoissonBatch, "_claim", lambda batch: None)
        account = ledger()
        assert self.mean(account) == pytest.approx(self.secret, abs=0.15)
        once = PoissonSampled(self.rate, SelfComposed(self.private.event(1), 400))
        assert dp.RDPAccountant(DELTA).epsilon_after(once) > 100 * account.spent
