"""Operators read what parties send: on a page, in a terminal, in a log. A party may send text that runs there.

Other attackers are pages of other sites in an operator's browser. They want to read the status document, which says
who takes part and when, or to show the page under controls of their own. No row here ends with a client's update:
each says what the attacker has.
"""

from __future__ import annotations

import io
import json
import logging
from time import sleep
from typing import Any

import msgspec
import pytest
from rich.console import Console
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secagg.service import logs, operator, terminal
from secagg.service.status import Status
from tests.secagg.adversary.registry import attack
from tests.service.browser import FOREIGN, alerts, opened, shows
from tests.service.logged import logged
from tests.service.pages import PERIOD, hostile, listening
from tests.service.played import Played
from tests.service.serving import served

SECRET = "5ec2e7" * 8


def alerts_of(browser: Any, *, text: bool, policy: bool) -> int:
    """The number of alerts in a page that has these defences, once it has shown the attack."""
    with listening(hostile(), text=text, policy=policy) as url:
        opened(browser, url)
        shows(browser, "Who must collude")
        for _ in range(10):  # a broken image is reported after a request
            if alerts(browser):
                break
            sleep(PERIOD)
        return alerts(browser)


@pytest.mark.stacks
@attack(
    title="Markup in a fault's detail, a reason or a name, on a status page without its policy",
    attacker="client or task author",
    defence="every text is the text of a node (`status.js`)",
    control="a page that parses markup: a script of the attacker runs in the operator's page",
    source="CWE-79",
)
class TestMarkupAsText:
    def test_refused(self, browser: Any) -> None:
        assert not alerts_of(browser, text=True, policy=False)

    def test_control_succeeds(self, browser: Any) -> None:
        assert alerts_of(browser, text=False, policy=False)


@pytest.mark.stacks
@attack(
    title="Markup in the same places, on a status page that parses it by mistake",
    attacker="client or task author",
    defence="a policy that allows the page's own script and no other (`operator.CONTENT_SECURITY_POLICY`)",
    control="no policy: a script of the attacker runs in the operator's page",
    source="Content Security Policy Level 3, W3C",
)
class TestMarkupUnderThePolicy:
    def test_refused(self, browser: Any) -> None:
        assert not alerts_of(browser, text=False, policy=True)

    def test_control_succeeds(self, browser: Any) -> None:
        assert alerts_of(browser, text=False, policy=False)


def rebound(browser: Any) -> str:
    """What a page reads of the status document under the attacker's own name, which then is its origin."""
    with listening(Played()) as url:
        browser.get(url.replace("127.0.0.1", FOREIGN) + "/v1/status")
        return str(browser.execute_script("return document.body.textContent"))


@pytest.mark.stacks
@attack(
    title="A site points its own name at 127.0.0.1 and reads the status document through an operator's browser",
    attacker="any site that an operator opens",
    defence="a list of the names that a request may have as its host (`operator._Guard`)",
    control="no list: the document, with the ids of all pending parties",
    source="Jackson et al., Protecting Browsers from DNS Rebinding Attacks, CCS 2007",
)
class TestReboundName:
    def test_refused(self, browser: Any) -> None:
        assert rebound(browser) == "this host is not allowed here: ask for 127.0.0.1 or localhost\n"

    def test_control_succeeds(self, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(operator._Guard, "_refusal", lambda self, headers: None)
        assert json.loads(rebound(browser))["sessions"][0]["pending"][0] == "c1"


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


@pytest.mark.stacks
@attack(
    title="Another site shows the status page in a frame, under controls of its own",
    attacker="any site that an operator opens",
    defence="`frame-ancestors 'none'` (`operator.CONTENT_SECURITY_POLICY`)",
    control="no policy: the page is in the attacker's frame",
    source="Rydstedt et al., Busting Frame Busting, 2010",
)
class TestForeignFrame:
    def test_refused(self, browser: Any) -> None:
        assert "secagg" not in framed(browser, policy=True)

    def test_control_succeeds(self, browser: Any) -> None:
        assert "secagg" in framed(browser, policy=False)


RECOLOURING = "\x1b[31m\x1b]0;title\x07[bold]done\u202e"


def printed() -> str:
    """What ``secagg status`` writes to the terminal if a reason would recolour it and hide what follows."""

    def change(status: Status) -> Status:
        session = msgspec.structs.replace(status.sessions[0], reason=RECOLOURING)
        return msgspec.structs.replace(status, sessions=(session,))

    written = io.StringIO()
    Console(file=written, width=100).print(terminal.render(Played(change=change).document()))
    return written.getvalue()


@attack(
    title="Escape sequences in a fault's detail, a reason or a name, which `secagg status` prints",
    attacker="client or task author",
    defence="characters that don't print are replaced, and nothing is read as markup (`terminal._text`)",
    control="the text as it is: it recolours the operator's terminal and sets its title",
    source="CWE-150",
)
class TestEscapeSequences:
    def test_refused(self) -> None:
        assert not any(not letter.isprintable() and letter != "\n" for letter in printed())
        assert "[bold]done" in printed()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from rich.text import Text

        monkeypatch.setattr(terminal, "_text", Text)
        assert "\x1b[31m\x1b]0;title" in printed()


def log_of_secrets() -> str:
    """The log if a secret gets to it by mistake: under a key, in an argument, in another package's error."""
    log = logging.getLogger("secagg.service")
    with logged() as stream:
        log.info("made", extra={"private_key": SECRET, "seed": bytes.fromhex(SECRET)})
        log.info("asked", extra={"token": SECRET, "round": SECRET.encode()})
        try:
            raise RuntimeError(f"INSERT INTO sessions: parameters {SECRET}")
        except RuntimeError as error:
            log.exception("failed")
            log.warning("failed: %s", error)
            logging.getLogger("secagg").exception("failed", extra={"share": SECRET})
            logging.getLogger("uvicorn.error").exception("failed")
        assert len(stream.getvalue().splitlines()) == 6
        return stream.getvalue()


@attack(
    title="A key that a line of the service's log was bound to by mistake, or that another package's error quotes",
    attacker="reader of the log",
    defence="a list of the keys that may be written (`logs.KEYS`); other packages' errors without their text",
    control="the mistaken key on the list: the secret",
    source="CWE-532",
)
class TestSecretsInTheLog:
    def test_refused(self) -> None:
        assert SECRET not in log_of_secrets()

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logs, "KEYS", logs.KEYS | {"token"})
        assert f'"token": "{SECRET}"' in log_of_secrets()
