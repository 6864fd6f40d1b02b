"""The status page in Debian's Chromium: it moves, it shows what parties sent as text, and it asks nobody else."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.service.browser import alerts, complaint, look, opened, requested, shows
from tests.service.pages import ATTACK, hostile, listening
from tests.service.played import CLIENTS, Played

pytestmark = pytest.mark.stacks

TAB, ENTER = "\ue004", "\ue007"  # WebDriver's names of the keys


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
        assert "Content Security Policy" in complaint(browser)
        browser.get(other)
        assert {urlsplit(one).netloc for one in requested(browser)} == {
            urlsplit(url).netloc,
            urlsplit(other).netloc,
        }


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
        body = browser.find_element("tag name", "body")
        body.send_keys(TAB)
        assert browser.switch_to.active_element.text == "Skip to the tasks"
        summary = browser.find_element("css selector", ".session summary")
        summary.send_keys(ENTER)
        source.step()
        shows(browser, "5 parties still to answer", ".session summary")
        assert browser.switch_to.active_element == summary
        assert browser.find_element("css selector", ".ids").text.split() == ["c2", "c3", "c4", "c5", "c6"]


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
    with listening(hostile("W" * 300)) as url:
        opened(browser, url)
        browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        shows(browser, "in all", ".traffic")
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(251, 250, 246)") == (scheme == "light")
        ratio, text = browser.execute_script(CONTRAST)
        assert ratio >= 4.5, text
        page = "document.documentElement"
        assert browser.execute_script(f"return {page}.scrollWidth <= {page}.clientWidth")


def test_nothing_moves_for_a_reader_who_prefers_less_motion(browser: Any) -> None:
    def transition() -> str:
        return str(
            browser.execute_script("return getComputedStyle(document.querySelector('.bar span')).transition")
        )

    with listening(Played()) as url:
        opened(browser, url)
        assert "flex-grow" in transition()
        look(browser, 1280, "light", motion="reduce")
        assert transition() == "none"
