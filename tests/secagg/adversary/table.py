"""Writes docs/attacks.md and docs/gallery/attacks.md from the tests.

``python -m tests.secagg.adversary.table`` does it.
"""

import importlib
import pkgutil
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tests.secagg.adversary as package
from tests.secagg.adversary.registry import ATTACKS, REFUSALS, Attack

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "attacks.md"
CARDS = ROOT / "docs" / "gallery" / "attacks.md"
#: They need their stack to run, and none to be imported.
STACKS = ("tests.integrations.test_flower_attacks", "tests.flare.test_flare_attacks")

#: Title -> the file that has the attacks of the group.
GROUPS = {
    "Enrolment": "test_enrolment",
    "Two accounts of one session": "test_two_stories",
    "Terms that the server chooses": "test_chosen_terms",
    "Replays, reflections, masks": "test_replays",
    "Lying clients": "test_lying_clients",
    "The sparse graph": "test_graph",
    "How the graph is drawn": "test_beacon",
    "Aggregators": "test_aggregators",
    "A committee": "test_oneshot",
    "A committee that a beacon draws": "test_oneshot_drawn",
    "Whom a committee names": "test_oneshot_spoilers",
    "Ciphertexts and their keys": "test_encrypted",
    "Ciphertexts that depend on others": "test_dependent_ciphertexts",
    "The randomness of ciphertexts": "test_randomness",
    "Beside TenSEAL": "test_beside_tenseal",
    "Around the sum": "test_federated",
    "Records of one client": "test_records",
    "Flower": "test_flower_attacks",
    "NVFlare": "test_flare_attacks",
    "Connections to the service": "test_service_limits",
    "Who calls the service": "test_service_tokens",
    "A service that lies to a client": "test_lying_service",
    "Operators": "test_operators",
}

INTRODUCTION = """\
# Attacks

Each row is a test with two halves. In the first, the attacker plays against the library and gets
nothing. In the second, the *control*, one defence is removed, and the same attack gives the
attacker what it wanted: the victim's update (or the difference of two) to within a grid step, or a
wrong sum that is accepted as right. If a client only wants to spoil or to steer a session, the row
says so. A row without a control doesn't build.

Seven clients are enrolled, and c = 2 of them may collude with the server. Secrets rebuild from 5
shares, survivor lists need 5 signatures, and a sum of AdditiveShares or OneShot needs 5 inputs.
Where this is different, the test says so. A sparse graph runs the same code; attacks that only such
a graph makes possible have a group of their own.

`python -m tests.secagg.adversary.table` writes this page from the tests under
`tests/secagg/adversary/` and those of Flower and NVFlare; don't edit it.
"""

HEADING = "| Attack | Defence | Control | Test |\n|---|---|---|---|\n"

GALLERY = """\
# Attacks, one by one

Each card says what an attacker tries, what holds against it, and what the attacker has if exactly
that defence is removed: the *control*. The test behind the link runs both halves. The table in
[attacks](../attacks.md) has the setting, and what can't be noticed.
`python -m tests.secagg.adversary.table` writes both pages from the tests.
"""

REFUSED = """\
## Refused, though no attack is known

These have no control: without the check the attacker has no more than before. They are tested as
additional depth.

| Refused | Why it leads nowhere | Test |
|---|---|---|
"""

UNNOTICED = """\
## What can't be noticed, and what is not an attack

- **A wrong update.** A client may send any vector or weight that keeps the sums in the range of
  honest sums. SecAgg protects privacy, not the integrity of a model.
- **A smaller modulus** gives a server no advantage: a mask is uniform modulo any 2^k, so a small
  group hides as well as a large one. A modulus that is too small makes the sum wrong; that has a
  row.
- **A lower `min_survivors` alone** doesn't single a client out: every cohort has at least two
  clients more than c.
- **Sparse coordinates, crafted models that everyone gets, differences over many rounds** are in the
  sum itself: see the [threat model](threat-model.md).
- **Denial.** A server can always stop. One client can end a session by dealing shares of a wrong
  secret, or by sealing garbage to so many clients that its own secret can't be rebuilt:
  `server.faults` names it, so leave it out next time. A client can also send a vector that no
  honest client could send, so that the sum is outside the range of honest sums: the session ends,
  and *nobody* is named. The remedy is fresh sessions over halves of the cohort: see the
  [limitations](limitations.md).
- **State and ledger that are rolled back together, or no ledger at all.** Three of the controls
  above are exactly this. A client without a ledger must not be restored from any state but its
  newest, not even from one before ShareKeys: see the [limitations](limitations.md).
"""


def modules() -> list[str]:
    """The modules of tests in which attacks are registered."""
    here = [module.name for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
    return [*(name for name in here if ".test_" in name), *STACKS]


def load() -> None:
    """Import every test of an adversary, so that it registers itself."""
    for name in modules():
        importlib.import_module(name)


def document() -> str:
    """The whole of docs/attacks.md."""
    return "\n".join([INTRODUCTION, *_groups(), REFUSED + "".join(_refusals()), UNNOTICED])


@dataclass(frozen=True)
class Group:
    """The attacks of one file: a title, what they have in common, and the rows."""

    title: str
    about: str
    rows: Sequence[Attack]


def groups() -> Iterator[Group]:
    """All attacks, in the order of the page."""
    load()
    for title, inside in GROUPS.items():
        (module,) = (name for name in modules() if name.endswith(f".{inside}"))
        about = (importlib.import_module(module).__doc__ or "").strip()
        yield Group(title, about, [row for row in ATTACKS.values() if f"/{inside}.py" in row.test])


def wrapped(paragraphs: str, indent: str = "") -> str:
    """Each paragraph at 100 columns, its further lines with an ``indent``."""
    return "\n\n".join(
        textwrap.fill(paragraph, 100, subsequent_indent=indent, break_long_words=False)
        for paragraph in paragraphs.split("\n\n")
    )


def _groups() -> Iterator[str]:
    for group in groups():
        rows = [
            f"| **{row.title}** Attacker: {row.attacker}. Source: {row.source}. | {row.defence} | {row.control} "
            f"| {_link(row.test)} |\n"
            for row in group.rows
        ]
        yield f"## {group.title}\n\n{wrapped(group.about)}\n\n{HEADING}{''.join(rows)}"


def gallery() -> str:
    """The whole of docs/gallery/attacks.md: the same rows, one by one."""
    return "\n".join([GALLERY, *_galleries()])


def _galleries() -> Iterator[str]:
    for group in groups():
        yield f"## {group.title}\n\n{wrapped(_from_below(group.about))}\n"
        for row in group.rows:
            lines = [
                f"- *Who:* {row.attacker}. *Source:* {row.source}.",
                f"- *What holds:* {_from_below(row.defence)}.",
                f"- *Control:* {_from_below(row.control)}.",
                f"- *Test:* {_link(row.test, '../')}",
            ]
            card = [wrapped(f"**{row.title}**"), "", *(wrapped(line, "  ") for line in lines)]
            yield "\n".join(['<div class="attack">', "", *card, "", "</div>", ""])


def _refusals() -> Iterator[str]:
    # By module, and as they stand in it: which was imported first depends on who asks.
    for row in sorted(REFUSALS.values(), key=lambda row: row.test.partition("::")[0]):
        yield f"| {row.title} | {row.why} | {_link(row.test)} |\n"


def _from_below(text: str) -> str:
    """The text with its links to pages as a page in a folder of docs/ has them."""
    return re.sub(r"\]\((?=[\w-]+\.md)", "](../", text)


def _link(test: str, up: str = "") -> str:
    path, name = test.split("::")
    return f"[{name}]({up}../{path}#{name})"


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    CARDS.write_text(gallery(), encoding="utf-8")
