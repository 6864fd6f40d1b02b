"""Who rebuilds the secrets of :mod:`mpc.packed`, and what that fixes: points, columns and bytes."""

from dataclasses import dataclass

from mpc._mersenne import NUMBER_BYTES
from mpc._numbers import whole
from mpc.errors import MPCError
from mpc.masks import KEY_BYTES

#: The most members of a committee.
MAX_MEMBERS = 256

SEED_BYTES = KEY_BYTES
"""Bytes of the shares of the first c members."""

MASK_COLUMNS = 5
"""Columns of masks in a share, and combinations in a proof."""

_MAX_LENGTH = 2**31 - 8  # a sum of so many products still fits the kernels


@dataclass(frozen=True, slots=True)
class Committee:
    """Who rebuilds: ``members`` in all, m, at most 256, of whom ``corrupt``, c, at least 1, may collude.

    Raises :class:`MPCError` if the committee is too small to rebuild anything: it needs at least c + 1 members. In
    the functions here, ``committee`` is the one that the dealers shared with; all parties of a session have an
    equal one.
    """

    members: int
    corrupt: int

    def __post_init__(self) -> None:
        members, corrupt = whole(self.members), whole(self.corrupt)
        if members is None or corrupt is None:
            kinds = f"{type(self.members).__name__} and {type(self.corrupt).__name__}"
            raise MPCError(f"got a committee of {kinds}; expected two integers: its members, and the corrupt ones")
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "corrupt", corrupt)
        if corrupt < 1 or not corrupt < members <= MAX_MEMBERS:
            raise MPCError(
                f"got a committee of {members} members, {corrupt} of them corrupt; expected at least 1 corrupt "
                f"member, more members than that, and at most {MAX_MEMBERS}"
            )

    @property
    def per_column(self) -> int:
        """Secrets in a column, k: m - 3c, at least 1."""
        return max(1, self.members - 3 * self.corrupt)

    @property
    def threshold(self) -> int:
        """Answers that rebuild, r = k + c."""
        return self.per_column + self.corrupt

    @property
    def naming_threshold(self) -> int:
        """Answers that must agree before a member that differs is named, r + c.

        At least r of them are right, so they agree on the right polynomial and on no other.
        """
        return self.threshold + self.corrupt

    @property
    def proof_bytes(self) -> int:
        """Bytes of a dealer's proof."""
        return NUMBER_BYTES * MASK_COLUMNS * self.threshold

    def columns(self, length: int) -> int:
        """Columns of a dealing of ``length`` secrets, without those of masks.

        Raises :class:`MPCError` unless ``length`` is an integer from 1 to 2^31 - 8.
        """
        count = whole(length)
        if count is None or not 1 <= count <= _MAX_LENGTH:
            raise MPCError(f"got {length} secrets; expected 1 to {_MAX_LENGTH}")
        return -(-count // self.per_column)

    def share_bytes(self, length: int, place: int) -> int:
        """Bytes of the share that the member at ``place`` gets of a dealing of ``length`` secrets."""
        if self.checked_place(place) < self.corrupt:
            return SEED_BYTES
        return NUMBER_BYTES * (self.columns(length) + MASK_COLUMNS)

    def answer_bytes(self, length: int) -> int:
        """Bytes of a member's share of the sum of dealings of ``length`` secrets."""
        return NUMBER_BYTES * self.columns(length)

    def checked_place(self, place: int) -> int:
        """``place`` as an int; :class:`MPCError` unless it is an integer from 0 to m - 1."""
        number = whole(place)
        if number is None or not 0 <= number < self.members:
            raise MPCError(f"got place {place}; expected 0 to {self.members - 1}, the place of a member")
        return number
