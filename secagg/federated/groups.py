"""Groups of a cohort, each with a secure sum of its own: what a robust rule combines.

A rule against clients that lie needs several values to compare, and single updates are hidden. So the cohort is
split into groups, drawn anew in each round. Each group runs its own session of one task, and the server sees one
mean for each group.

**Who draws.** ``draw_groups`` follows from public randomness; everyone can check the draw.

- 32 random bytes that the server draws once roster and cohort are fixed (:func:`from_session`): they stand
  against clients that lie and would choose their group. The server has to be honest about the draw: one that
  draws again until it likes the groups (it grinds) is not noticed.
- What a beacon publishes in the first round after the cohort was told to every client (:func:`from_beacon`): it
  stands against a server that grinds too.

Privacy depends on neither: a group's floor counts all colluders as if they were in this one group. By
grinding, a lying server can only help liars to a majority of the groups, and it can ruin a model more simply.

Both hold for one draw a round. After a second one the same updates are in other sums, from which a server can
solve for them. A client that names the round itself (``session=``) and has a ledger (``save=``) uploads once under
this name.

**Over many rounds** the sums of groups tell more than sums of all clients. If a client's updates hardly change from
round to round, then the sums of ever new groups are equations from which a server can solve for each client's
lasting part, after about as many sums as there are clients. Noise prevents that. So do groups that are drawn once
for all rounds, but they are weaker against liars.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, cast

from mpc.keys import encode_parts
from secagg._numbers import is_a, whole
from secagg.beacon import Beacon
from secagg.corruption import corrupt_among
from secagg.errors import Aborted, ConfigError, blaming, shown
from secagg.identity import Roster, check_party_id
from secagg.protocols.base import AggregationProtocol
from secagg.roles.environment import Budget
from secagg.session import NONCE_BYTES, check_session, roster_digest, session_id
from secagg.simulation import Simulation, simulate
from secagg.task import MAX_CLIENTS, Task

Groups = tuple[tuple[str, ...], ...]

RANDOM_BYTES = 32
_MOST_BYTES = 1024
_NEARLY = Fraction(999, 1000)
_MOST_WORK = 1e11  # of an exact count: about ten seconds


def draw_groups(cohort: Iterable[str], count: int, randomness: bytes) -> Groups:
    """``cohort`` split at random into ``count`` groups, whose sizes differ by at most one; each is sorted.

    The ids are ordered by SHA-256 of the label, ``randomness`` and the id, each after its length
    (:func:`mpc.keys.encode_parts`), and dealt in turn. ``randomness`` is 32 to 1024 bytes that nobody could
    choose or know before the cohort stood; the module says where they come from. ``ConfigError`` for fewer bytes,
    such as a round's number, for an id twice, and for more groups than clients.
    """
    plain = _plain(randomness)
    if plain is None or not RANDOM_BYTES <= len(plain) <= _MOST_BYTES:
        raise ConfigError(
            f"got randomness={shown(randomness)}; expected {RANDOM_BYTES} to {_MOST_BYTES} bytes that nobody could "
            "foresee, such as os.urandom(32) of an honest server or a beacon's value: liars that foresee their "
            "group gather where they do most harm"
        )
    ids = _ids(cohort)
    groups = check_groups(count, len(ids))
    order = sorted(ids, key=lambda party: hashlib.sha256(encode_parts(_LABEL, plain, party)).digest())
    return tuple(tuple(sorted(order[first::groups])) for first in range(groups))


_LABEL = "secagg/v1/groups"


def from_beacon(beacon: Beacon, number: int, value: bytes) -> bytes:
    """Randomness for :func:`draw_groups` from the ``value`` that ``beacon`` published in round ``number``.

    Client and server each call it. The client notes by its own clock, when it learns the cohort, which round comes
    next (``beacon.next_round(now)``), and takes no other ``number``: one published before would let the server
    choose the cohort by it. ``ConfigError`` for a value that the beacon did not publish.
    """
    expected = whole(number) or 0
    with blaming(ConfigError, "got a beacon that can't verify; expected one of secagg.beacon"):
        right = 0 < expected < 1 << 63 and is_a(value, bytes) and bool(beacon.verify(expected, value))
    if not right:
        raise ConfigError(f"got a value that the beacon did not publish in round {shown(number)}; ask it again")
    return hashlib.sha256(encode_parts("secagg/v1/groups-beacon", expected, value)).digest()


def from_session(
    task: Task, cohort: Iterable[str], *, roster: Roster | None, session: bytes, nonce: bytes
) -> bytes:
    """Randomness for :func:`draw_groups`: the session id of a round over the whole ``cohort``, before any keys.

    ``task`` is the one over all clients, ``roster`` lists everyone who is enrolled (None without identities),
    ``session`` names the round, and ``nonce`` is 32 random bytes that the server draws once roster and cohort
    stand. The server tells clients cohort and nonce, and each computes the draw for itself; it holds the roster and
    the round, so bytes of another round give other groups. ``ConfigError`` for a nonce of another length, or for a
    session, a cohort or a task that is not one.
    """
    if not is_a(task, Task):
        raise ConfigError(f"got {shown(task)} as task; expected a secagg.Task over all clients")
    plain = _plain(nonce)
    if plain is None or len(plain) != NONCE_BYTES:
        raise ConfigError(f"got nonce={shown(nonce)}; expected {NONCE_BYTES} random bytes, as of os.urandom")
    return session_id(
        task=task.digest,
        roster=roster_digest(_checked(roster)),
        session=check_session(session),
        nonce=plain,
        cohort=sorted(_ids(cohort)),
    )


def group_task(task: Task, count: int, *, min_survivors: int | None = None, roster: Roster | None = None) -> Task:
    """The task that each of ``count`` groups runs, for a ``task`` over all clients.

    ``max_clients`` is the size of the largest group. ``min_survivors`` is by default the task's share of the
    smallest group, rounded up. c stays what it is for all clients, because the draw may put every colluder into
    one group: ``corruption`` is raised accordingly, and noise is calibrated to the honest rest of a single group.

    If the threat model is ``"malicious"``, c is counted over all enrolled: pass the ``roster``. ``corruption`` then
    stays as it is, and every group's roles get this same roster. Where it lists more colluders than was
    allowed for here, they refuse the group.

    ``ConfigError`` for groups whose floor is below c + 2 or that can't reach it, and for whatever the protocol or
    the encoding refuses in a task of this size.
    """
    if not is_a(task, Task):
        raise ConfigError(f"got {shown(task)} as task; expected a secagg.Task over all clients")
    groups = check_groups(count, task.max_clients)
    smallest, largest = task.max_clients // groups, -(-task.max_clients // groups)
    corrupt = corrupt_among(task.protocol, task.max_clients, _checked(roster))
    share = Fraction(smallest * task.min_survivors, task.max_clients)
    floor = math.ceil(share) if min_survivors is None else whole(min_survivors)
    if floor is None or floor < corrupt + 2:
        raise ConfigError(
            f"got min_survivors={shown(min_survivors) if floor is None else floor} for groups of {smallest} to "
            f"{largest}, with {corrupt} clients possibly corrupt, all of them perhaps in one group; expected at "
            f"least {corrupt + 2}, so that no group opens for one honest client: make fewer groups, raise "
            "min_survivors, or lower corruption if fewer can collude"
        )
    if floor > smallest:
        raise ConfigError(
            f"got min_survivors={floor} for groups of {smallest} to {largest}; expected at most {smallest}: make "
            "fewer groups"
        )
    honest = 1 if task.shows_terms else floor - corrupt
    with blaming(ConfigError, "got an encoding that can't be made for groups"):
        encoding = task.encoding.for_task(
            max_clients=largest, honest=honest, corrupt=corrupt, shows_terms=task.shows_terms
        )
    protocol = _with_corrupt(task.protocol, corrupt, largest)
    return dataclasses.replace(task, protocol=protocol, encoding=encoding, max_clients=largest, min_survivors=floor)


def likelihood(clients: int, count: int, liars: int, bad: int) -> float:
    """The probability that ``liars`` of ``clients``, drawn into ``count`` groups, are in at most ``bad`` of them.

    Exact: the draws that leave all but ``bad`` groups free of liars are counted, by inclusion and exclusion, over
    groups of the two sizes of :func:`draw_groups`. It holds for liars that are enrolled before anybody knows the
    randomness. ``ConfigError`` for numbers that don't fit, and for so many clients and groups that to count their
    draws would take minutes or years.
    """
    numbers = [whole(number) for number in (clients, count, liars, bad)]
    everyone, groups, lying, most = (-1 if number is None else number for number in numbers)
    if not 1 <= groups <= everyone <= MAX_CLIENTS or not 0 <= lying <= everyone or most < 0:
        raise ConfigError(
            f"got {shown(liars)} liars of {shown(clients)} clients in {shown(count)} groups, {shown(bad)} of "
            "them bad; expected no more groups, and no more liars, than clients"
        )
    if most >= min(groups, lying):
        return 1.0
    size, larger = divmod(everyone, groups)
    digits = (math.lgamma(everyone + 1) - math.lgamma(lying + 1) - math.lgamma(everyone - lying + 1)) / math.log(2)
    terms = (min(most, larger) + 1) * (min(most, groups - larger) + 1)
    if terms * max(digits, 1.0) ** 2 > _MOST_WORK:
        raise ConfigError(
            f"got {lying} liars of {everyone} clients in {groups} groups, {most} of them bad; expected fewer "
            "clients, groups or liars: to count these draws would take too long"
        )
    ways = 0
    for first in range(min(most, larger) + 1):  # groups of size + 1
        for second in range(min(most - first, groups - larger) + 1):  # groups of size
            left, others = most - first - second, groups - first - second
            inside = math.comb((size + 1) * first + size * second, lying)
            placed = math.comb(larger, first) * math.comb(groups - larger, second) * inside
            ways += (-1) ** left * math.comb(others - 1, left) * placed
    return float(Fraction(ways, math.comb(everyone, lying)))


def simulate_groups(
    task: Task,
    updates: Mapping[str, Any],
    groups: Groups,
    *,
    weights: Mapping[str, int] | None = None,
    dropouts: Mapping[str, str] | None = None,
    budgets: Mapping[str, Budget] | None = None,
    session: bytes = b"simulation",
) -> list[Simulation | Aborted]:
    """Run one session a group, all in this process: for each group its outcome, or why it was aborted.

    ``task`` is the group's (:func:`group_task`), and ``session`` is the name of every group's session. The other
    arguments are those of :func:`secagg.simulate`, by id, and every id of ``updates`` is in one of ``groups``. A
    deployment has one server object a group instead, on one transport. ``ConfigError`` for ids that don't fit, and
    as :func:`secagg.simulate` raises, but for ``Aborted``.
    """
    with blaming(ConfigError, "got arguments that can't be read; expected groups, and dicts by client id"):
        if not is_a(updates, (Mapping,)) or not all(is_a(group, list | tuple) for group in _listed(groups)):
            raise ConfigError(
                "got arguments of another type; expected groups of draw_groups, and a dict of updates"
            )
        members = sorted(party for group in groups for party in group)
        clients = sorted(islice(updates, MAX_CLIENTS + 1))
        strangers = {*(weights or ()), *(dropouts or ()), *(budgets or ())} - set(clients)
    if members != clients or strangers:
        raise ConfigError(
            "got groups, weights, dropouts or budgets that are not of the clients of updates; expected "
            "draw_groups(updates, ...), and ids of updates"
        )
    outcomes: list[Simulation | Aborted] = []
    for group in groups:
        try:
            outcomes.append(
                simulate(
                    task,
                    _of(group, updates),
                    weights=None if weights is None else _of(group, weights),
                    dropouts=_of(group, dropouts or {}),
                    budgets=None if budgets is None else _of(group, budgets),
                    session=session,
                )
            )
        except Aborted as aborted:
            outcomes.append(aborted)
    return outcomes


def _plain(data: object) -> bytes | None:
    """``data`` as bytes, whose length is the true one; None unless it is of that type."""
    with blaming(ConfigError, "got bytes that can't be read"):
        return bytes(memoryview(data)) if is_a(data, bytes) else None


def _checked(roster: Roster | None) -> Roster | None:
    """``roster``; ``ConfigError`` unless it is one, or None."""
    if roster is not None and not is_a(roster, Roster):
        raise ConfigError(f"got {shown(roster)} as roster; expected a secagg.identity.Roster, or None")
    return roster


def _ids(cohort: Iterable[str]) -> list[str]:
    """The ids of a cohort; ``ConfigError`` unless they are ids, each once."""
    with blaming(ConfigError, "got a cohort that can't be read; expected the clients' ids"):
        ids = [check_party_id(party) for _, party in zip(range(MAX_CLIENTS + 1), cohort, strict=False)]
    if len(set(ids)) != len(ids):
        raise ConfigError("got a cohort that lists an id twice; every client is in one group")
    return ids


def _listed(groups: object) -> Sequence[Any]:
    """``groups``; ``ConfigError`` for anything but a list or a tuple, which has an end."""
    if not is_a(groups, list | tuple):
        raise ConfigError(f"got {shown(groups)} as groups; expected what draw_groups returned")
    return cast("Sequence[Any]", groups)


def _of(group: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """What ``values`` has for the members of ``group``."""
    return {party: values[party] for party in group if party in values}


def check_groups(count: object, clients: int) -> int:
    """``count`` as an int; ``ConfigError`` unless it is a number of groups for so many clients."""
    groups = whole(count)
    if groups is None or not 1 <= groups <= clients:
        raise ConfigError(
            f"got {shown(count)} groups of {clients} clients; expected an integer from 1 to {clients}"
        )
    return groups


def _with_corrupt(protocol: AggregationProtocol, corrupt: int, clients: int) -> AggregationProtocol:
    """``protocol`` with the corruption that comes to ``corrupt`` in groups of ``clients``, and of one fewer."""
    if protocol.corruption is None or protocol.threat_model == "malicious":
        return protocol
    parameters: Any = protocol  # a frozen dataclass, as every protocol is
    with blaming(ConfigError, f"got {protocol.name}, whose corruption can't be set for groups"):
        changed: AggregationProtocol = dataclasses.replace(
            parameters, corruption=float((corrupt + _NEARLY) / clients)
        )
    return changed
