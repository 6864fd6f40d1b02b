"""Writes the measured tables of docs/benchmarks.md: ``python -m docs.benchmark_tables``.

They come from the JSON in bench/results, which ``bash bench/results/make.sh`` wrote. A test compares the document
with those files. A table whose file is not there is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.amounts import duration, size
from bench.peers import Part, parts_text
from docs.figures import bounds

DOCUMENT = Path(__file__).parent / "benchmarks.md"
RESULTS = Path(__file__).parent.parent / "bench" / "results"

Results = Mapping[str, Any]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    head, *lines = (f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (columns, *rows))
    return "\n".join([head, f"|{'---|' * len(columns)}", *lines])


def machine(results: Results) -> str:
    """Where ``results`` were measured, as a sentence."""
    where = results["machine"]
    wide = "with AVX-512" if "avx512f" in where["instructions"] else "without AVX-512"
    return f"Measured on {where['cores']} cores of {where['processor']}, {wide}."


def run(results: Results) -> str:
    """A row for each protocol: seconds, bytes a coordinate, and dropouts."""
    rows = []
    for row in results["rows"]:
        other = "–" if row["other_seconds"] is None else duration(row["other_seconds"]["median"])
        rows.append(
            [
                f"`{row['protocol']}`",
                duration(row["client_seconds"]["median"]),
                duration(row["server_seconds"]["median"]),
                other,
                f"{row['up_per_coordinate']:.3g}",
                f"{row['down_per_coordinate']:.2g}",
                f"{row['most_dropouts']} of {results['workload']['clients']}",
                "yes" if row["post_quantum"] else "no",
            ]
        )
    return table(
        ["protocol", "client", "server", "other party", "bytes up", "down", "may drop out", "post-quantum"], rows
    )


def peers(*documents: Results) -> str:
    """A row for each comparison of ``documents``, in their order."""
    rows = []
    for one in _compared(*documents):
        ratio = one["ratio"]
        sent = "" if one["our_bytes"] is None else f"{_unit(one['their_bytes'])}, {_unit(one['our_bytes'])}"
        claims = [] if one["claim"] is None else [f"≥ {one['claim']:g}: {one['verdict']}"]
        if one.get("most_bytes") is not None:  # results that are older than these claims have none
            claims.append(f"≤ {one['most_bytes']:g} of the bytes: {one['bytes_verdict']}")
        rows.append(
            [
                f"{one['peer']} {one['peer_version']}",
                f"{one['work']}, a {one['unit']}",
                duration(one["theirs"]["median"]),
                duration(one["ours"]["median"]),
                f"{_times(ratio['least'])} – {_times(ratio['most'])}",
                "; ".join(claims),
                sent,
            ]
        )
    return table(["peer", "work", "theirs", "ours", "times as fast", "claim", "bytes, theirs and ours"], rows)


def parts(*documents: Results) -> str:
    """A row for each side of the comparisons that say how their work divides."""
    rows = [
        [one["work"], one["peer"] if side == "theirs" else "secagg", *parts_text(own, side)]
        for one in _compared(*documents)
        if (own := [Part(**part) for part in one.get("parts", ())])
        for side in ("theirs", "ours")
    ]
    return table(["work", "whose", "seconds", "bytes"], rows)


def _compared(*documents: Results) -> Iterator[Results]:
    return (one for document in documents for one in document["compared"])


def _unit(value: float) -> str:
    return f"{value:.3g} B" if value < 1000 else size(value)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 20 else f"{ratio:.1f}"


def workers(results: Results) -> str:
    """A row for each protocol and number of workers."""
    one = {point["protocol"]: point for point in results["points"] if point["at"] == 1}
    rows = []
    for point in results["points"]:
        alone = one.get(point["protocol"])
        faster = f"{alone['last_round_seconds'] / point['last_round_seconds']:.2f}" if alone else ""
        seconds = [duration(point[f"last_round_{kind}"]) for kind in ("seconds", "cpu_seconds")]
        rows.append([f"`{point['protocol']}`", f"{point['at']:g}", *seconds, faster])
    columns = ["protocol", "workers", "server's last round", "of the processor", "times as fast as one worker"]
    return f"{table(columns, rows)}\n\n{machine(results)}"


def scale(results: Results) -> str:
    """A row for each session, by protocol; what was left out is named below."""
    keys = ("protocol", "clients", "coordinates", "dropout")
    order = sorted(results["sessions"], key=lambda one: [one[key] for key in keys])
    rows = [
        [
            f"`{one['protocol']}`",
            f"{one['clients']:,}",
            f"{one['coordinates']:,}",
            f"{one['dropout']:.0%}",
            *(duration(one[f"{who}_seconds"]) for who in ("client", "client_cpu", "server", "server_cpu")),
            size(one["bytes_up"]),
            size(one["server_memory"]),
        ]
        for one in order
    ]
    columns = ["protocol", "clients", "coordinates", "silent", "client", "CPU", "server", "CPU", "client sends"]
    left_out = [text.split(", because ", 1) for text in results["left_out"]]
    below = f"\n\n{table(['left out', 'because'], left_out)}" if left_out else ""
    return f"{table([*columns, 'server at its peak'], rows)}\n\n{machine(results)}{below}"


def cold(results: Results) -> str:
    """A row for each first session, and the bounds."""
    rows = [
        [
            f"`{one['what']}`",
            one["cache"],
            *(duration(one[f"{kind}_cpu_seconds"]) for kind in ("import", "session", "whole")),
            str(one["compiled"]),
        ]
        for one in results["firsts"]
    ]
    columns = ["session", "cache", "import", "first session", "whole process", "compiled"]
    return f"{table(columns, rows)}\n\n{bounds(results)}\n\n{machine(results)}"


def masks(results: Results) -> str:
    """A row for each side, and the bounds."""
    rows = [
        [
            one["work"],
            one["peer"],
            duration(one["seconds"]["median"]),
            f"{one['gigabytes_a_second']:.1f} GB/s",
            f"{one['ratio']['median']:.2f}",
            f"{one['ratio']['least']:.2f} – {one['ratio']['most']:.2f}",
        ]
        for one in results["compared"]
    ]
    columns = ["vector", "side", "seconds", "rate", "times `add_mask`", "from – to"]
    return f"{table(columns, rows)}\n\n{bounds(results)}\n\nBy {results['path']}.\n{machine(results)}"


def crowd(results: Results) -> str:
    """A row for each round, and the bounds."""
    rows = [
        [
            one["what"],
            *(duration(one[f"{kind}_seconds"]) for kind in ("whole", "server", "server_cpu")),
            "–" if one["server_memory"] is None else size(one["server_memory"]),
            duration(one["client_seconds"]),
            size(one["bytes_up"]),
            size(one["bytes_down"]),
        ]
        for one in results["rounds"]
    ]
    columns = ["round", "all parties", "server", "CPU", "at its peak", "a client", "sends", "receives"]
    return f"{table(columns, rows)}\n\n{bounds(results)}\n\n{machine(results)}"


def cluster(results: Results) -> str:
    """A row for each protocol with the cluster, and the comparison with worker processes."""
    rows = []
    for one in results["clustered"]:
        if one["refused"]:
            continue
        kinds = ("alone", "cluster", "serial", "inputs", "opening")
        seconds = [duration(one[f"{kind}_seconds"]) for kind in kinds]
        travels = [size(one["bytes_to"]), size(one["bytes_from"]), f"{one['inbound'] / 1e9:.3g} Gbit/s"]
        rows.append([f"`{one['protocol']}`", *seconds, *travels, one["bottleneck"]])
    columns = ["protocol", "one core", "cluster", "serial", "inputs", "opening", "to workers", "from workers"]
    made = results["command"].split(" --json")[0]
    text = f"```\n{made}\n```\n\n{table([*columns, 'inbound', 'bottleneck'], rows)}"
    if (check := results.get("checked_cluster")) is not None:
        text += (
            f"\n\nA last round of {check['at']}, on {check['processes']} processes: planned\n"
            f"{duration(check['planned'])}, measured {duration(check['measured'])}; {check['tasks']:,} pieces, "
            f"{check['planned_tasks']:,} planned."
        )
    return text


TABLES: Mapping[str, Callable[[Results], str]] = {
    "run": run, "workers": workers, "scale": scale, "cold": cold, "masks": masks, "crowd": crowd
}  # fmt: skip


def tables(folder: Path) -> dict[str, str]:
    """The tables by name whose results are in ``folder``."""
    loaded = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    written = {name: draw(loaded[name]) for name, draw in TABLES.items() if name in loaded}
    if compared := [loaded[name] for name in ("flower", "nvflare", "peers") if name in loaded]:
        written["peers"] = peers(*compared)
    if "nvflare" in loaded:
        written["nvflare"] = parts(loaded["nvflare"])
    if "clustered" in loaded.get("plan", ()):
        written["cluster"] = cluster(loaded["plan"])
    return written


def redraw(text: str, written: Mapping[str, str]) -> str:
    """``text`` with everything between the markers written anew."""
    for name, inside in written.items():
        if (count := text.count(f"<!-- {name} -->\n")) != 1:
            raise SystemExit(f"{DOCUMENT.name} has {count} places for {name}; expected 1")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        text = f"{before}{marker}{inside}\n{rest[rest.index('<!-- end -->') :]}"
    return text


def main() -> None:
    """Write the document."""
    DOCUMENT.write_text(redraw(DOCUMENT.read_text(encoding="utf-8"), tables(RESULTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
