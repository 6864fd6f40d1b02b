"""The page that chooses a protocol: its figures are those of ``bench plan``, and its tasks are accepted.

Chromium computes the page's figures; Python computes the plan's from the same saved rates.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dp
import secagg
from bench.commands import app
from bench.plan import Link, Planned, plan
from bench.saved_rates import chosen_rates, load
from docs import chooser
from secagg.encoding import Encoding
from secagg.table import input_round
from tests.service.browser import look, shows, visit

PAGE = (Path(__file__).parent.parent / "docs" / "pages" / "choose.html").as_uri()
PARTIES = ("aggregators", "decryptor", "committee", "beacon", "postQuantum")
NOISES = ("none", "central", "distributed")
SERVERS = ("trusted", "curious", "late", "lies")
#: How far the page's figures may be from the plan's: the last digits of floats.
EXACT = 1e-9


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions of all sizes that the page takes, drawn at random: few of their numbers are in the page's table."""
    draw = random.Random(seed)
    return [
        {
            "server": draw.choice(SERVERS) if number % 6 else "curious",
            "corruption": draw.choice(chooser.CORRUPTION) if number % 6 else 0,
            "clients": int(10 ** (draw.uniform(0.61, 4) if number % 10 else 5.7)),
            "coordinates": int(10 ** draw.uniform(0, 8.9)),
            "bits": draw.choice(chooser.BITS),
            "dropout": draw.choice(chooser.DROPOUTS),
            "noise": draw.choice(NOISES) if number % 3 else "none",
            "epsilon": 10 ** draw.uniform(-0.5, 1.5),
            "rounds": int(10 ** draw.uniform(0, 3)),
            "uplink": 10 ** draw.uniform(-1, 3),
            "downlink": 10 ** draw.uniform(-1, 3),
            "cores": 1,
            **{party: draw.random() < 0.6 for party in PARTIES},
        }
        for number in range(count)
    ]


def encoding(question: dict[str, Any], noise: dict[str, float] | None) -> Encoding | None:
    """The encoding with the noise that the page chose; None without noise."""
    if noise is None:
        return None
    if question["noise"] == "central":
        return dp.CentralGaussian(1.0, noise["multiplier"], question["bits"])
    return dp.DistributedGaussian(1.0, noise["multiplier"], question["bits"], k_stddevs=noise["deviations"])


def planned(question: dict[str, Any], name: str, noise: dict[str, float] | None = None) -> Planned:
    """What the plan says of a protocol."""
    protocol = chooser.protocols(question["corruption"] / 100)[name]
    size = question["clients"], question["coordinates"], question["bits"]
    encoded = encoding(question, noise)
    workload = chooser.workload(protocol, size, question["corruption"], question["dropout"], encoded)
    plain = {name.removesuffix("/beacon"): protocol}
    rates = chosen_rates(load(chooser.RATES), plain, workload)
    (one,) = plan(plain, rates, workload, Link(1e6 * question["uplink"], 1e6 * question["downlink"]))
    return one


def ask(window: Any, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The page's answers: the protocols that fit, each with its costs and its task, and those that are refused."""
    answers: list[dict[str, Any]] = window.execute_script(
        "return arguments[0].map((question) => {"
        "  const { fitting, refused } = SECAGG_CHOOSE.plan(question);"
        "  for (const one of fitting) one.task = SECAGG_CHOOSE.snippet(one.name, question);"
        "  return { fitting, refused };"
        "})",
        asked,
    )
    return answers


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """The page, opened from the disk; no error may be in the console at the end."""
    visit(browser, PAGE)
    yield browser
    assert browser.get_log("browser") == []


def built(code: str, coordinates: int) -> secagg.Task:
    """The task that a reader has who pastes ``code``."""
    names: dict[str, Any] = {
        "update": np.broadcast_to(np.float32(0), coordinates),
        "beacon_key": chooser.BEACON.public_key,
        "print": lambda described: None,
    }
    exec(code, names)
    task = names["task"]
    assert isinstance(task, secagg.Task)
    return task


@pytest.mark.stacks
def test_the_page_says_what_the_plan_says(page: Any) -> None:
    """All costs of what fits, to the last digits; noise adds its own seconds."""
    worst: dict[str, float] = {}
    noise = json.loads(chooser.RATES.read_text(encoding="utf-8"))["noise"]
    asked = questions(40, seed=1)
    for question, answer in zip(asked, ask(page, asked), strict=True):
        for one in answer["fitting"]:
            name, cost = one["name"], one["cost"]
            expected = planned(question, name, one["noise"])
            drawn = noise.get(question["noise"], {"client": 0.0, "server": 0.0})
            length = question["coordinates"]
            if question["noise"] == "distributed":
                length = 1 << (length - 1).bit_length()
            assert not expected.refused, (question, name, expected.refused)
            pairs = {
                "up": expected.bytes_up,
                "down": expected.bytes_down,
                "wire": expected.wire_seconds,
                "client": expected.client_seconds + length * drawn["client"],
                "server": expected.server_seconds + length * drawn["server"],
                "other": expected.other_seconds or 0.0,
            }
            for figure, value in pairs.items():
                error = abs((cost[figure] or 0.0) - value) / max(value, 1e-12)
                worst[name] = max(worst.get(name, 0.0), error)
                assert error <= EXACT, (question, name, figure, cost[figure], value)
    print({name: f"{error:.1e}" for name, error in worst.items()})
    assert len(worst) == len(chooser.protocols())


@pytest.mark.stacks
def test_control_a_page_with_another_rate_or_another_byte_differs_from_the_plan(page: Any) -> None:
    question = questions(1, seed=5)[0] | {"server": "lies", "corruption": 10, "clients": 345, "coordinates": 6789}
    question |= {"bits": 16, "dropout": 10, "postQuantum": False, "noise": "none"}

    def cost() -> dict[str, float]:
        (answer,) = ask(page, [question])
        shown: dict[str, float] = next(one["cost"] for one in answer["fitting"] if one["name"] == "SecAgg")
        return shown

    expected = planned(question, "SecAgg")
    assert cost()["client"] == pytest.approx(expected.client_seconds, rel=EXACT)
    assert cost()["down"] == expected.bytes_down
    page.execute_script("SECAGG_DATA.rates.SecAgg[0].seconds.client.k *= 1.001")
    page.execute_script("SECAGG_DATA.sizes.advert += 1")
    assert cost()["client"] > (1 + 1e-5) * expected.client_seconds
    assert cost()["down"] > expected.bytes_down


@pytest.mark.stacks
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("SecAggPlus/beacon", "SECAGG_DATA.graph.slack += 4"),
        ("OneShot", "SECAGG_DATA.protocols.OneShot.variance *= 4"),
        ("BFV", "SECAGG_DATA.protocols.BFV.rings.rows[14][0].splice(1)"),
    ],
)
def test_control_a_graph_or_ring_by_another_rule_has_other_bytes(page: Any, name: str, change: str) -> None:
    question = questions(1, seed=5)[0] | dict.fromkeys(PARTIES, True) | {"server": "curious", "corruption": 5}
    question |= {"clients": 2000, "coordinates": 67_890, "bits": 16, "dropout": 5, "noise": "none"}

    def sent() -> float:
        (answer,) = ask(page, [question | {"postQuantum": False}])
        return float(next(one["cost"]["up"] for one in answer["fitting"] if one["name"] == name))

    expected = planned(question, name).bytes_up
    assert sent() == expected
    page.execute_script(change)
    assert sent() != expected


@pytest.mark.stacks
def test_what_the_page_calls_impossible_the_library_refuses(page: Any) -> None:
    everyone = {"server": "trusted", "corruption": 0} | dict.fromkeys(PARTIES, True) | {"postQuantum": False}
    asked = [
        question | everyone | {"corruption": question["corruption"], "noise": "none"}
        for question in questions(40, seed=2)
    ]
    refusals = 0
    for question, answer in zip(asked, ask(page, asked), strict=True):
        for one in answer["refused"]:
            if one["name"] == "CKKS/clients" and len(one["reasons"]) == 1 and question["corruption"]:
                continue  # for whom one client is enough: whom to trust, the task does not know
            if any("as in SecAgg" in reason for reason in one["reasons"]):
                assert planned(question, one["name"]).symbols.startswith(f"k = {question['clients'] - 1:,},")
                continue  # it would run, and cost no less than SecAgg
            refusals += 1
            with suppress(secagg.ConfigError):
                assert planned(question, one["name"]).refused, (question, one)
    assert refusals > 10


@pytest.mark.stacks
def test_where_the_page_finds_no_noise_the_library_finds_none_and_the_stated_bits_have_some(page: Any) -> None:
    """With one bit less than the page asks for, no multiplier keeps the page's bound, or no grid exists."""
    everyone = {"server": "trusted"} | dict.fromkeys(PARTIES, True) | {"postQuantum": False, "clients": 50}
    asked = [
        question | everyone | {"noise": noise, "bits": bits, "dropout": 0, "corruption": 10}
        for question, noise, bits in zip(
            questions(16, seed=6), ("distributed", "central") * 8, (4, 32, 6, 2) * 4, strict=True
        )
    ]
    refused = 0
    for question, answer in zip(asked, ask(page, asked), strict=True):
        for one in answer["refused"]:
            stated = re.search(r": take (\d+) bits", " ".join(one["reasons"]))
            if stated is None or one["name"] not in ("SecAgg", "BFV"):
                continue
            refused += 1
            assert least_noise(question, question["bits"], one["name"]) == []
            assert least_noise(question, int(stated[1]), one["name"])
    assert refused > 8


def least_noise(question: dict[str, Any], bits: int, name: str) -> list[float]:
    """The least noise multipliers that the library finds for a question, one for each k_stddevs that allows any."""
    clients, percent = question["clients"], question["corruption"]
    corrupt = chooser.corrupt(percent, clients)
    protocol = chooser.protocols(percent / 100)[name]
    honest = chooser.min_survivors(protocol, clients, percent, question["dropout"]) - corrupt
    found = []
    for deviations in chooser.noise()["deviations"]:
        with suppress(dp.DPError):
            noise: Any = encoding(question | {"bits": bits}, {"multiplier": 1.0, "deviations": deviations})
            one = noise.for_task(max_clients=clients, honest=honest, corrupt=corrupt)
            least = one.with_epsilon(question["epsilon"], question["coordinates"], rounds=question["rounds"])
            found.append(least.noise_multiplier)
    return found


@pytest.mark.stacks
def test_four_hospitals_get_noise_with_more_room_than_the_default_leaves(page: Any) -> None:
    """Control: the task without k_stddevs is refused, and the error asks for more."""
    question = {"clients": 4, "corruption": 33, "dropout": 0, "coordinates": 10_000, "noise": "distributed"}
    chosen = best(page, question | {"bits": 20})
    assert chosen["name"] == "SecAgg"
    room = f", k_stddevs={chosen['noise']['deviations']}"
    assert room in chosen["task"]
    assert built(chosen["task"], 10_000).encoder.epsilon(10_000, rounds=20) <= 8  # type: ignore[attr-defined]
    with pytest.raises(secagg.ConfigError, match="expected k_stddevs of at least"):
        built(chosen["task"].replace(room, ""), 10_000)


@pytest.mark.stacks
def test_every_task_of_the_page_can_be_made(page: Any) -> None:
    """The code is run as a reader would paste it, and a cohort of all clients is accepted."""
    asked = questions(24, seed=3)
    made, kinds = 0, set()
    for question, answer in zip(asked, ask(page, asked), strict=True):
        for one in answer["fitting"]:
            task = built(one["task"], question["coordinates"])
            task.protocol.validate_cohort(task, range(question["clients"]), None)  # type: ignore[arg-type]
            assert task.max_clients == question["clients"]
            assert task.min_survivors <= question["clients"] - round(
                question["dropout"] / 100 * question["clients"]
            )
            if one["noise"]:
                noise: Any = task.encoder
                epsilon = noise.epsilon(question["coordinates"], rounds=question["rounds"])
                # The page's bound is above the library's by a tenth at most.
                assert 0.85 * question["epsilon"] < epsilon <= (1 + EXACT) * question["epsilon"], (question, one)
                kinds.add(question["noise"])
            made += 1
    assert made > 40
    assert kinds == {"central", "distributed"}


@pytest.mark.stacks
def test_control_less_noise_than_the_page_writes_exceeds_the_epsilon_of_the_question(page: Any) -> None:
    question = questions(1, seed=4)[0] | {
        "server": "lies", "corruption": 10, "clients": 100, "coordinates": 10_000, "bits": 18, "dropout": 10,
        "noise": "distributed", "epsilon": 8.0, "rounds": 20, "postQuantum": False,
    }  # fmt: skip
    (answer,) = ask(page, [question])
    shown = next(one for one in answer["fitting"] if one["name"] == "SecAgg")
    multiplier = shown["noise"]["multiplier"]
    lower = shown["task"].replace(f"={multiplier},", f"={0.8 * multiplier},")
    noises: list[Any] = [built(code, 10_000).encoder for code in (shown["task"], lower)]
    kept, exceeded = (noise.epsilon(10_000, rounds=20) for noise in noises)
    assert kept <= 8.0 < exceeded


@pytest.mark.stacks
def test_distributed_noise_is_refused_to_protocols_that_show_single_terms(page: Any) -> None:
    """Only there does the library size the noise for one client alone."""
    base = questions(1, seed=4)[0] | {"server": "trusted", "corruption": 0, "clients": 50, "coordinates": 1000}
    base |= dict.fromkeys(PARTIES, True) | {"bits": 18, "dropout": 0, "epsilon": 8.0, "rounds": 1}
    for noise in ("central", "distributed"):
        (answer,) = ask(page, [base | {"noise": noise, "postQuantum": False}])
        fitting = {one["name"] for one in answer["fitting"]}
        shows = {name for name, one in chooser.protocols(0.0).items() if one.shows_terms}
        assert fitting == set(chooser.protocols()) - (shows if noise == "distributed" else set())


@pytest.mark.stacks
def test_control_a_task_with_one_survivor_less_is_refused(page: Any) -> None:
    """The page's floors are the library's own where no room is left: one less is too few."""
    question = questions(1, seed=4)[0] | {
        "server": "lies", "corruption": 33, "clients": 100, "coordinates": 10, "bits": 16, "dropout": 30,
        "committee": True, "postQuantum": False, "noise": "none",
    }  # fmt: skip
    (answer,) = ask(page, [question])
    code = next(one["task"] for one in answer["fitting"] if one["name"] == "SecAgg")
    task = built(code, 10)
    task.protocol.validate_cohort(task, range(100), None)  # type: ignore[arg-type]
    lower = built(
        code.replace(f"min_survivors={task.min_survivors}", f"min_survivors={task.min_survivors - 1}"), 10
    )
    with pytest.raises(secagg.ConfigError, match=f"expected at least {task.min_survivors}"):
        lower.protocol.validate_cohort(lower, range(100), None)  # type: ignore[arg-type]


@pytest.mark.stacks
def test_whom_a_protocol_needs_is_what_the_library_says(page: Any) -> None:
    models = {"semi-honest": 1, "semi-malicious": 2, "malicious": 3}
    roles = {"aggregator": "aggregators", "decryptor": "decryptor"}
    for name, needs in page.execute_script("return SECAGG_CHOOSE.NEEDS").items():
        protocol = chooser.protocols()[name]
        task = chooser.workload(protocol, (20, 10, 16), 5, 10).task(protocol)
        assert needs["server"] == (0 if name == "Clear" else models[protocol.threat_model]), name
        assert bool(needs.get("postQuantum")) is protocol.cost(task).post_quantum, name
        parties = {roles[str(role)] for role in protocol.party_counts}
        if name == "OneShot":
            parties = {"committee"}
        elif name == "SecAggPlus/beacon":
            parties = {"beacon"}
        elif name == "CKKS/clients":
            parties = set()  # one of the clients opens
        assert parties == ({needs["party"]} if "party" in needs else set()), name


#: A question for whom each row of docs/choosing.md's first table describes, in its order, and what it says to take.
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SecAgg", {"corruption": 33}),
    ("SecAggPlus/beacon", {"clients": 3000, "corruption": 5, "dropout": 5, "beacon": True}),
    ("SecAggPlus", {"clients": 3000, "corruption": 5, "dropout": 5, "server": "late"}),
    ("AdditiveShares", {"aggregators": True}),
    ("OneShot", {"clients": 1000, "committee": True}),
    ("BFV", {"server": "curious", "clients": 1000, "coordinates": 2000, "decryptor": True}),
    ("CKKS/clients", {"server": "curious", "corruption": 0, "coordinates": 2000}),
    ("Clear", {"server": "trusted"}),
)


def table(heading: str) -> list[list[str]]:
    """The cells of the table of docs/choosing.md whose first column has this heading."""
    text = (chooser.ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    lines = text[text.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def best(page: Any, question: dict[str, Any]) -> Any:
    """What the page puts first for a question, which has the page's defaults where it says nothing."""
    defaults: dict[str, Any] = {
        "server": "lies", "corruption": 10, "clients": 100, "coordinates": 10**6, "bits": 16, "dropout": 10,
        "uplink": 10, "downlink": 50, "cores": 1, "noise": "none", "epsilon": 8, "rounds": 20,
    } | dict.fromkeys(PARTIES, False)  # fmt: skip
    (answer,) = ask(page, [defaults | question])
    return answer["fitting"][0] if answer["fitting"] else {"name": "none"}


@pytest.mark.stacks
def test_the_page_takes_what_the_table_of_the_guide_takes(page: Any) -> None:
    """Control: without the row's kind of trust, something else is first."""
    rows = table("whom you trust")
    assert len(rows) == len(ROWS)
    for row, (name, question) in zip(rows, ROWS, strict=True):
        chosen = best(page, question)
        assert chosen["name"] == name
        kind, _, options = chosen["expression"].removeprefix("secagg.").partition("(")
        assert row[1].startswith(f"`{kind}("), row
        stated = re.search(r"(holder|threat_model|aggregators|members)=[^,)]+", options)
        assert stated is None or stated[0] in row[1], row
        less = question | {"server": "lies", "beacon": False, "aggregators": False, "committee": False}
        assert name == "SecAgg" or best(page, less)["name"] == "SecAgg" != name, row


@pytest.mark.stacks
def test_each_example_of_the_guide_opens_the_page_with_its_answer_and_runs(page: Any) -> None:
    """The small ones are played: all clients but those that may fall silent are in the sum."""
    rows = table("run")
    assert len(rows) > 5
    for run, take, _ in rows:
        link = re.search(r'href="pages/choose\.html#([^"]+)"', run)
        assert link is not None
        visit(page, "about:blank")
        visit(page, f"{PAGE}#{link[1]}")
        shows(page, "Take ", "#verdict")
        verdict = page.execute_script("return document.querySelector('#verdict').textContent")
        assert verdict.startswith(f"Take {take.strip('`')}. "), run
        task = built(page.execute_script("return document.querySelector('#snippet').textContent"), 10)
        if task.max_clients > 20:
            continue
        clients = [f"c{number}" for number in range(task.max_clients)]
        silent = dict.fromkeys(clients[task.min_survivors :], input_round(task.protocol))
        outcome = secagg.simulate(task, dict.fromkeys(clients, np.full(10, 0.5, np.float32)), dropouts=silent)
        assert len(outcome.survivors) == task.min_survivors < task.max_clients
        assert np.allclose(outcome.mean, 0.5, atol=1e-4)


@pytest.mark.stacks
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_a_table_and_a_task_and_scrolls_in_one_direction(page: Any, width: int, scheme: str) -> None:
    look(page, width, scheme)
    visit(page, f"{PAGE}#server=curious&decryptor&clients=300")
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    rows = page.execute_script(
        "return [...document.querySelectorAll('tbody tr')].map((row) => row.dataset.protocol)"
    )
    assert {"SecAgg", "SecAggPlus", "BFV", "CKKS", "Paillier"} == set(rows)
    assert "Take " in page.execute_script("return document.querySelector('#verdict').textContent")
    code = page.execute_script("return document.querySelector('#snippet').textContent")
    assert built(code, 10).max_clients == 300
    unlabelled = page.execute_script(
        "return [...document.querySelectorAll('input, select')].filter((one) => one.labels.length === 0).length"
    )
    assert unlabelled == 0


@pytest.mark.stacks
def test_the_address_keeps_the_question_and_a_wrong_number_is_marked(page: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    visit(page, PAGE)
    clients = page.find_element(By.ID, "clients")
    clients.send_keys(Keys.CONTROL, "a")
    clients.send_keys("3")
    assert clients.get_attribute("aria-invalid") == "true"
    assert "from 4 to 1,000,000" in page.find_element(By.ID, "clients-wrong").text
    clients.send_keys("21")
    page.find_element(By.CSS_SELECTOR, "input[name=aggregators]").send_keys(Keys.SPACE)
    assert "clients=321" in page.current_url
    row = page.find_element(By.CSS_SELECTOR, "tr[data-protocol=SecAgg] input")
    row.send_keys(Keys.SPACE)
    assert page.execute_script("return document.activeElement.value") == "SecAgg"
    shared = page.current_url
    visit(page, "about:blank")
    visit(page, shared)
    code = page.execute_script("return document.querySelector('#snippet').textContent")
    task = built(code, 10)
    assert (task.max_clients, task.protocol.name) == (321, "SecAgg")
    assert page.find_element(By.CSS_SELECTOR, "input[name=aggregators]").is_selected()


@pytest.mark.stacks
def test_an_address_of_a_stranger_makes_no_markup_and_no_choice_that_the_page_does_not_have(page: Any) -> None:
    visit(page, f"{PAGE}#server=trusted&clients=50&protocol=only")
    assert page.current_url.endswith("#server=trusted&clients=50&protocol=only"), "not a flag that is on"
    nodes = page.execute_script("return document.querySelectorAll('img, script, a').length")
    markup = "%3Cimg%20src=x%20onerror=alert(1)%3E"
    unknown = "&".join(f"{name}={markup}" for name in ("server", "corruption", "noise", "dropout", "protocol"))
    page.execute_script("location.hash = arguments[0]", f"{unknown}&{markup}&constructor=1&__proto__=1")
    page.execute_async_script("setTimeout(arguments[0])")
    chosen = page.execute_script("return Object.fromEntries(new FormData(document.querySelector('#question')))")
    defaults = {"server": "lies", "corruption": "10", "clients": "100", "noise": "none", "dropout": "10"}
    assert chosen.items() >= defaults.items()
    page.execute_script("location.hash = arguments[0]", f"clients={markup}")
    page.execute_async_script("setTimeout(arguments[0])")
    assert page.execute_script("return document.querySelector('#clients').value").startswith("<img")
    assert nodes == page.execute_script("return document.querySelectorAll('img, script, a').length")


@pytest.mark.stacks
def test_nothing_of_an_earlier_question_stays_on_the_page(page: Any) -> None:
    def enter(clients: str) -> list[Any]:
        return page.execute_script(  # type: ignore[no-any-return]
            "const field = document.querySelector('#clients');"
            "field.value = arguments[0];"
            "field.dispatchEvent(new Event('input', { bubbles: true }));"
            "const find = (selector) => document.querySelector(selector);"
            "return [find('#refused').children.length, find('#copy').textContent];",
            clients,
        )

    button = enter("100")[1]
    page.execute_script("document.querySelector('#copy').textContent = 'Copied'")
    assert enter("100")[1] == "Copied"
    reasons, label = enter("101")
    assert reasons
    assert label == button
    assert enter("many")[0] == 0


@pytest.mark.stacks
def test_the_page_says_what_the_command_prints(page: Any, tmp_path: Path) -> None:
    """``bench plan --rates`` at a size that is not in the table."""
    file = tmp_path / "plan.json"
    options = {"clients": 777, "coordinates": 123_457, "bits": 16, "uplink": "3Mbit", "downlink": "20Mbit"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    names = ("SecAgg", "AdditiveShares", "OneShot", "BFV", "CKKS", "Paillier")
    several = [word for name in names for word in ("--protocol", name)]
    command = ["plan", *words, *several, "--rates", str(chooser.RATES), "--json", str(file)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    question = {
        "server": "curious", "corruption": 33, "clients": 777, "coordinates": 123_457, "bits": 16, "dropout": 10,
        "uplink": 3, "downlink": 20, "cores": 1, "noise": "none",
    } | dict.fromkeys(PARTIES, True) | {"postQuantum": False}  # fmt: skip
    (answer,) = ask(page, [question])
    costs = {one["name"]: one["cost"] for one in answer["fitting"]}
    for expected in json.loads(file.read_text())["planned"]:
        shown = costs[expected["protocol"]]
        assert shown["up"] == pytest.approx(expected["bytes_up"], rel=1e-3)
        assert shown["down"] == pytest.approx(expected["bytes_down"], rel=1e-9)
        assert shown["client"] == pytest.approx(expected["client_seconds"], rel=1e-3)
        assert shown["server"] == pytest.approx(expected["server_seconds"], rel=1e-3)


def test_the_page_has_the_saved_rates_and_tables_of_this_code() -> None:
    """A part of the tables is computed anew; ``make docs`` writes all of them."""
    text = chooser.DATA.read_text(encoding="utf-8")
    data = json.loads(text[text.index("{") : text.rindex(";")])
    assert data["rates"] == json.loads(chooser.RATES.read_text(encoding="utf-8"))["rates"], "run make docs"
    known = chooser.protocols(0.05)
    for name, protocol in known.items():
        assert data["protocols"][name]["reference"] == chooser.reference(protocol), "run make docs"
    one_shot = known["OneShot"]
    assert isinstance(one_shot, secagg.OneShot)
    assert data["protocols"]["OneShot"].items() >= chooser.key_rings(one_shot).items(), "run make docs"
    assert data["sizes"] == chooser.sizes(), "run make docs"
    assert data["noise"] == chooser.noise(), "run make docs"
    assert {role for added in data["noiseSeconds"].values() for role in added} == {"client", "server"}


def test_rates_that_were_saved_are_read_again_and_other_files_are_refused(tmp_path: Path) -> None:
    saved = load(chooser.RATES)
    assert {"SecAgg", "OneShot", "BFV"} <= set(saved)
    assert len(saved["SecAgg"]) == 2
    assert len(saved["BFV"]) == 1
    other = tmp_path / "other.json"
    document = json.loads(chooser.RATES.read_text(encoding="utf-8"))
    other.write_text(json.dumps(document | {"kind": "plan"}))
    with pytest.raises(secagg.ConfigError, match="does not hold rates"):
        load(other)
    other.write_text(json.dumps(document | {"rates": {"SecAgg": [{"bits": 16, "seconds": {"client": {"x": 1}}}]}}))
    with pytest.raises(secagg.ConfigError, match="can't read"):
        load(other)
    with pytest.raises(secagg.ConfigError, match="rates without Paillier/run-key"):
        chosen_rates(
            saved,
            {"Paillier/run-key": secagg.Paillier(key="run")},
            chooser.workload(secagg.Clear(), (9, 9, 8), 0, 0),
        )
