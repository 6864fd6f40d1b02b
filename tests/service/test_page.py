"""The status page in Debian's Chromium: it moves, it shows what parties sent as text, and it asks nobody else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secagg.service import operator
from secagg.service.operator import operator_app
from secagg.service.status import PrivacyStatus, Status
from tests.service.played import CLIENTS, Played
from tests.service.serving import served

webdriver = pytest.importorskip("selenium.webdriver", reason="make test-stacks installs selenium")

from selenium.common.exceptions import TimeoutException  # noqa: E402 - after the check that it is there
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

pytestmark = pytest.mark.stacks

ATTACK = "<img src=x onerror=alert(1)>"
FOREIGN = "attacker.example"  # a name that an attacker has pointed at this machine
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-quic", "--disable-background-networking", "--no-proxy-server"),
    f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
)
#: Fields with a fixed set of values, and times: a document with other values there is not a document.
TYPED = {"at", "started", "ended", "seen", "expires", "state", "result", "auth", "purpose"}
PERIOD = 0.1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    count = "window.alerts = 0; window.alert = () => { window.alerts += 1; };"
    window.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": count})
    try:
        yield window
    finally:
        window.quit()


@pytest.fixture(autouse=True)
def fresh(browser: Any) -> None:
    """A wide and light window on an empty page, with empty logs."""
    browser.get("about:blank")
    look(browser, 1280, "light")
    browser.get_log("browser"), browser.get_log("performance")


@contextmanager
def listening(source: Played, **defences: bool) -> Iterator[str]:
    """The operators' listener over ``source``, weakened by ``defences``; at the end its event streams end too."""
    app = operator_app(source, period=PERIOD)
    with served(Weakened(app, **defences) if defences else app) as url:
        try:
            yield url
        finally:
            source.is_stopping = True


def look(browser: Any, width: int, scheme: str) -> None:
    """Make the window so wide, and prefer a colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def shows(browser: Any, text: str, where: str = "main") -> None:
    """Wait until the page shows ``text``."""

    def seen(window: Any = browser) -> str:
        found = window.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", where)
        return str(found)

    try:
        WebDriverWait(browser, 20, 0.05).until(lambda window: text in seen(window))
    except TimeoutException as late:
        raise AssertionError(f"expected {text!r} in {seen()!r}") from late


def opened(browser: Any, url: str) -> None:
    """Open the page, and wait for the first document."""
    browser.get(url)
    shows(browser, "live", "#link")


def requested(browser: Any) -> set[str]:
    """The URLs that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return {one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"}


def test_a_session_that_moves_is_seen_to_move(browser: Any) -> None:
    source = Played()
    with listening(source) as url:
        opened(browser, url)
        shows(browser, "Session 1 is in AdvertiseKeys: 0 of 6 have answered, 2:00 left.")
        shows(browser, "Session 1 is in AdvertiseKeys.", "#spoken")
        for answered in range(1, CLIENTS):
            source.step()
            shows(browser, f"{answered} of 6 have answered", ".headline")
            shows(browser, f"{answered} of 6", "tr.open")
        browser.execute_script(
            "window.spoke = 0; new MutationObserver(() => window.spoke++)"
            ".observe(document.querySelector('#spoken'), {childList: true, subtree: true, characterData: true})"
        )
        while source.server.round != "MaskedInput":
            source.step()
        shows(browser, "Session 1 is in MaskedInput.", "#spoken")
        while not source.silent:
            source.step()
        shows(browser, "5 of 6", "tr.open")
        assert browser.execute_script("return window.spoke") <= 2, "each announcement interrupts who listens"
        source.step()
        shows(browser, "5 of 6", "tr.closed:nth-child(3)")
        while source.server.outcome is None:
            source.step()
        shows(browser, "No session is open. Session 1 is done.")
        shows(browser, "5 of 6", ".past")
        assert browser.title == "idle · secagg"


def test_the_page_asks_this_service_alone_and_reports_no_error(browser: Any) -> None:
    with listening(Played()) as url:
        opened(browser, url)
        shows(browser, "To learn one client’s update would take the server and 2 of 5 clients")
        assert browser.get_log("browser") == []
        asked = requested(browser)
    assert {urlsplit(one).netloc for one in asked} == {urlsplit(url).netloc}
    assert {urlsplit(one).path for one in asked} >= {"/", "/status.js", "/status.css", "/v1/status/events"}


def test_control_a_request_to_another_host_is_noticed(browser: Any) -> None:
    with listening(Played()) as url, listening(Played()) as other:
        opened(browser, url)
        browser.execute_script(f"fetch('{other}/healthz').catch(() => 0)")
        WebDriverWait(browser, 20).until(lambda window: window.get_log("browser"))
        browser.get(other)
        assert {urlsplit(one).netloc for one in requested(browser)} == {
            urlsplit(url).netloc,
            urlsplit(other).netloc,
        }


def poisoned(status: Status) -> Status:
    """Every text of the document that has no fixed set of values is the attack."""

    def poison(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(key, part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [poison(name, part) for part in value]
        return ATTACK if isinstance(value, str) and name not in TYPED | {"digest", "task"} else value

    privacy = PrivacyStatus(delta=1e-6, guaranteed=0.9, realised=0.8, spent=3.2, budget=8.0, releases=12)
    about = msgspec.structs.replace(status.tasks[0], privacy=privacy, warnings=("",))
    plain = msgspec.to_builtins(msgspec.structs.replace(status, tasks=(about,)))
    return msgspec.convert(poison("", plain), Status)


def hostile() -> Played:
    """A session with faults and a past, whose task's own context is the attack; then all texts are."""
    source = Played(context=ATTACK.encode())
    while source.server.outcome is None:
        source.step()
    source.step()
    source.misbehave("c2", b"no envelope")
    source.change = poisoned
    return source


class Weakened:
    """The page without one of its two defences, or without both: a control."""

    def __init__(self, app: ASGIApp, *, text: bool, policy: bool) -> None:
        self._app, self._text, self._policy = app, text, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def weakened(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                del headers["content-length"]
                if not self._policy:
                    del headers["content-security-policy"]
            elif not self._text and scope["path"] == "/status.js":
                body = message["body"]
                for line, markup in (
                    (b"node.textContent = value", b"node.innerHTML = value"),
                    (
                        b"node.append(child)",
                        b"typeof child === 'string' ? node.innerHTML += child : node.append(child)",
                    ),
                ):
                    assert not body or line in body
                    body = body.replace(line, markup)
                message = {**message, "body": body}
            await send(message)

        await self._app(scope, receive, weakened)


def alerts(browser: Any) -> int:
    """How often a script of the page has called ``alert``."""
    return int(browser.execute_script("return window.alerts"))


def attacked(browser: Any, *, text: bool, policy: bool) -> int:
    """The number of alerts in a page that has these defences, once it has shown the attack."""
    with listening(hostile(), text=text, policy=policy) as url:
        opened(browser, url)
        shows(browser, "Who must collude")
        for _ in range(10):  # a broken image is reported after a request
            if alerts(browser):
                break
            sleep(PERIOD)
        return alerts(browser)


def test_what_parties_send_is_shown_as_text(browser: Any) -> None:
    with listening(hostile()) as url:
        opened(browser, url)
        browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        for where in (
            "h2",
            ".headline",
            ".warning",
            ".claims",
            ".ids",
            ".faults",
            ".past",
            ".facts",
            ".parties",
            "#where",
        ):
            shows(browser, ATTACK, where)
        assert browser.execute_script("return document.querySelectorAll('img').length") == 0
        assert browser.execute_script("return document.querySelector('h2').children.length") == 0
        assert browser.get_log("browser") == []
        assert not alerts(browser)


@pytest.mark.parametrize(("text", "policy"), [(True, False), (False, True)])
def test_text_alone_and_the_policy_alone_stop_the_attack(browser: Any, text: bool, policy: bool) -> None:
    assert not attacked(browser, text=text, policy=policy)


def test_control_without_text_and_policy_the_attack_runs(browser: Any) -> None:
    assert attacked(browser, text=False, policy=False)


def rebound(browser: Any, url: str) -> str:
    """What the browser shows of the document under the attacker's name, which is then of the attacker's origin."""
    browser.get(url.replace("127.0.0.1", FOREIGN) + "/v1/status")
    return str(browser.execute_script("return document.body.textContent"))


def test_a_foreign_name_for_this_machine_reads_nothing(browser: Any) -> None:
    with listening(Played()) as url:
        assert rebound(browser, url) == "this host is not allowed here; add it to the operators' hosts\n"


def test_control_without_the_list_of_hosts_a_foreign_name_reads_the_document(
    browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operator._Guard, "_refusal", lambda self, headers: None)
    with listening(Played()) as url:
        assert json.loads(rebound(browser, url))["sessions"][0]["pending"][0] == "c1"


def framed(browser: Any, *, policy: bool) -> str:
    """What a page of another site shows in a frame over the status page."""

    async def frame(request: Request) -> Response:
        return Response(f"<iframe src='{url}/'></iframe>", media_type="text/html")

    attacker = Starlette(routes=[Route("/", frame)])
    with listening(Played(), text=True, policy=policy) as url, served(attacker) as site:
        browser.get(site.replace("127.0.0.1", FOREIGN))
        browser.switch_to.frame(0)
        sleep(0.5)
        shown = str(browser.execute_script("return document.body.textContent"))
        browser.switch_to.default_content()
        browser.get("about:blank")
    return shown


def test_no_other_site_shows_the_page_in_a_frame(browser: Any) -> None:
    assert "secagg" not in framed(browser, policy=True)


def test_control_without_the_policy_another_site_shows_the_page_in_a_frame(browser: Any) -> None:
    assert "secagg" in framed(browser, policy=False)


def test_the_page_says_when_it_no_longer_knows(browser: Any) -> None:
    source = Played()
    with listening(source) as url:
        opened(browser, url)
        source.is_ready = False
        shows(browser, "live, not ready", "#link")
        source.is_stopping = True
        shows(browser, "no connection; trying again", "#link")
        source.is_ready, source.is_stopping = True, False
        shows(browser, "live, ready", "#link")


def test_the_keyboard_reaches_the_page_and_opened_details_stay_open(browser: Any) -> None:
    source = Played()
    with listening(source) as url:
        opened(browser, url)
        body = browser.find_element(By.TAG_NAME, "body")
        body.send_keys(Keys.TAB)
        assert browser.switch_to.active_element.text == "Skip to the tasks"
        summary = browser.find_element(By.CSS_SELECTOR, ".session summary")
        summary.send_keys(Keys.ENTER)
        source.step()
        shows(browser, "5 parties still to answer", ".session summary")
        assert browser.switch_to.active_element == summary
        assert browser.find_element(By.CSS_SELECTOR, ".ids").text.split() == ["c2", "c3", "c4", "c5", "c6"]


#: The smallest contrast of any text with what is behind it (WCAG 2.2, 1.4.3 asks for 4.5), and where.
CONTRAST = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
    .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour;
  }
  throw new Error("no background");
};
let worst = [99, ""];
for (const node of document.querySelectorAll("body *")) {
  if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
  const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < worst[0]) worst = [ratio, node.textContent.slice(0, 40)];
}
return worst;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_legible_and_fits(browser: Any, scheme: str, width: int) -> None:
    look(browser, width, scheme)
    with listening(hostile()) as url:
        opened(browser, url)
        browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        shows(browser, "in all", ".traffic")
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(251, 250, 246)") == (scheme == "light")
        ratio, text = browser.execute_script(CONTRAST)
        assert ratio >= 4.5, text
        page = "document.documentElement"
        assert browser.execute_script(f"return {page}.scrollWidth <= {page}.clientWidth")
