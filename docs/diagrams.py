"""Draws the protocols' tables into docs/protocols.md: ``python -m docs.diagrams``.

The message tables and state diagrams between the markers come from ``protocol.phases``, which is what the
roles run; a test holds the document to them.
"""

import re
from pathlib import Path

from secagg import Clear, SecAgg, SecAggPlus
from secagg.protocols.base import AggregationProtocol

DOCUMENT = Path(__file__).parent / "protocols.md"
PROTOCOLS: dict[str, AggregationProtocol] = {
    "clear": Clear(),
    "secagg-malicious": SecAgg(),
    "secagg-semi-honest": SecAgg(threat_model="semi-honest"),
    "secaggplus-semi-malicious": SecAggPlus(),
    "secaggplus-semi-honest": SecAggPlus(threat_model="semi-honest"),
}


def table(protocol: AggregationProtocol) -> str:
    """The message table: who sends what to whom, and when."""
    rows = ["| round | from | to | message | fields |", "|---|---|---|---|---|"]
    for phase in protocol.phases:
        for sender, receiver, message in (
            ("server", phase.role, phase.request),
            (phase.role, "server", phase.reply),
        ):
            fields = [
                *message.__struct_fields__,
                *(["packed vectors"] if receiver == "server" and phase.takes_input else []),
            ]
            rows.append(
                f"| {phase.round} | {sender} | {receiver} | {message.__name__} | {', '.join(fields) or 'none'} |"
            )
    return "\n".join(rows)


def diagram(protocol: AggregationProtocol) -> str:
    """The client's states: what moves it on, and what it answers."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> waiting0", "    waiting0: made"]
    last = len(protocol.phases)
    for number, phase in enumerate(protocol.phases, 1):
        arrow = f"{phase.request.__name__} / {phase.reply.__name__}"
        target = "finished" if number == last else f"waiting{number}"
        lines.append(f"    waiting{number - 1} --> {target}: {arrow}")
        if number != last:
            lines.append(f"    {target}: answered {phase.round}")
        lines.append(f"    waiting{number - 1} --> aborted: Abort, or a story that doesn't hold")
    return "\n".join([*lines, "    finished --> [*]", "    aborted --> [*]", "```"])


def drawn(text: str) -> str:
    """``text`` with everything between the markers drawn anew."""
    for name, protocol in PROTOCOLS.items():
        block = f"<!-- {name} -->\n{table(protocol)}\n\n{diagram(protocol)}\n<!-- end -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"docs/protocols.md has {count} places for {name}; expected 1")
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
