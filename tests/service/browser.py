"""Chromium for tests: a window, and what it shows."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

FOREIGN = "attacker.example"  # a name that an attacker has pointed at this machine
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-quic", "--disable-background-networking", "--no-proxy-server"),
    f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1",
)
_COUNT_ALERTS = "window.alerts = 0; window.alert = () => { window.alerts += 1; };"


def start(folder: Path) -> Any:
    """A window with a profile in ``folder``; it counts calls of ``alert``. Skips the test without a browser."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="make test-stacks installs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _COUNT_ALERTS})
    return window


def clear(window: Any) -> None:
    """An empty page, wide and light, with empty logs."""
    visit(window, "about:blank")
    look(window, 1280, "light")
    window.get_log("browser"), window.get_log("performance")


def visit(window: Any, url: str) -> None:
    """Go to a file's page, and wait until its scripts have run: the driver's ``get`` may return before."""
    from selenium.webdriver.support.wait import WebDriverWait

    window.get(url)
    loaded = "return location.href.split(/[?#]/)[0] === arguments[0] && document.readyState === 'complete'"
    page = re.split("[?#]", url)[0]
    WebDriverWait(window, 20, 0.02).until(lambda _: window.execute_script(loaded, page), f"{url} is not loaded")


def look(window: Any, width: int, scheme: str, motion: str = "no-preference") -> None:
    """Make the window so wide, and prefer a colour scheme and a kind of motion."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
    listed = [{"name": name, "value": value} for name, value in features.items()]
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})


def shows(window: Any, text: str, where: str = "main") -> None:
    """Wait until the page shows ``text``."""
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.wait import WebDriverWait

    def seen() -> str:
        found = window.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", where)
        return str(found)

    try:
        WebDriverWait(window, 20, 0.05).until(lambda _: text in seen())
    except TimeoutException as late:
        raise AssertionError(f"expected {text!r} in {seen()!r}") from late


def opened(window: Any, url: str) -> None:
    """Open the status page, and wait for the first document."""
    window.get(url)
    shows(window, "live", "#link")


def alerts(window: Any) -> int:
    """How often a script of the page has called ``alert``."""
    return int(window.execute_script("return window.alerts"))


def complaint(window: Any) -> str:
    """Wait until the browser's console has something to say; returns it."""
    from selenium.webdriver.support.wait import WebDriverWait

    return str(WebDriverWait(window, 20, 0.05).until(lambda _: window.get_log("browser")))


def requested(window: Any) -> set[str]:
    """The URLs that the page asked for."""
    events = [json.loads(entry["message"])["message"] for entry in window.get_log("performance")]
    return {one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"}
