"""The roles of a session: what a user drives, and what the author of a protocol extends.

Each role is a state machine without I/O: bytes in, bytes out. ``Client``, ``Decryptor`` and ``Aggregator`` answer
the server; ``Server`` asks. A protocol subclasses them and fills in one table; see ``docs/extending.md``.
"""

from secagg.roles.client import Client
from secagg.roles.context import MemberContext, ServerContext
from secagg.roles.environment import Budget, Environment
from secagg.roles.handing_on import ForListener, Waiting
from secagg.roles.hooks import Handler, Listener, MemberHooks, Reply, ServerHooks, Step, method
from secagg.roles.incoming import Incoming
from secagg.roles.listener import Aggregator, Decryptor, FaultRecorder
from secagg.roles.member import SEED_BYTES, Member
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.roles.state import ClientState, ListenerState, MemberState, ServerState

__all__ = [
    "SEED_BYTES",
    "Aggregator",
    "Budget",
    "Client",
    "ClientState",
    "Decryptor",
    "Environment",
    "FaultRecorder",
    "ForListener",
    "Handler",
    "Incoming",
    "Listener",
    "ListenerState",
    "Member",
    "MemberContext",
    "MemberHooks",
    "MemberState",
    "Outbox",
    "Outcome",
    "Reply",
    "Server",
    "ServerContext",
    "ServerHooks",
    "ServerState",
    "Step",
    "Waiting",
    "method",
]
