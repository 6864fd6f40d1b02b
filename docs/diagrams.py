"""Draws the protocols' tables into docs/protocols.md: ``python -m docs.diagrams``.

The message tables and state diagrams between the markers come from ``protocol.phases``, which is what the
roles run; a test holds the document to them.
"""

import re
from itertools import product
from pathlib import Path

from he import bfv, ckks, paillier
from he.errors import HEError
from secagg import BFV, AdditiveShares, Clear, SecAgg, SecAggPlus
from secagg.beacon import SignedBeacon
from secagg.identity import PartyRole
from secagg.protocols.base import AggregationProtocol

DOCUMENT = Path(__file__).parent / "protocols.md"
PROTOCOLS: dict[str, AggregationProtocol] = {
    "clear": Clear(),
    "secagg-malicious": SecAgg(),
    "secagg-semi-honest": SecAgg(threat_model="semi-honest"),
    "secaggplus-malicious": SecAggPlus(threat_model="malicious", beacon=SignedBeacon(bytes(range(32)), 0, 30)),
    "secaggplus-semi-malicious": SecAggPlus(),
    "secaggplus-semi-honest": SecAggPlus(threat_model="semi-honest"),
    "additive-shares": AdditiveShares(),
    "encrypted": BFV(),
}
#: What follows the fields of a message.
PAYLOADS = {
    "Input": "packed vectors",
    "MaskedInput": "packed vectors",
    "Report": "the first aggregator's share, packed and sealed",
    "AggregateShare": "packed vectors",
    "Ciphertexts": "encrypted vector",
    "EncryptedSum": "encrypted sum",
    "OpenedSum": "packed vectors",
}


def table(protocol: AggregationProtocol) -> str:
    """The message table: who sends what to whom, and when."""
    rows = ["| round | from | to | message | fields |", "|---|---|---|---|---|"]
    for phase in protocol.phases:
        for sender, receiver, message in (
            ("server", phase.role, phase.request),
            (phase.role, "server", phase.reply),
        ):
            fields = [*message.__struct_fields__]
            if payload := PAYLOADS.get(message.__name__):
                fields.append(payload)
            rows.append(
                f"| {phase.round} | {sender} | {receiver} | {message.__name__} | {', '.join(fields) or 'none'} |"
            )
        if phase.relay is not None:
            rows.append(f"| {phase.round} | server | {phase.relay} | {phase.reply.__name__} | as it is, at once |")
    return "\n".join(rows)


def diagrams(protocol: AggregationProtocol) -> str:
    """The states of each role that answers the server."""
    roles = [role for role in PartyRole if role in {phase.role for phase in protocol.phases}]
    if len(roles) == 1:
        return diagram(protocol, roles[0])
    return "\n\n".join(f"{role.capitalize()}:\n\n{diagram(protocol, role)}" for role in roles)


def diagram(protocol: AggregationProtocol, role: PartyRole) -> str:
    """A role's states: what moves it on, and what it answers."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> waiting0", "    waiting0: made"]
    phases = [phase for phase in protocol.phases if phase.role is role]
    relayed = {phase.reply.__name__: phase for phase in protocol.phases if phase.relay is role}
    last = len(phases)
    for number, phase in enumerate(phases, 1):
        arrow = f"{phase.request.__name__} / {phase.reply.__name__}"
        target = "finished" if number == last else f"waiting{number}"
        lines.append(f"    waiting{number - 1} --> {target}: {arrow}")
        if number != last:
            lines.append(f"    {target}: answered {phase.round}")
        lines.append(f"    waiting{number - 1} --> aborted: Abort, or a story that doesn't hold")
        position = protocol.phases.index(phase)
        for name, handed_on in relayed.items():
            if protocol.phases.index(handed_on) == position + 1:
                lines.append(f"    {target} --> {target}: {name} of each client")
    return "\n".join([*lines, "    finished --> [*]", "    aborted --> [*]", "```"])


def parameters() -> str:
    """What carries sums of so many bits and clients: ring, primes by bits, bytes a value in full ciphertexts."""
    rows = ["| bits × clients | CKKS seeded | CKKS | BFV seeded | BFV | Paillier |", "|---|---|---|---|---|---|"]
    for bits, clients in product((8, 16, 24, 32), (16, 256, 4096)):
        bound = 2**bits - 2
        kinds = product((ckks.Scheme, bfv.Scheme), (True, False))
        rlwe = [_rlwe(scheme, bound, clients, seeded) for scheme, seeded in kinds]
        slots = paillier.Scheme(bound=bound, max_clients=clients)
        full = slots.slots.count
        packed = f"{(slots.size(2 * full) - slots.size(full)) / full:.1f}"
        rows.append(f"| {bits} × {clients:,} | {' | '.join(rlwe)} | {packed} |")
    return "\n".join(rows)


def _rlwe(scheme: type[ckks.Scheme] | type[bfv.Scheme], bound: int, clients: int, seeded: bool) -> str:
    try:
        found = scheme(bound, clients, seeded)
    except HEError:
        return "refused"
    chosen = found.parameters
    size = (found.size(2 * found.slots) - found.size(found.slots)) / found.slots
    return f"{chosen.degree}, {len(chosen.primes)} × {chosen.bits}: {size:.1f}"


def drawn(text: str) -> str:
    """``text`` with everything between the markers drawn anew."""
    blocks = {name: f"{table(protocol)}\n\n{diagrams(protocol)}" for name, protocol in PROTOCOLS.items()}
    for name, inside in (blocks | {"parameters": parameters()}).items():
        block = f"<!-- {name} -->\n{inside}\n<!-- end -->"
        text, count = re.subn(rf"<!-- {name} -->.*?<!-- end -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"docs/protocols.md has {count} places for {name}; expected 1")
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
