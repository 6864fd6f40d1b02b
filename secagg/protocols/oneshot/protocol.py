"""OneShot: each client sends one message, and a committee opens only the sum of the clients' one-time keys.

Client u encrypts its vector under a key s_u that it uses once: c_u = a·s_u + e_u + 2^w·x_u, where everyone computes
a from the session id (:mod:`he.kahe`). Keys and ciphertexts add up: Σ c_u is an encryption of Σ x_u under Σ s_u.
The client shares s_u among the members of a committee (:mod:`mpc.packed`), each of which adds up its shares of the
same clients. From enough such sums the server computes Σ s_u, and from that Σ x_u.

The set of clients is the same for all members because each gives its sum only for a set that a *quorum* signed:
⌊(m + c_m)/2⌋ + 1 of the m members, so that two quorums have an honest member in common if c_m are corrupt. A member
signs one set in a session. It keeps no key beyond the session, so there is none that a malformed message could
extract, and none that a later thief could use on recorded traffic.

One running sum is kept, so the set is that of all clients whose input was added; there is no round in which members
first say whose shares they hold. A member that did not get a client's share is lost to the session: deliver all of
what ``receive`` returns, again if need be. With ``recount=True`` inputs wait in a file until the members said whose
shares they hold, and only those are added of which enough members hold shares.

The parameters are in ``parameters``, the messages in ``messages``, the roles in ``client``, ``member`` and
``server``, with ``spool``, ``opening`` and ``states``; this module puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from secagg.identity import PartyRole
from secagg.protocols.oneshot.client import OneShotClient
from secagg.protocols.oneshot.member import CommitteeMember
from secagg.protocols.oneshot.messages import (
    Agreed,
    Collect,
    Held,
    KeyedInput,
    KeyedProposal,
    KeyShare,
    KeyShareSum,
    Recount,
    Release,
    SessionKey,
)
from secagg.protocols.oneshot.parameters import OneShotParameters
from secagg.protocols.oneshot.server import OneShotServer
from secagg.table import Phase, Proposal, Round

if TYPE_CHECKING:
    from secagg.roles.member import Member
    from secagg.roles.server import Server


@dataclass(frozen=True)
class OneShot(OneShotParameters):
    """One message from each client; a committee opens the sum of the clients' one-time keys, and nothing else.

    ``members`` decryptors are enrolled, of which ``corrupt_members`` may collude with the server. ``corruption`` is
    the fraction of clients that may: of everyone enrolled (``threat_model="malicious"``) or of the cohort
    (``"semi-honest"``: the server picks it honestly; rounds and quorum are the same). ``kem`` is what key shares
    are sealed by: "MLKEM768-X25519" (X-Wing), under which recorded traffic stays confidential against a quantum
    computer, or "X25519". ``recount=True`` adds a round before Agreement in which the members say whose key shares
    they hold. Until then the inputs are in a temporary file of the server, of the size of all of them. A client
    whose shares don't open is then left out, and costs nobody the session.

    Ideal functionality: the server learns which clients of the cohort sent their input, and the sum over them: at
    least ``min_survivors``, one input from each of as many enrolled clients, and one sum in a session. It also
    learns the sum of their one-time keys and errors, which does not depend on the inputs. The committee members
    learn which clients sent their input. The server with at most ``corrupt_members`` members and c clients learns
    no more than that; every opened sum holds at least ``min_survivors - c`` honest updates. With one member more it
    reads every update of the session. Clients learn the cohort and which members take part. An abort before
    SumOfKeys reveals nothing; after that, the server may have the sum, whatever it claims. A client can spoil the
    sum, and if its ciphertext is under another key than it dealt, nobody can say which client it was. A silent
    client is left out; of the members, all but ``needed`` may be silent.
    """

    ID: ClassVar[int] = 9
    #: Rounds with messages that depend on randomness of HPKE, which no seed governs.
    unseeded: ClassVar[tuple[str, ...]] = (Round.INPUT, Round.AGREEMENT, Round.SUM_OF_KEYS)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The table of rounds; Recount is in it if it is asked for."""
        return (
            Phase(Round.SESSION_KEY, PartyRole.DECRYPTOR, Proposal, SessionKey),
            Phase(
                Round.INPUT,
                PartyRole.CLIENT,
                KeyedProposal,
                KeyedInput,
                takes_input=True,
                reply_vectors=True,
                relay=PartyRole.DECRYPTOR,
                relayed=KeyShare,
            ),
            *([Phase(Round.RECOUNT, PartyRole.DECRYPTOR, Recount, Held)] if self.recount else []),
            Phase(Round.AGREEMENT, PartyRole.DECRYPTOR, Collect, Agreed),
            Phase(Round.SUM_OF_KEYS, PartyRole.DECRYPTOR, Release, KeyShareSum, reply_vectors=True),
        )

    @property
    def role_classes(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """The classes of the clients and the committee members."""
        return {PartyRole.CLIENT: OneShotClient, PartyRole.DECRYPTOR: CommitteeMember}

    @property
    def server(self) -> type[Server[Any]]:
        """The class of the server."""
        return OneShotServer
