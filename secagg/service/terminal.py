"""The command ``secagg status``: the status document as tables or as JSON."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import datetime
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector

import msgspec

from secagg.errors import ConfigError, SecAggError
from secagg.service.status import FORMAT, PrivacyStatus, RoundStatus, SessionStatus, Status, TaskStatus, decode

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

WIDTH = 100
_MOST_BYTES = 1 << 24
_TIMEOUT = 10.0
_BAR = 24  # characters
_SHOWN_SESSIONS = 8


def show_status(url: str, *, as_json: bool, watch: bool) -> None:
    """Print the document of the service whose operators' listener is at ``url``; with ``watch``, once a second.

    Raises ``ConfigError`` for an URL that can't be asked, and ``SecAggError`` if the first answer is not a status
    document. Later it says that there is no answer, and tries again.
    """
    data = fetch(url)
    while True:
        if as_json:
            print((data if watch else msgspec.json.format(data, indent=2)).decode(), flush=True)
        else:
            _print(_read(data), again=watch)
        if not watch:
            return
        data = _next(url)


def _next(url: str) -> bytes:
    """The document a second later, or as soon as there is an answer again."""
    while True:
        time.sleep(1)
        try:
            return fetch(url)
        except SecAggError as error:
            print(f"secagg: {error}", file=sys.stderr)


def fetch(url: str) -> bytes:
    """The bytes of the status document. No proxy is asked and no redirect followed: the service is near."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"got --url {url}; expected one such as http://127.0.0.1:8081")
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        with opener.open(f"{url.rstrip('/')}/v1/status", timeout=_TIMEOUT) as answer:
            if answer.status != 200:
                raise SecAggError(
                    f"{url} answers with status {answer.status}; expected a service's listener for operators"
                )
            data: bytes = answer.read(_MOST_BYTES + 1)
    except (OSError, HTTPException) as error:
        raise SecAggError(f"no service answers at {url}: {error}; start one with secagg serve") from error
    if len(data) > _MOST_BYTES:
        raise SecAggError(f"{url} answered with more than {_MOST_BYTES >> 20} MiB; no status document is as large")
    _read(data)
    return data


def _read(data: bytes) -> Status:
    try:
        status = decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SecAggError(f"the answer is not a status document: {error}") from error
    if status.format != FORMAT:
        raise SecAggError(f"got a status document of format {status.format}; this version reads {FORMAT}")
    return status


def _print(status: Status, *, again: bool) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    console = Console(width=width, highlight=False)
    if again and console.is_terminal:
        console.clear()
    console.print(render(status))


def render(status: Status) -> RenderableType:
    """The document for a terminal. Control characters in texts of parties are replaced."""
    from rich.console import Group

    service = status.service
    up = duration((status.at - service.started).total_seconds())
    state = "ready" if service.ready else "not ready"
    lines: list[RenderableType] = [_text(f"{service.url}  version {service.version}, up {up}, {state}", "bold")]
    for about in status.tasks:
        lines += ["", *_task(about)]
        sessions = [session for session in status.sessions if session.task == about.digest]
        for session in sessions:
            lines += ["", *_session(session)]
        if not sessions:
            lines += [_text("No session is open.")]
        past = [one for one in status.history if one.task == about.digest]
        if past:
            lines += ["", _past(status, about)]
    totals = status.totals
    lines += [
        "",
        _text(
            f"In {size(totals.rate_in)}/s, {size(totals.bytes_in)} in all; out {size(totals.rate_out)}/s, "
            f"{size(totals.bytes_out)} in all; being received {size(totals.ingest_used)}; "
            f"spools {size(totals.spool_bytes)}; {totals.waiting_polls:,} polls wait."
        ),
    ]
    return Group(*lines)


def _task(about: TaskStatus) -> Iterator[Text]:
    yield _text(f"{about.context or 'unnamed task'}  {about.protocol}, {about.threat_model}", "bold")
    yield _text(f"To learn one client's update would take {about.collusion}.")
    yield _text(_privacy(about.privacy))
    for warning in about.warnings:
        yield _text(f"Warning: {warning}", "yellow")
    yield _text(f"Task {about.digest}", "dim")
    if about.roster is not None:
        yield _text(f"Roster version {about.roster.version}, {about.roster.digest}", "dim")


def _privacy(privacy: PrivacyStatus | None) -> str:
    if privacy is None:
        return "No differential privacy: the sum is exact."
    return (
        f"ε = {_epsilon(privacy.spent)} is spent at δ = {privacy.delta:.1g} in {privacy.releases:,} "
        f"sessions; one is guaranteed ε ≤ {_epsilon(privacy.guaranteed)}."
    )


def _epsilon(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"


def _session(session: SessionStatus) -> Iterator[RenderableType]:
    attempt = f", attempt {session.attempt}" if session.attempt > 1 else ""
    yield _text(f"Session {session.number:,}{attempt}: {session.state}", "bold")
    if session.reason:
        yield _text(session.reason, "red")
    if session.state == "gathering":
        declined = f" {session.declined:,} declined." if session.declined else ""
        yield _text(f"{session.accepted:,} of the {session.needed:,} clients that are needed take part.{declined}")
        return
    table = _table(
        "Round", "Progress", *(f">{name}" for name in ("answered", "pending", "dropped", "bytes", "time"))
    )
    for one in session.rounds:
        table.add_row(_text(one.name), *map(_text, _cells(one)))
    yield table
    if session.pending:
        more = f" and {session.more_pending:,} more" if session.more_pending else ""
        yield _text(f"Still to answer: {', '.join(session.pending)}{more}")
    for fault in session.faults:
        times = f", {fault.count:,} times" if fault.count > 1 else ""
        detail = f": {fault.detail}" if fault.detail else ""
        yield _text(f"Fault: {fault.party} in {fault.round}, {fault.kind}{times}{detail}", "red")


def _cells(one: RoundStatus) -> tuple[str, ...]:
    if one.state == "waiting":
        return ("", "", "", "", "", "")
    parts = [round(_BAR * count / max(1, one.asked)) for count in (one.answered, one.answered + one.pending)]
    bar = "█" * parts[0] + "░" * (parts[1] - parts[0]) + "x" * (_BAR - parts[1])
    open_for = one.state == "open" and one.deadline is not None
    clock = f"{duration(max(0.0, one.deadline or 0.0))} left" if open_for else duration(one.seconds)
    answered = f"{one.answered:,} of {one.asked:,}"
    return bar, answered, f"{one.pending:,}", f"{one.dropped:,}", size(one.bytes), clock


def _past(status: Status, about: TaskStatus) -> Table:
    table = _table("Session", "result", ">in the sum", ">took", ">faults", ">ended", "reason")
    for past in [past for past in status.history if past.task == about.digest][:_SHOWN_SESSIONS]:
        table.add_row(
            *map(
                _text,
                (
                    f"{past.number:,}",
                    past.result,
                    f"{past.survivors:,} of {past.cohort:,}",
                    duration(past.seconds),
                    f"{past.faults:,}",
                    f"{_ago(status.at, past.ended)} ago",
                    past.reason,
                ),
            )
        )
    return table


def _table(*names: str) -> Table:
    """A table; a name that begins with > heads a column of numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    return table


def _text(value: str, style: str = "") -> Text:
    """``value`` as it is: no markup, and no control characters, which could change what the terminal shows."""
    from rich.text import Text

    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value), style)


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 90:
        return f"{minutes} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 2880 else f"{minutes // 1440} days"


def _ago(now: datetime, then: datetime) -> str:
    return duration(max(0.0, (now - then).total_seconds()))
