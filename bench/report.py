"""Writes results: tables for people, JSON for machines, and one self-contained page."""

from __future__ import annotations

import html
import io
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from bench.amounts import duration, size
from bench.measure import Row
from bench.plots import MEMORY_FLOOR
from bench.sweep import QUANTITIES, Power, Sweep, is_memory, number
from bench.workloads import Workload
from secagg.errors import ConfigError

SCHEMA = 1
NO_BREAK = "\u00a0"
WIDTH = 150
PACKAGES = (
    "secagg", "numpy", "numba", "cryptography", "msgspec", "tenseal", "phe", "gmpy2",
    "flwr", "nvflare", "pypaillier", "fate_utils", "opendp", "dp-accounting",
)  # fmt: skip


class Kind(StrEnum):
    """The command whose result a document holds."""

    RUN = "run"
    SWEEP = "sweep"
    SCALE = "scale"
    PEERS = "peers"
    PLAN = "plan"
    RATES = "rates"
    FEDERATED = "federated"
    RESNET18 = "resnet18"
    RING = "ring"
    ONESHOT = "oneshot"
    SERVICE = "service"
    COLD = "cold"
    CROWD = "crowd"
    MASKS = "masks"


@dataclass(frozen=True)
class Grid:
    """A table as text: a title, the names of its columns, its rows, and notes that explain it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    words: Sequence[int] = ()  # indices of the columns with sentences, which may be broken over lines


def machine() -> dict[str, Any]:
    """The machine on which the figures were measured."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
        memory = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    except OSError:
        memory = 0
    return {
        "processor": model,
        "instructions": sorted(flags & {"aes", "avx2", "avx512f", "avx512ifma", "vaes"}),
        "cores": os.cpu_count(),
        "memory": memory,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load": round(os.getloadavg()[0], 2),
    }


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python's version, and those of the packages that are installed."""
    installed = {"python": platform.python_version()}
    for name in names:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def document(kind: Kind, command: str, *, finished: bool, **results: Any) -> dict[str, Any]:
    """The document that ``--json`` writes: machine, versions and ``results``, in plain types."""
    head = {"schema": SCHEMA, "kind": str(kind), "command": command, "finished": finished}
    return (
        head
        | {"machine": machine(), "versions": versions()}
        | {key: plain(result) for key, result in results.items()}
    )


def plain(value: Any) -> Any:
    """``value`` with dataclasses and mappings as dicts, and sequences as lists."""
    if hasattr(value, "__dataclass_fields__"):
        return {key: plain(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value


def write(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, or to the file that it links to. An interrupted write leaves the old file."""
    path = path.resolve()
    draft = _draft(path)
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as indented JSON."""
    write(path, json.dumps(document, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a document that ``--json`` wrote. ``ConfigError`` for any other file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"got {path}, which cannot be read as JSON ({error}); name a file that --json wrote"
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or document.get("kind") not in list(Kind):
        raise ConfigError(f"{path} is not a result of schema {SCHEMA}; write one with --json")
    return document


def check_writable(option: str, path: Path | None) -> None:
    """``ConfigError`` if ``path`` cannot be written or is not a plain file, before anything is measured."""
    if path is None:
        return
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a plain file")
        _draft(path).touch()
        _draft(path).unlink()
    except OSError as error:
        raise ConfigError(
            f"got {option} {path}, which cannot be written ({error.strerror or error}); name a file in an "
            "existing folder"
        ) from error


def run_grid(rows: Sequence[Row], workload: Workload) -> Grid:
    """The table of ``bench run``: a row per protocol."""
    columns = (
        "protocol", "client", "server", "other\nparty", "client sends\n/ coordinate",
        "client receives\n/ coordinate",
        "times\nfloat32", "rounds", "largest\nerror", "may\ndrop out",
        "who could learn one client's update together", "post-\nquantum",
    )  # fmt: skip
    cells = [
        (
            row.protocol,
            duration(row.client_seconds.median),
            duration(row.server_seconds.median),
            "–" if row.other_seconds is None else duration(row.other_seconds.median),
            f"{size(row.bytes_up)}\n/ {row.up_per_coordinate:.3g} B",
            f"{size(row.bytes_down)}\n/ {row.down_per_coordinate:.2g} B",
            f"{row.expansion:.2f}",
            f"{row.client_rounds} of {row.all_rounds}",
            f"{row.largest_error:.1e}",
            f"{row.most_dropouts} of {workload.clients}",
            row.collusion,
            "yes" if row.post_quantum else "no",
        )
        for row in rows
    ]
    repeats = sorted({row.repeats for row in rows})
    sessions = "one session" if repeats == [1] else f"{' or '.join(map(str, repeats))} sessions in turn"
    spreads = [
        f"{row.protocol} {duration(row.client_seconds.least)} to {duration(row.client_seconds.most)}"
        for row in rows
    ]
    others = [f"{row.protocol}: {_others(row)}" for row in rows if row.others]
    notes = [
        f"{workload.clients} clients of {workload.coordinates:,} coordinates at {workload.bits} bits, "
        f"{workload.gone} of them silent just before their input. No sum of fewer than {workload.floor} is opened. "
        "Every sum was exact, to the last bit.",
        f"Seconds are of the wall clock, over all rounds of one session, on {os.cpu_count()} cores: medians of "
        f"{sessions}. Least and greatest of a client: {'; '.join(spreads)}.",
        "Rounds: those with a message to the client, of all rounds. Largest error: of the mean, compared with the "
        "mean in float64; it comes from quantization. May drop out: clients that may fall silent before their "
        "input, with the least min_survivors that the protocol accepts here.",
        *([f"Other party: the slowest one. {'; '.join(others)}."] if others else []),
    ]
    return Grid("What secure aggregation costs", columns, cells, notes, words=(10,))


def _others(row: Row) -> str:
    return ", ".join(f"{count} {role}{'s' * (count > 1)}" for role, count in row.others.items())


_OF_MEMORY = (
    " Memory: peak resident bytes, less those of an idle process; each kind of party ran in a process of its own."
)
_OF_WORKERS = (
    " One saved server closed its last round on each number of workers in turn, and opened the same sum each time. "
    "The thread that calls the server is one of the workers."
)


def sweep_grid(sweep: Sweep) -> Grid:
    """The table of ``bench sweep``: the figures at the last point, and the fitted powers."""
    shown = [name for name in QUANTITIES if any(sweep.curve(protocol, name) for protocol in sweep.protocols)]
    rows = []
    for protocol in sweep.protocols:
        cells = []
        for name in shown:
            curve, power = sweep.curve(protocol, name), sweep.power(protocol, name)
            last = "" if not curve else _amount(curve[-1][1], name)
            cells.append(last if power is None else f"{last}\n{grows(power)}")
        rows.append((protocol, number(max(at for at, _ in sweep.curve(protocol, shown[0]))), *cells))
    notes = [
        "Each cell has the figure at the last point, and the power of x that fits the last three points, where "
        "fixed costs weigh least. ± is the greatest difference between this power and the growth from one of the "
        "points to the next. If it is more than a quarter, the power is marked as noise."
        + (_OF_MEMORY if any(map(is_memory, shown)) else _OF_WORKERS),
        *(f"Left out: {text}." for text in sweep.left_out),
    ]
    columns = ("protocol", f"at {sweep.over}", *(QUANTITIES[name].replace(", bytes", "") for name in shown))
    return Grid(f"Growth over {sweep.over}", columns, rows, notes)


def _amount(value: float, quantity: str) -> str:
    if "seconds" in quantity:
        return duration(value)
    return f"< {size(MEMORY_FLOOR)}" if is_memory(quantity) and value < MEMORY_FLOOR else size(value)


def grows(power: Power) -> str:
    """``x^1.02 ± 0.04``, or ``noise``."""
    return "noise" if power.noise else f"x^{power}"


def powers(sweep: Sweep) -> dict[str, dict[str, Power | None]]:
    """The fitted powers, by protocol and quantity. A power with a margin above a quarter is noise."""
    return {protocol: {name: sweep.power(protocol, name) for name in QUANTITIES} for protocol in sweep.protocols}


def to_table(grid: Grid, width: int = WIDTH) -> Group:
    """The table for a terminal of ``width`` columns.

    If it is too narrow, the columns with sentences are written below the table. If the numbers do not fit either,
    each row becomes a paragraph.
    """
    narrow = bool(grid.words) and width < WIDTH
    kept = [at for at in range(len(grid.columns)) if not (narrow and at in grid.words)]
    table = Table(title=grid.title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False, collapse_padding=True)
    for at in kept:
        left = at == 0 or at in grid.words
        least = max((len(word) for row in grid.rows for word in row[at].split()), default=0)
        table.add_column(Text(grid.columns[at]), justify="left" if left else "right", min_width=least)
    for row in grid.rows:
        table.add_row(*(Text(row[at]) for at in kept))
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    shown = set(console.file.getvalue().split())  # type: ignore[attr-defined]
    if any(word not in shown for row in grid.rows for at in kept for word in row[at].split()):
        rows = (_paragraph(grid, row) for row in grid.rows)
        return Group(Text(grid.title, style="bold"), *rows, *(Text(f"\n{note}") for note in grid.notes))
    unique = len({row[0] for row in grid.rows}) == len(grid.rows)
    below = [
        f"{grid.columns[at].capitalize()}: "
        + "; ".join(f"{', '.join(row[: 1 if unique else 2])}, {row[at]}" for row in grid.rows if row[at])
        + "."
        for at in grid.words
        if narrow
    ]
    return Group(table, *map(Text, [*below, *grid.notes]))


def _paragraph(grid: Grid, row: Sequence[str]) -> Text:
    named = zip(grid.columns[1:], row[1:], strict=True)
    cells = (" ".join(f"{column} {cell}".split()) for column, cell in named if cell)
    return Text.assemble((f"\n{row[0]}", "bold"), "\n  ", "; ".join(cells))


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { white-space: pre-line; padding: .35rem .5rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #333; font-weight: 600; }
th.words, td.words, th:first-child, td:first-child { text-align: left; } td:first-child { font-weight: 600; }

.scroll { overflow-x: auto; } p { color: #444; max-width: 75ch; }
code { background: #f2f2f2; padding: .1rem .3rem; }
svg { max-width: 100%; height: auto; }
"""


def to_page(document: Mapping[str, Any], grids: Sequence[Grid], pictures: Sequence[str] = ()) -> str:
    """A page with tables, pictures (``svg`` elements), the machine, the versions and the command line."""
    where, stack = document["machine"], document["versions"]
    facts = [
        f"{where['processor']}, {where['cores']} cores, {where['memory'] / 1e9:.0f} GB, {where['system']}; load "
        f"{where['load']} at the end; instructions: {', '.join(where['instructions']) or 'none of note'}",
        ", ".join(f"{name} {number}" for name, number in stack.items()),
    ]
    title = html.escape(grids[0].title if grids else "Benchmarks")
    unfinished = (
        "" if document["finished"] else "<p><strong>Interrupted: these are the results so far.</strong></p>"
    )
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{title}</h1>{unfinished}",
            f"<p>Made by <code>{html.escape(document['command'])}</code></p>",
            *(_section(grid, heading=at > 0) for at, grid in enumerate(grids)),
            *pictures,
            "<h2>Machine and versions</h2>",
            *(f"<p>{typeset(fact)}</p>" for fact in facts),
            "</body></html>",
        ]
    )


def typeset(text: str) -> str:
    """``text`` in HTML: exponents as superscripts, and no line break between a number and its unit."""
    text = html.escape(text).replace("k·k", "k²")
    text = re.sub(r"\b(x|10)\^([−-]?\d[\d.]*(?: ± [\d.]+)?)", r"\1<sup>\2</sup>", text)
    text = re.sub(r"\b(\d(?:\.\d+)?)e([+-]?)0*(\d+)\b", _scientific, text)
    return re.sub(r"(?<=\d) (?=[\w%±–])|(?<=[±/≥<–]) (?=\d)", NO_BREAK, text)


def _scientific(match: re.Match[str]) -> str:
    sign = "−" if match[2] == "-" else ""
    return f"{match[1]}{NO_BREAK}·{NO_BREAK}10<sup>{sign}{match[3]}</sup>"


def _section(grid: Grid, heading: bool) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=words' if at in grid.words else ''}>{typeset(text)}</{tag}>"
            for at, text in enumerate(row)
        )

    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in grid.rows)
    notes = "".join(f"<p>{typeset(note)}</p>" for note in grid.notes)
    title = f"<h2>{html.escape(grid.title)}</h2>" if heading else ""
    return (
        f'{title}<div class="scroll"><table><thead><tr>{cells("th", grid.columns)}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>{notes}"
    )
