"""The client's side of a session."""

from __future__ import annotations

import hashlib
import os
from typing import Any, TypeVar

import msgspec
from numpy.typing import NDArray

from mpc.keys import encode_parts, seeded_rng
from secagg import _warnings
from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError, SecAggError, words
from secagg.identity import PartyRole
from secagg.roles.member import SEED_BYTES, Member
from secagg.roles.state import ClientState, pack_segments
from secagg.roles.turn import atomic

AnyClientState = TypeVar("AnyClientState", bound=ClientState)


class Client(Member[AnyClientState]):
    """A client: contributes one update, and gets no result.

    Call :meth:`~secagg.roles.Member.receive` for each message until the client is ``finished``, and ``contribute``
    at any time before the input is asked for. Its constructor is that of :class:`secagg.roles.Member`.
    """

    role = PartyRole.CLIENT

    def prepare(self) -> None:
        """See :meth:`Member.prepare`."""
        if self.context.environment.budget is not None:
            self._state = msgspec.structs.replace(self._state, budgeted=True)

    def contribute(self, update: Any, weight: int | None = None) -> None:
        """Encode ``update`` (a structure of the task's layout), and keep only the integers.

        ``weight`` is an integer from 1 to the task's ``max_weight``, if it has one. The ledger gets a hash of the
        vector: no other vector is accepted under the same task and session. Raises ``EncodingError`` for an update
        that does not fit the task, and ``LocalProtocolError`` at the wrong time.

        This method may run in a thread of its own: ``receive`` and all other calls go on while the update is
        encoded. The encoded update is then taken as if the call had begun at that moment. ``LocalProtocolError`` is
        raised if by then the session has ended, the input has left, the server has proposed another session, or
        another thread has contributed a different update. The same update again changes nothing.
        """
        self._keep(*self._prepared(update, weight))

    def answer(self, request: bytes | memoryview, update: Any, weight: int | None = None) -> bytes | None:
        """``contribute`` the update, then ``receive`` the request for it, with one save of the state for both.

        This method is for a caller that trains when the input is asked for. ``request`` is the server's message,
        ``update`` and ``weight`` are those of :meth:`contribute`. Its answer and its errors are those of the two
        calls. The update is kept even if the request is refused. If the process ends before the save, the ledger
        has the update and the state does not: then only the same update is accepted.
        """
        vectors, hashed, session = self._prepared(update, weight)
        return self._answer_with(request, vectors, hashed, session)

    def _prepared(self, update: Any, weight: int | None) -> tuple[list[bytes], bytes, bytes]:
        """The encoded update, its SHA-256, and the session's name."""
        seed, session = self._open_for_input()
        vectors = pack_segments(self._encoded(update, weight, seed, session))
        hashed = hashlib.sha256()
        for segment in vectors:
            hashed.update(segment)
        return vectors, hashed.digest(), session

    @atomic
    def _open_for_input(self) -> tuple[bytes, bytes]:
        """This role's seed and the session's name, if an update may come now."""
        return self._state.seed, self._check_open_for_input()

    def _check_open_for_input(self, expected: bytes | None = None) -> bytes:
        if self._ended or self._state.step > self._input_step:
            how = "was given up" if self._state.aborted else "has this client's input, or a commitment to it"
            raise LocalProtocolError(f"got an update after the session {how}; the next one needs a new session")
        session = self._session
        if session is None:
            raise LocalProtocolError(
                "got an update before the session is known: pass session= when the client is made, or "
                "contribute after its first receive() and a look at client.session"
            )
        if expected is not None and session != expected:
            raise LocalProtocolError(
                f"got an update for session {expected!r:.80}, and the server has proposed {session!r:.80} "
                "in the meantime; look at client.session, then contribute again"
            )
        return session

    def _encoded(self, update: Any, weight: int | None, seed: bytes, session: bytes) -> list[NDArray[Any]]:
        """The update's segments. It runs without the lock, so it reads nothing that changes."""
        task = self.context.task
        flat = task.layout.flatten(update)
        try:
            with _warnings.about(self.id):
                return task.encoder_for(session).encode(
                    flat,
                    layout=task.layout,
                    weight=weight,
                    max_weight=task.max_weight,
                    # The session id may not be known yet, so the session's name keeps the streams apart.
                    rng=seeded_rng(seed, salt=task.digest, info=encode_parts("secagg/v1/rounding", session)),
                )
        except SecAggError:
            raise
        except Exception as error:  # another package's encoding raises its own errors
            raise EncodingError(words(error)) from error

    @atomic
    def _keep(self, vectors: list[bytes], hashed: bytes, session: bytes) -> None:
        self._take_input(vectors, hashed, session)

    @atomic
    def _answer_with(
        self, request: bytes | memoryview, vectors: list[bytes], hashed: bytes, session: bytes
    ) -> bytes | None:
        before, self._batch = self._state, []
        try:
            self._take_input(vectors, hashed, session)
            return self._receive(request)
        finally:
            self._batch = None
            if self._state is not before:
                self._save_all(before)

    def _save_all(self, before: AnyClientState) -> None:
        """Save what a batch changed since ``before``; if that fails, nothing has changed."""
        self._state.number += 1
        try:
            self._save(self._state, [None])
        except BaseException:
            self._take_back()
            self._state = before
            raise
        self._added.clear()

    def _take_input(self, vectors: list[bytes], hashed: bytes, session: bytes) -> None:
        """Add the encoded update to the newest state."""
        self._check_open_for_input(session)
        state = self._state
        if state.contributed == hashed:
            return
        if state.contributed:
            raise LocalProtocolError("got a second update for one session; the first one stands")
        try:
            self.context.claim(hashed, "contribution", self.context.task.digest, session)
        except Aborted as clash:
            raise LocalProtocolError(
                f"got another update than the ledger has for session {session!r:.80}; "
                "restore the state saved after contribute, or leave this session out"
            ) from clash
        self._commit(msgspec.structs.replace(state, session=session, contribution=vectors, contributed=hashed))

    @property
    @atomic
    def contributed(self) -> bool:
        """Whether this client has an update for this session that is still needed."""
        return bool(self._state.contributed)

    @property
    def _input_step(self) -> int:
        return next(i for i, phase in enumerate(self._phases) if phase.commits_input or phase.takes_input)

    def erase(self, draft: AnyClientState) -> None:
        """Forget the seed and the update."""
        super().erase(draft)
        draft.contribution, draft.contributed = [], b""

    def check_restored(self) -> None:
        """See :meth:`Member.check_restored`."""
        if self._state.budgeted and self.context.environment.budget is None:
            raise ConfigError(
                "got the state of a client with a budget, and no budget; pass budget= the ledger that it was made "
                "with, such as dp.PrivacyLedger.open(path, ...)"
            )
        if self._ended or self.context.environment.ledger is not None:
            return
        if self._state.step:
            raise LocalProtocolError(
                "got a client past its first answer without a ledger, so nothing keeps it from a second, different "
                "answer; pass save= a store that has a ledger, or leave this session out"
            )
        # The state may be older than answers that the client has sent since. With other keys it is another party.
        self._state = msgspec.structs.replace(self._state, seed=os.urandom(SEED_BYTES))
