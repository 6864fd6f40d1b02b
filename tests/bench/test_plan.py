import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import plan as planning, plan_command, rates
from bench.commands import app
from bench.plan import Checked, Link, Planned, bandwidth, plan, plan_grid, recommended
from bench.rates import (
    ALL_MASKS,
    COORDINATES,
    FIXED,
    HASHED,
    ONE_SHOT,
    OWN_MASKS,
    PAIRWISE,
    PLAIN,
    SIGNATURE,
    Counts,
    Formula,
    Rates,
    fit,
)
from bench.workloads import Workload
from secagg import CKKS, Clear, ConfigError, OneShot, Paillier, SecAgg, SecAggPlus
from secagg.protocols import chosen, named

LINK = Link(10e6, 50e6)


def test_bytes_of_a_very_large_cohort_are_counted_without_building_their_lists():
    """Each client gets 78,751 signatures, the ids of the cohort, and the adverts of its neighbours."""
    protocols = {"SecAggPlus": SecAggPlus()}
    planned = plan(protocols, flat(protocols), Workload(150_000, 10**7, 0.1), LINK)[0]
    assert 78_751 * 64 < planned.bytes_down < 1.5 * 78_751 * 64
    assert planned.bytes_up == pytest.approx(10**7 * 34 / 8, rel=0.02)


@pytest.mark.parametrize(
    "terms", [PAIRWISE["server"], PLAIN["client"], PLAIN["other"]], ids=["masks", "client", "other"]
)
def test_a_fit_recovers_the_rates(terms):
    rng = np.random.default_rng(1)
    true = rng.uniform(1e-6, 1e-3, len(terms))
    counts = [Counts(n, n // 5, d, k, k // 2, d) for n, d, k in rng.integers(5, 500, (30, 3)).tolist()]
    truth = Formula(tuple(terms), tuple(true))
    fitted = fit(terms, [(c, truth.seconds(c)) for c in counts])
    np.testing.assert_allclose(fitted.rates, true, rtol=1e-6)


def test_a_fit_keeps_the_rates_that_were_measured_apart():
    counts = [Counts(n, 0, d, 0, n // 2, d) for n, d in ((10, 100), (20, 50), (40, 400))]
    fitted = fit([FIXED, COORDINATES], [(c, 3e-6 * c.d + 1e-4 * c.q) for c in counts], [(SIGNATURE, 1e-4)])
    assert fitted.rates[1] == pytest.approx(3e-6)
    assert fitted.seconds(counts[2]) == pytest.approx(3e-6 * 400 + 1e-4 * 20)


def test_a_formula_says_its_rates_in_units():
    formula = Formula((FIXED, COORDINATES, SIGNATURE), (1.2e-3, 1.8e-10, 0.0))
    assert str(formula) == "1.2 ms + 180 ps·d"
    assert formula.seconds(Counts(1, 0, 10**7, 0, 0, 0)) == pytest.approx(3e-3)


UNITS = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12}


@pytest.mark.parametrize(
    "terms",
    [
        PAIRWISE["client"],
        PAIRWISE["server"],
        [OWN_MASKS, ALL_MASKS, HASHED],
        PLAIN["client"],
        PLAIN["other"],
        ONE_SHOT["client"],
        ONE_SHOT["other"],
    ],
)
def test_the_text_of_a_formula_gives_the_seconds_that_it_computes(terms):
    """The printed text is evaluated with the symbols that the plan prints."""
    counts = Counts(n=1000, g=100, d=5000, k=60, q=40, v=7000, w=2, s=80)
    formula = Formula(tuple(terms), tuple(1.5 * 10.0**-i for i in range(3, 3 + len(terms))))
    total = 0.0
    for part in str(formula).split(" + "):
        rate, _, symbols = part.replace("−", "-").partition("·")
        number, unit = rate.split(" ")
        symbols = symbols.replace("·", "*") or "1"
        total += float(number) * UNITS[unit] * eval(symbols, {"sqrt": math.sqrt}, vars(counts))
    assert total == pytest.approx(formula.seconds(counts), rel=0.01)


def test_rates_are_measured_in_lanes_as_wide_as_those_of_the_plan():
    assert rates.bits_like(Clear(), Workload(1000, 10, 0.0)) == 16
    assert rates.bits_like(Clear(), Workload(1 << 18, 10, 0.0)) == 30
    assert {rates.bits_like(one, Workload(1 << 18, 10, 0.0)) for one in (CKKS(), OneShot())} == {16}
    assert Counts.of(SecAgg(), Workload(8, 10, 0.0, bits=30)).w == 2
    assert rates.bits_like(SecAgg(), Workload(1 << 18, 10, 0.0)) == 16  # it cannot run so many clients


def test_the_plan_prints_every_symbol_that_is_not_an_option():
    protocols = {"SecAggPlus": SecAggPlus(), "Paillier": Paillier(), "OneShot": OneShot()}
    workload = Workload(150_000, 10, 0.0)
    grid = plan_grid(plan(protocols, flat(protocols), workload, LINK), workload, LINK)
    assert all(symbol in grid.rows[0][-1] for symbol in ("k = ", "q = ", "w = 2"))
    assert "v = " in grid.rows[1][-1]
    assert "s = " in grid.rows[2][-1]


def test_a_plan_is_compared_with_real_sessions_and_control_fourfold_rates_fail(monkeypatch):
    monkeypatch.setattr(planning, "CHECKED", (Workload(20, 400_000, 0.1),))
    measured = rates.calibrate("Clear", Clear(), 16, lambda name, doing: None)
    checks = planning.checked("Clear", Clear(), measured)
    assert {one.role for one in checks} == {"client", "server"}
    fourfold = Rates(
        {
            role: Formula(formula.terms, tuple(4 * rate for rate in formula.rates))
            for role, formula in measured.formulas.items()
        },
        measured.bits,
    )
    monkeypatch.setattr(plan_command, "calibrate", lambda name, protocol, bits, step: fourfold)
    arguments = ["--clients", "1000", "--coordinates", "10", "--protocol", "Clear", "--check"]
    result = CliRunner().invoke(app, ["plan", *arguments])
    assert result.exit_code == 1
    assert "off by more than a quarter" in result.output


@pytest.mark.parametrize(
    ("text", "bits"), [("10Mbit", 10e6), ("1.5 Gbit", 1.5e9), ("64kbit/s", 64e3), ("9bit", 9.0)]
)
def test_bandwidths(text, bits):
    assert bandwidth("--uplink", text) == bits


@pytest.mark.parametrize("text", ["10", "0Mbit", "-1Mbit", "10MB", "fast", ""])
def test_a_text_that_is_not_a_bandwidth_is_refused(text):
    with pytest.raises(ConfigError, match=r"got --uplink .*expected a number above 0 and one of bit, kbit"):
        bandwidth("--uplink", text)


def flat(protocols, seconds=1e-3):
    """Rates of a machine on which every role takes the same time."""
    formula = Formula((FIXED,), (seconds,))
    alone, helped = ("client", "server"), ("client", "server", "other")
    roles = {name: helped if one.party_counts else alone for name, one in protocols.items()}
    return {name: Rates(dict.fromkeys(roles[name], formula), 16) for name in protocols}


def test_wire_time_and_bytes_of_a_plan():
    protocols = {"Paillier": Paillier()}
    workload = Workload(1000, 10_000, 0.1)
    planned = plan(protocols, flat(protocols), workload, LINK)[0]
    cost = Paillier().cost(workload.task(Paillier()))
    up, down = sum(cost.up.values()), sum(cost.down.values())
    assert (planned.bytes_up, planned.bytes_down) == (up, down)
    assert planned.wire_seconds == pytest.approx(8 * up / 10e6 + 8 * down / 50e6)
    assert planned.server_bytes == 1000 * (up + down)


def test_a_protocol_that_cannot_run_the_workload_is_listed_with_the_reason():
    protocols = chosen(["SecAgg", "Clear"])
    planned = plan(protocols, flat(protocols), Workload(10**5, 1000, 0.0), LINK)
    assert "complete graph ends at 65,535" in planned[0].refused
    assert not planned[1].refused
    grid = plan_grid(planned, Workload(10**5, 1000, 0.0), LINK)
    assert "65,535" in grid.rows[0][-1]


def test_the_shortest_time_of_a_client_is_recommended_for_each_kind_of_trust():
    able = [
        Planned("Clear", 0.1),
        Planned("Shares", 1.0, wire_seconds=9.0, other_seconds=1.0, others=2, collusion="both"),
        Planned("Cipher", 5.0, wire_seconds=1.0, other_seconds=1.0, others=1, collusion="the two"),
        Planned("Masks", 30.0, wire_seconds=9.0, collusion="many"),
        Planned("Huge", refused="too many"),
    ]
    first, second = recommended(able)
    assert first.startswith("Take Cipher.")
    assert "next best is Shares, with 10 s" in first
    assert "With one server and nobody else: Masks. There a client is busy for 39 s" in second


def test_no_protocol_is_recommended_if_none_can_run():
    assert "No protocol" in recommended([Planned("Clear", 0.1), Planned("A", refused="no")])[0]


def test_a_plan_within_a_quarter_holds_and_another_does_not():
    assert Checked("A", "here", "client", 1.24, 1.0).holds
    assert not Checked("A", "here", "client", 1.3, 1.0).holds
    assert not Checked("A", "here", "client", 0.7, 1.0).holds
    assert Checked("A", "here", "client", 0.003, 0.0045).holds  # too short to tell


def test_counts_of_masks_and_of_ciphertexts():
    workload = Workload(10, 1000, 0.2)
    masked = Counts.of(SecAgg(), workload)
    assert (masked.n, masked.g, masked.k, masked.q, masked.w) == (10, 2, 9, 7, 1)
    assert Counts.of(SecAggPlus(), Workload(150_000, 10, 0.0)).w == 2  # sums of 34 bits
    assert Counts.of(CKKS(), workload).v > 10 * workload.coordinates
    assert Counts.of(Clear(), workload).v == workload.coordinates
    shared = Counts.of(OneShot(), workload)
    assert (shared.v, shared.s) == (OneShot().scheme(workload.task(OneShot())).size, 4 * (2048 + 5))


def test_a_list_of_ids_is_timed_by_itself_and_weighs_in_a_large_cohort():
    """A client and a member read the cohort's ids; no small session shows what that takes."""
    each = rates.id_seconds()
    assert 1e-8 < each < 1e-4
    few, many = (Counts.of(OneShot(), Workload(n, 1000, 0.0)) for n in (100, 10**6))
    for role in ("client", "other"):
        formula = fit(ONE_SHOT[role], [(few, 0.01)], [(rates.CLIENTS, each)])
        assert formula.seconds(few) == pytest.approx(0.01, rel=0.2)
        assert formula.seconds(many) > 10**6 * each


def test_a_server_of_one_shot_takes_longer_for_each_byte_than_its_hash():
    assert rates.added_seconds() > rates.hash_seconds() > 0
    assert rates.VECTORS not in ONE_SHOT["server"]  # it is not fitted besides


def test_plan_measures_and_says_what_to_take(tmp_path):
    arguments = ["--clients", "100000", "--coordinates", "100000", "--protocol", "Clear", "--json"]
    result = CliRunner().invoke(app, ["plan", *arguments, str(tmp_path / "plan.json")])
    assert result.exit_code == 0, result.output
    document = json.loads((tmp_path / "plan.json").read_text())
    assert document["planned"][0]["client_formula"]
    assert document["link"] == {"up": 10e6, "down": 50e6}
    assert document["workload"]["dropout"] == 0.1


def test_rates_are_saved_and_a_plan_by_them_measures_nothing(tmp_path, monkeypatch):
    rated, planned = tmp_path / "rates.json", tmp_path / "plan.json"
    result = CliRunner().invoke(app, ["rates", "--protocol", "Clear", "--json", str(rated)])
    assert result.exit_code == 0, result.output
    assert len(json.loads(rated.read_text())["rates"]["Clear"]) == 2  # narrow lanes and wide ones
    noise = json.loads(rated.read_text())["noise"]
    assert noise["distributed"]["client"] > noise["distributed"]["server"] >= 0
    assert noise["central"]["server"] > 0
    monkeypatch.setattr(plan_command, "calibrate", None)
    arguments = ["--clients", "1000", "--coordinates", "10", "--dropout", "0.4", "--min-survivors", "600"]
    command = ["plan", *arguments, "--protocol", "Clear", "--rates", str(rated), "--json", str(planned)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    document = json.loads(planned.read_text())
    assert document["workload"]["least"] == 600
    assert document["planned"][0]["client_seconds"] > 0
    for least in ("0", "601", "1001"):
        command = ["plan", *arguments[:-1], least, "--protocol", "Clear", "--rates", str(rated)]
        assert isinstance(CliRunner().invoke(app, command).exception, ConfigError)


def test_plan_refuses_before_it_measures():
    for extra in (["--uplink", "fast"], ["--dropout", "0.9"], ["--protocol", "Nobody"]):
        result = CliRunner().invoke(app, ["plan", "--clients", "1000", "--coordinates", "10", *extra])
        assert isinstance(result.exception, ConfigError)


def test_every_protocol_can_be_planned():
    protocols = named()
    planned = plan(protocols, flat(protocols), planning.CHECKED[0], LINK)
    assert [one.protocol for one in planned if not one.refused] == list(protocols)
    assert all((one.other_seconds is None) == (not protocols[one.protocol].party_counts) for one in planned)
