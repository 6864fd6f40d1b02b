"""Writes docs/attacks.md from the tests themselves: ``python -m tests.secagg.adversary.table``."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import tests.secagg.adversary as package
from tests.secagg.adversary.registry import ATTACKS, REFUSALS

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "attacks.md"
FLOWER = "tests.integrations.test_flower_attacks"  # needs Flower to run, and none to be imported

INTRODUCTION = """\
# Attacks

Written by `python -m tests.secagg.adversary.table` from the tests under `tests/secagg/adversary/`, and those of
Flower; don't edit it.

Each row is a test with two halves. In the first the attacker plays against the library and gets nothing. In the
second, the *control*, one defence is removed, and the same attack gives the attacker what it wanted: the victim's
update (or the difference of two) to within a grid step, or a wrong sum accepted as right. Where a client only wants
to spoil or to steer a session, the row says so. A row without a control doesn't build.

Seven clients are enrolled and c = 2 of them may collude with the server; secrets rebuild from 5 shares, and
survivor lists need 5 signatures; a sum of AdditiveShares needs 5 reports. Where it is otherwise, the test says so.
A sparse graph runs the same code; what only such a graph makes possible has a group of its own.
"""

REFUSED = """\
## Refused, though nothing is known to follow

No control makes an attack of these: with the check removed the attacker has no more than before. They are tested,
and claimed as no more than depth.

| Refused | Why it leads nowhere | Test |
|---|---|---|
"""

UNNOTICED = """\
## What can't be noticed, and what is no attack

- **A wrong update.** A client may send any vector, or any weight, that keeps the sums in the range of honest ones.
  SecAgg protects privacy, not the integrity of a model.
- **A smaller modulus** gains a server nothing: a mask is uniform modulo any 2^k, so a small group hides as well as
  a large one. What a modulus that is too small breaks is the sum; that has a row.
- **A lowered `min_survivors` alone** doesn't single a client out: every cohort keeps at least two clients above c.
- **Sparse coordinates, crafted models sent to everyone, differences over many rounds** are in the sum itself: see
  the [threat model](threat-model.md).
- **Denial.** A server can always stop. One client can end a session by dealing shares of a wrong secret, or by
  sealing garbage to so many that its own secret can't be rebuilt: `server.faults` names it, leave it out next time.
  It can also send a vector that no honest client has, so that the sum is outside of what honest inputs add up to:
  the session ends, and *nobody* is named. Fresh sessions over halves of the cohort are left: see the
  [limitations](limitations.md).
- **State and ledger rolled back together, or no ledger at all.** Three of the controls above are exactly that. A
  client without a ledger must not be restored from any state that is not its newest, one from before ShareKeys
  included: see the [limitations](limitations.md).
"""


def modules() -> list[str]:
    """The modules of tests in which attacks are registered."""
    here = [module.name for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    return [*(name for name in here if ".test_" in name), FLOWER]


def load() -> None:
    """Import every test of an adversary, so that it registers itself."""
    for name in modules():
        importlib.import_module(name)


def document() -> str:
    """The whole of docs/attacks.md."""
    load()
    return "\n".join([INTRODUCTION, *_groups(), REFUSED + "".join(_refusals()), UNNOTICED])


def _groups() -> Iterator[str]:
    for title, inside in (
        ("Two stories", "test_two_stories"),
        ("Chosen terms", "test_chosen_terms"),
        ("Replays, reflections, masks", "test_replays"),
        ("Lying clients", "test_lying_clients"),
        ("The sparse graph", "test_graph"),
        ("The draw of the graph", "test_beacon"),
        ("Aggregators", "test_aggregators"),
        ("Ciphertexts and their keys", "test_encrypted"),
        ("Ciphertexts made from others", "test_dependent_ciphertexts"),
        ("Flower", "test_flower_attacks"),
    ):
        about = next(
            importlib.import_module(name).__doc__ or "" for name in modules() if name.endswith(inside)
        ).strip()
        rows = [
            f"| **{row.title}** Attacker: {row.attacker}. Source: {row.source}. | {row.defence} | {row.control} "
            f"| {_link(row.test)} |\n"
            for row in ATTACKS.values()
            if f"/{inside}.py" in row.test
        ]
        yield f"## {title}\n\n{about}\n\n| Attack | Defence | Control | Test |\n|---|---|---|---|\n{''.join(rows)}"


def _refusals() -> Iterator[str]:
    # By module, and as they stand in it: which was imported first depends on who asks.
    for row in sorted(REFUSALS.values(), key=lambda row: row.test.partition("::")[0]):
        yield f"| {row.title} | {row.why} | {_link(row.test)} |\n"


def _link(test: str) -> str:
    path, name = test.split("::")
    return f"[{name}](../{path})"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
