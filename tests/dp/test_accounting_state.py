"""Saved accountants and ledgers: they come back as they were, and from nothing else."""

import hashlib
import json
import math
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from dp._saved import decode_state, encode_state
from dp.accounting import RDPAccountant
from dp.errors import DPError
from dp.events import (
    EVENTS,
    Composed,
    DiscreteGaussianEvent,
    DistributedGaussianEvent,
    Event,
    FixedSizeSampled,
    GaussianEvent,
    PoissonSampled,
    PureEvent,
    Release,
    SelfComposed,
    SkellamEvent,
    from_plain,
    to_plain,
)
from dp.ledger import BudgetExceeded, PrivacyLedger

GAUSSIAN = GaussianEvent(1.0)
ALL: list[Event] = [
    GAUSSIAN,
    PureEvent(0.5),
    DiscreteGaussianEvent(3.0, 2.0),
    DistributedGaussianEvent(5, 3.0, 2.0, 4.0, 16, 1e-20),
    SkellamEvent(9.0, 1.0, 1.0, 1e-20),
    PoissonSampled(0.25, GAUSSIAN),
    FixedSizeSampled(100, 10, GAUSSIAN),
    SelfComposed(GAUSSIAN, 7),
    Composed((GAUSSIAN, SelfComposed(SkellamEvent(9.0, 1.0, 1.0), 2))),
]


def ledger(epsilon: float = 8.0, **options: Any) -> PrivacyLedger:
    return PrivacyLedger(epsilon, 1e-5, **({"unit": "client", "trust": "distributed"} | options))


def release(event: Event = GAUSSIAN, unit: Any = "client", trust: Any = "distributed") -> Release:
    return Release(event, unit, trust)


def sealed(state: object) -> bytes:
    body = json.dumps(state).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def test_every_kind_of_event_is_saved_and_restored() -> None:
    assert {type(event) for event in ALL} == set(EVENTS.values())
    for event in ALL:
        assert from_plain(json.loads(json.dumps(to_plain(event)))) == event
        neighbours = "replace-one" if isinstance(event, FixedSizeSampled) else "zero-out"
        first = RDPAccountant(1e-5, neighbours=neighbours, orders=(2, 3, 9)).compose(event, 3)
        again = RDPAccountant.from_bytes(first.to_bytes())
        assert (again.events, again.neighbours, again.orders) == (first.events, first.neighbours, first.orders)
        assert (again.rdp == first.rdp).all()
        assert again.to_bytes() == first.to_bytes()
        assert again.get_epsilon() == first.get_epsilon()


def test_a_flipped_bit_is_seen() -> None:
    data = RDPAccountant(1e-5).compose(GAUSSIAN).to_bytes()
    for position in range(0, len(data), 7):
        bad = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(DPError):
            RDPAccountant.from_bytes(bad)
    for bad in (b"", data[:-1], data + b"\n", b"\n", data * 2, bytes(1 << 23)):
        with pytest.raises(DPError):
            RDPAccountant.from_bytes(bad)
    with pytest.raises(DPError, match="not bytes"):
        RDPAccountant.from_bytes("state")  # type: ignore[arg-type]


def nested(depth: int) -> dict[str, Any]:
    plain = to_plain(GAUSSIAN)
    for _ in range(depth):
        plain = {"kind": "SelfComposed", "count": 1, "event": plain}
    return plain


BAD_EVENTS: list[Any] = [
    None,
    {},
    {"kind": "Event"},
    {"kind": "Release", "event": to_plain(GAUSSIAN), "unit": "client", "trust": "local"},
    {"kind": ["GaussianEvent"], "noise_multiplier": 1.0},
    {"kind": "GaussianEvent"},
    {"kind": "GaussianEvent", "noise_multiplier": 1.0, "more": 1},
    *({"kind": "GaussianEvent", "noise_multiplier": bad} for bad in (0, -1.0, "1", None, True, math.inf, [], {})),
    {"kind": "PoissonSampled", "rate": 1.5, "event": to_plain(GAUSSIAN)},
    {"kind": "PoissonSampled", "rate": 0.5, "event": "GaussianEvent"},
    {"kind": "FixedSizeSampled", "population": 3, "size": 4, "event": to_plain(GAUSSIAN)},
    {"kind": "SelfComposed", "count": 1.0, "event": to_plain(GAUSSIAN)},
    {"kind": "Composed", "events": to_plain(GAUSSIAN)},
    {"kind": "Composed", "events": [3]},
    {"kind": "SkellamEvent", "variance": 1.0, "l2": 1.0, "l1": 1.0, "clamped": 1.0},
    nested(20),
]


@pytest.mark.parametrize("bad", BAD_EVENTS)
def test_other_events_are_refused(bad: Any) -> None:
    state = RDPAccountant(1e-5).state_dict()
    with pytest.raises(DPError):
        RDPAccountant.from_bytes(sealed(state | {"events": [[bad, 1]]}))


def test_control_the_same_states_with_a_good_event_are_taken() -> None:
    state = RDPAccountant(1e-5).state_dict()
    assert RDPAccountant.from_bytes(sealed(state | {"events": [[nested(5), 2]]})).num_releases == 2


@pytest.mark.parametrize(
    "change",
    [
        {"format": "secagg/v2/dp-accountant"},
        {"delta": 0},
        {"neighbours": "other"},
        {"neighbours": ["zero-out"]},
        {"orders": 3},
        {"orders": [2.0]},
        {"orders": []},
        {"events": {}},
        {"events": [[to_plain(GAUSSIAN)]]},
        {"events": [[to_plain(GAUSSIAN), 0]]},
        {"events": [3]},
        {"more": 1},
    ],
)
def test_other_states_are_refused(change: dict[str, Any]) -> None:
    state = RDPAccountant(1e-5).state_dict()
    with pytest.raises(DPError):
        RDPAccountant.from_bytes(sealed(state | change))
    with pytest.raises(DPError):
        PrivacyLedger.from_bytes(sealed(state | change))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(json_values, st.sampled_from(["delta", "neighbours", "orders", "events"]))
def test_nothing_but_the_packages_own_error_comes_out(value: Any, field: str) -> None:
    for state in (value, RDPAccountant(1e-5).state_dict() | {field: value}):
        try:
            RDPAccountant.from_bytes(sealed(state))
        except DPError:
            continue


def test_a_budget_refuses_the_round_that_would_exceed_it() -> None:
    book = ledger(8.0)
    assert book.charge(release()) == pytest.approx(4.3772, abs=1e-4)
    book.charge(release())
    before = book.to_bytes()
    assert book.would_exceed(release())
    with pytest.raises(BudgetExceeded) as refused:
        book.charge(release())
    message = str(refused.value)
    after = RDPAccountant(1e-5).compose(GAUSSIAN, 3).get_epsilon()
    for figure in (book.spent, after, after - book.spent, book.left, book.epsilon):
        assert f"{figure:.4g}" in message
    assert book.to_bytes() == before
    assert book.charge(release(GaussianEvent(50.0))) <= 8.0, "a cheaper round still fits"


def test_control_without_the_budget_the_third_round_goes_through() -> None:
    assert ledger(100.0).charge(release(), 3) > 8.0


def test_units_and_trusts_dont_mix() -> None:
    for kept in ("record", "client"):
        for trust in ("local", "distributed", "central"):
            book = ledger(unit=kept, trust=trust)
            other = {"record": "client", "client": "record"}[kept]
            with pytest.raises(DPError, match="don't add up"):
                book.charge(release(unit=other, trust=trust))
            for bad in {"local", "distributed", "central"} - {trust}:
                with pytest.raises(DPError, match="don't add up"):
                    book.would_exceed(release(unit=kept, trust=bad))
            assert book.spent == 0
            assert book.charge(release(unit=kept, trust=trust)) > 4


def test_a_server_that_draws_the_cohort_gets_no_amplification() -> None:
    sampled = PoissonSampled(0.01, GAUSSIAN)
    trusted, adversary = ledger(trust="central"), ledger(trust="distributed")
    trusted.charge(release(sampled, trust="central"))
    adversary.charge(release(sampled))
    for book in (trusted, adversary):
        assert book.spent == book.report().epsilon, "what is reported is what is charged"
    assert trusted.report().epsilon < 1 < 4 < trusted.report().epsilon_against_sampler
    assert adversary.report().epsilon == trusted.report().epsilon_against_sampler
    assert adversary.report().epsilon == adversary.report().epsilon_against_sampler


def test_names_and_budgets_are_checked() -> None:
    for bad in ({"unit": "person"}, {"trust": "trusted"}, {"neighbours": "any"}):
        with pytest.raises(DPError, match="expected one of"):
            ledger(**bad)
    for epsilon in (0.0, -1.0, math.inf, math.nan, "8", True):
        with pytest.raises(DPError, match="epsilon"):
            ledger(epsilon)  # type: ignore[arg-type]
    for args in ((GAUSSIAN, "person", "local"), (GAUSSIAN, "client", "none"), ("GaussianEvent", "client", "local")):
        with pytest.raises(DPError):
            Release(*args)  # type: ignore[arg-type]
    with pytest.raises(DPError, match="expected a Release"):
        ledger().charge(GAUSSIAN)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("paid", "match"),
    [
        (["00" * 32] * 257, "names are not a list of at most 256"),
        ({"00" * 32: 1}, "names are not a list"),
        ("00" * 32, "names are not a list"),
        (None, "names are not a list"),
        (["00" * 31], "does not have 32 bytes"),
        (["zz" * 32], "not hexadecimal"),
        ([7], "not hexadecimal"),
    ],
)
def test_a_saved_ledger_with_other_names_is_refused(paid: object, match: str) -> None:
    state = cast(dict[str, Any], decode_state(ledger().to_bytes()))
    with pytest.raises(DPError, match=match):
        PrivacyLedger.from_bytes(encode_state(state | {"paid": paid}))
    full = PrivacyLedger.from_bytes(encode_state(state | {"paid": ["00" * 32] * 256}))
    assert PrivacyLedger.from_bytes(full.to_bytes()).to_bytes() == full.to_bytes()
