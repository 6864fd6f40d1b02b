"""The client of the service: :func:`secagg.connect` for a training loop, ``secagg member`` for other parties.

The core (:mod:`secagg.remote.core`, :mod:`secagg.remote.member`) has no sockets, threads or clock: it says
which request to send and takes the answer. Drivers carry the requests, blocking or with asyncio.
"""

from secagg.remote.aclient import AsyncOffer, AsyncRemote, aconnect
from secagg.remote.client import Offer, Remote, connect
from secagg.remote.member import RemoteMember
from secagg.remote.offers import Contribution, Transfer
from secagg.remote.settings import Event, Progress, Settings

__all__ = [
    "AsyncOffer",
    "AsyncRemote",
    "Contribution",
    "Event",
    "Offer",
    "Progress",
    "Remote",
    "RemoteMember",
    "Settings",
    "Transfer",
    "aconnect",
    "connect",
]
