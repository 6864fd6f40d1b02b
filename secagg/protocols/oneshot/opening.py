"""How a sum is opened from sums of key shares, some of which may be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from he.errors import HEError
from mpc import packed
from secagg.errors import Aborted
from secagg.protocols.oneshot.parameters import KEY_SIZE

if TYPE_CHECKING:
    from he.kahe import Scheme


@dataclass(frozen=True)
class Opened:
    """The sums of a session's segments, and the places of the members whose answers differ from what opened them.

    ``liars`` are those of them that are certainly wrong.
    """

    sums: Sequence[NDArray[np.int64]]
    differing: tuple[int, ...]
    liars: tuple[int, ...]


def open_sum(
    scheme: Scheme,
    committee: packed.Committee,
    *,
    total: bytes,
    answers: Mapping[int, bytes],
    count: int,
    public: bytes,
    executor: Executor | None,
) -> Opened:
    """Open ``total``, the encrypted sum of ``count`` clients, by the members' ``answers``, by place.

    Wrong answers that agree with each other can look like a majority, so agreement does not decide which sum of
    keys is right: the check of the opening does. It looks at the errors, the guards and the fields of the encrypted
    sum. Candidates come with the most agreeing answers first, so the first is nearly always right. Every other one
    is tried on a part of the vector before the whole. ``Aborted`` if none opens the sum.
    """
    settled = False
    for number, candidate in enumerate(packed.recover(committee, scheme.degree, answers)):
        settled |= candidate.settled
        if not candidate.fits(KEY_SIZE * count):
            continue
        with suppress(HEError):
            if number == 0 or scheme.opens(total, candidate.secret, count, public):
                sums = scheme.open(total, candidate.secret, count, public, executor)
                return Opened(sums, candidate.differing, candidate.liars)
    if settled:
        raise Aborted(
            "the sum of the keys that were dealt does not open the sum of the inputs: a client encrypted under "
            "another key than it dealt, and nothing says which. Open a new session for each half of the cohort, "
            "and go on with a half whose sum opens"
        )
    raise Aborted(
        f"no {committee.threshold} of the {len(answers)} sums of key shares open the sum of the inputs: too many "
        "members gave wrong ones, or a client encrypted under another key than it dealt. Open a new session with "
        "all members, or for each half of the cohort"
    )
