"""Which party calls: by a token that it signed, or by one that the service gave it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from typing import NamedTuple

from secagg.api.problems import Kind, Problem
from secagg.api.tokens import Callers, TokenError, new_token, token_hash
from secagg.errors import ConfigError, choice
from secagg.identity import AUTHS
from secagg.service.database import Database
from secagg.service.run import Run

_CACHED = 1 << 14
_JOINED = 16  # times the clients of a session: as many may join where anyone may
_BELIEVED = 60.0  # seconds until the database is asked again: the token may have been replaced


class Caller(NamedTuple):
    """A party that has shown its token, and the run of the task that the token is for."""

    run: Run
    party: str


class Doors:
    """Finds the party of a request from its ``Authorization`` header, for each task in the way it chose.

    - ``"roster"``: tokens that parties sign with the keys that the roster lists.
    - ``"tokens"``: random tokens that the operator gave out, one to each client; the database has their hashes.
    - ``"open"``: the same tokens, which anyone gets who asks.
    """

    def __init__(self, database: Database, url: str) -> None:
        self._database, self._url = database, url
        self._signed: dict[str, Callers] = {}
        self._known: dict[bytes, tuple[str, float]] = {}  # of tokens that were given out: whose, and until when

    def add(self, run: Run) -> None:
        """Let the parties of ``run`` in; ``ConfigError`` if the task needs a roster and has none."""
        hosted = run.hosted
        choice("auth", hosted.auth, AUTHS)
        if (hosted.auth == "roster") != (hosted.roster is not None):
            raise ConfigError(
                f"got auth={hosted.auth!r} and {'no ' if hosted.roster is None else 'a '}roster; expected a roster "
                "exactly for auth='roster', and 'tokens' or 'open' for clients without identities"
            )
        if hosted.roster is not None:
            self._signed[run.key] = Callers(hosted.roster, self._url, run.task.digest)

    def party(self, run: Run, header: str | None) -> str:
        """The id of the caller; ``Problem`` if it has no valid token for this task."""
        signed = self._signed.get(run.key)
        try:
            return signed.party(header) if signed is not None else self._given(run, header)
        except TokenError as error:
            raise Problem(Kind.UNAUTHORIZED, str(error)) from error

    def _given(self, run: Run, header: str | None) -> str:
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > 64:
            raise TokenError("got no bearer token; ask the operator for one")
        hashed, now = token_hash(token), time.monotonic()
        name = run.task.digest + hashed
        known = self._known.get(name)
        if known is not None and now < known[1]:
            return known[0]
        party = self._database.token_party(run.task.digest, hashed)
        if party is None:
            raise TokenError("got a token that this service did not give out")
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[name] = party, now + _BELIEVED
        return party

    async def join(self, run: Run) -> tuple[str, str]:
        """A new client's id and token; ``Problem`` if so many have joined that most can't be clients."""
        joined = await asyncio.to_thread(self._database.count_tokens, run.task.digest)
        if joined >= _JOINED * run.task.max_clients:
            raise Problem(Kind.OVERLOADED, retry_after=3600.0)
        token = new_token()
        party = f"c{hashlib.sha256(secrets.token_bytes(16)).hexdigest()[:16]}"
        await asyncio.to_thread(self._database.add_token, run.task.digest, party, token_hash(token))
        return party, token
