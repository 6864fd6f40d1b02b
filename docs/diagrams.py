"""Draws the protocols' tables into docs/protocols.md: ``python -m docs.diagrams``.

The message tables between the markers, and one state diagram for each family of protocols, come from
``protocol.phases``, which the roles run. A test compares the document with them.
"""

from itertools import product
from pathlib import Path

from he import bfv, ckks, paillier
from he.errors import HEError
from secagg import BFV, AdditiveShares, Clear, OneShot, SecAgg, SecAggPlus
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
    "one-shot": OneShot(recount=True),
    "encrypted": BFV(),
}
#: The protocols with a state diagram: of each family the one with the most rounds.
DIAGRAMS = ("secagg-malicious", "secaggplus-malicious", "additive-shares", "one-shot", "encrypted")
ABORTED = "Every other state ends in `Aborted` if the server gives the session up or contradicts itself."


def table(protocol: AggregationProtocol) -> str:
    """The message table: who sends what to whom, and when."""
    rows = ["| round | from | to | message | fields |", "|---|---|---|---|---|"]
    for phase in protocol.phases:
        for sender, receiver, message, vectors in (
            ("server", phase.role, phase.request, phase.request_vectors),
            (phase.role, "server", phase.reply, phase.reply_vectors),
        ):
            fields = ", ".join([*message.__struct_fields__, *["vectors"] * vectors]) or "none"
            rows.append(f"| {phase.round} | {sender} | {receiver} | {message.__name__} | {fields} |")
        if phase.relay is not None:
            what = "as it is, at once" if phase.relayed is None else "at once"
            rows.append(f"| {phase.round} | server | {phase.relay} | {phase.handed_on.__name__} | {what} |")
        if phase.word is not None:
            fields = ", ".join(phase.word.__struct_fields__)
            rows.append(f"| {phase.round} | {phase.relay} | server | {phase.word.__name__} | {fields} |")
    return "\n".join(rows)


def diagrams(protocol: AggregationProtocol) -> str:
    """The states of each role that answers the server."""
    roles = [role for role in PartyRole if role in {phase.role for phase in protocol.phases}]
    pictures = [f"{role.capitalize()}:\n\n{diagram(protocol, role)}" for role in roles]
    return "\n\n".join([*pictures, ABORTED])


def diagram(protocol: AggregationProtocol, role: PartyRole) -> str:
    """A role's states, each named by the round that it waits for, with the request and the answer between them."""
    phases = [phase for phase in protocol.phases if phase.role is role]
    names = [str(phase.round) for phase in phases] + ["finished"]
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {names[0]}"]
    for phase, state, following in zip(phases, names, names[1:], strict=False):
        relayed = protocol.phases[protocol.phases.index(phase) - 1]
        if relayed.relay is role:
            word = "" if relayed.word is None else f" / {relayed.word.__name__}"
            lines.append(f"    {state} --> {state}: {relayed.handed_on.__name__} of each {relayed.role}{word}")
        lines.append(f"    {state} --> {following}: {phase.request.__name__} / {phase.reply.__name__}")
    return "\n".join([*lines, "    finished --> [*]", "```"])


def parameters() -> str:
    """Which parameters carry sums of so many bits and clients: ring, primes by bits, bytes a value when full."""
    rows = ["| bits × clients | CKKS seeded | CKKS | BFV seeded | BFV | Paillier |", "|---|---|---|---|---|---|"]
    for bits, clients in product((8, 16, 24, 32), (16, 256, 4096)):
        bound = 2**bits - 2
        schemes: tuple[type[ckks.Scheme] | type[bfv.Scheme], ...] = (ckks.Scheme, bfv.Scheme)
        rlwe = [_rlwe(scheme, bound, clients, seeded) for scheme, seeded in product(schemes, (True, False))]
        slots = paillier.Scheme(bound=bound, max_clients=clients)
        full = slots.slots.count
        packed = f"{(slots.size(2 * full) - slots.size(full)) / full:.1f}"
        rows.append(f"| {bits} × {clients:,} | {' | '.join(rlwe)} | {packed} |")
    return "\n".join(rows)


def _rlwe(scheme: type[ckks.Scheme] | type[bfv.Scheme], bound: int, clients: int, seeded: bool) -> str:
    try:
        fitted = scheme(bound, clients, seeded)
    except HEError:
        return "refused"
    ring = fitted.parameters
    size = (fitted.size(2 * fitted.slots) - fitted.size(fitted.slots)) / fitted.slots
    return f"{ring.degree}, {len(ring.primes)} × {ring.bits}: {size:.1f}"


def redraw(text: str) -> str:
    """``text`` with everything between the markers redrawn."""
    blocks = {name: table(protocol) for name, protocol in PROTOCOLS.items()}
    blocks |= {name: f"{blocks[name]}\n\n{diagrams(PROTOCOLS[name])}" for name in DIAGRAMS}
    for name, inside in (blocks | {"parameters": parameters()}).items():
        if (count := text.count(f"<!-- {name} -->\n")) != 1:
            raise SystemExit(f"docs/protocols.md has {count} places for {name}; expected 1")
        before, marker, rest = text.partition(f"<!-- {name} -->\n")
        after = rest[rest.index("<!-- end -->") :]
        text = f"{before}{marker}{inside}\n{after}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(redraw(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
