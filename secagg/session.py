"""The session id, which names one aggregation, and what it is computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mpc.keys import encode_parts
from secagg._numbers import is_a
from secagg.errors import ConfigError, blaming, shown
from secagg.identity import Roster
from secagg.merkle import merkle_root

#: Random bytes of the server in a session id.
NONCE_BYTES = 32
#: The most bytes of the name of a session.
MAX_SESSION_BYTES = 1024


@dataclass(frozen=True)
class Advertised:
    """The part of the session id about U1, the clients that advertised keys.

    ``count`` is |U1|. ``root`` is the Merkle root over their signed adverts, as received, sorted by id. The other
    fields are for sparse graphs, which are drawn from the session id, and in which a client sees the adverts of its
    neighbours only. ``present`` is a bitmap of U1 over the cohort, because the adverts that a client does not see
    can't tell it who sent them. One more value must be unknown until U1 is fixed: ``graph_nonce``, 32 bytes that
    the server draws only then, or ``beacon_output``, a round of a public beacon and its value.
    """

    count: int
    root: bytes
    present: bytes = b""
    graph_nonce: bytes = b""
    beacon_output: tuple[int, bytes] | None = None

    @classmethod
    def of(cls, adverts: Sequence[bytes]) -> Advertised:
        """For a protocol in which every client sees all ``adverts``: signed, as received, sorted by id."""
        return cls(len(adverts), merkle_root(adverts))

    def parts(self) -> list[bytes]:
        """The byte strings that enter the session id, in order."""
        parts = [self.count.to_bytes(8, "big"), self.root]
        parts += [extra for extra in (self.present, self.graph_nonce) if extra]
        if self.beacon_output is not None:
            parts += [self.beacon_output[0].to_bytes(8, "big"), self.beacon_output[1]]
        return parts


def session_id(
    *,
    task: bytes,
    roster: bytes,
    session: bytes,
    nonce: bytes,
    cohort: Sequence[str],
    advertised: Advertised | None = None,
) -> bytes:
    """The 32-byte session id. Every party computes it itself, and never takes it from a message.

    ``task`` and ``roster`` are digests. ``session`` is the caller's name for this aggregation (the round number,
    the hash of the model that was sent), ``nonce`` the server's 32 random bytes, and ``cohort`` the sorted ids that
    the server chose; thresholds may depend on their number. ``advertised`` is None until clients have advertised
    keys. From then on the id depends on each client's own fresh keys, so no message of another session is valid.
    """
    parts = [b"secagg/v1/session", task, roster, session, nonce, _encoded(tuple(cohort))]
    if advertised is not None:
        parts += advertised.parts()
    return hashlib.sha256(encode_parts(*parts)).digest()


def one_list(ids: Sequence[str]) -> list[str]:
    """A list of ``ids`` that all roles of this process with the same ids share: never change it.

    Ten thousand simulated clients that each keep a cohort of ten thousand would not fit into memory.
    """
    return _listed(tuple(ids))


@lru_cache(maxsize=2)
def _listed(ids: tuple[str, ...]) -> list[str]:
    return list(ids)


@lru_cache(maxsize=2)
def _encoded(ids: tuple[str, ...]) -> bytes:
    return encode_parts(*ids)


def check_session(session: object) -> bytes:
    """``session`` as bytes; ``ConfigError`` unless it is bytes, at most :data:`MAX_SESSION_BYTES`.

    ``b""`` is a valid name, and differs from None.
    """
    if not is_a(session, bytes):
        raise ConfigError(f"got session={shown(session)}; expected bytes, such as b'round 3'")
    with blaming(ConfigError, "got a session whose bytes can't be read"):
        plain = bytes(memoryview(session))  # NumPy's bytes are a subclass
    if len(plain) > MAX_SESSION_BYTES:
        raise ConfigError(f"got a session of {len(plain)} bytes; at most {MAX_SESSION_BYTES}: hash it")
    return plain


def roster_digest(roster: Roster | None) -> bytes:
    """The digest of ``roster``; 32 zero bytes if it is None."""
    return bytes(hashlib.sha256().digest_size) if roster is None else roster.digest


def draw(rng: Callable[[int], bytes], count: int) -> bytes:
    """``count`` bytes from ``rng``; ``ConfigError`` if it returns anything else."""
    with blaming(ConfigError, f"rng did not return {count} bytes; expected os.urandom, or rng_for_tests in tests"):
        data = rng(count)
    if not is_a(data, bytes) or len(data) != count:
        raise ConfigError(f"rng did not return {count} bytes; expected os.urandom, or rng_for_tests in tests")
    return data
