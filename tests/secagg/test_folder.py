"""A party's folder: roles that are restored or begin, and files that go when their session is over."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import Aborted, ConfigError, LocalProtocolError
from secagg.identity import PartyRole
from secagg.store import FileLedger, FileStore
from secagg.testing import Parties, Session, parties_for

NAME = b"round 1"


@pytest.fixture
def parties() -> Parties:
    return parties_for(secagg.SecAgg(threat_model="malicious"), 4)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[secagg.PartyFolder]:
    with secagg.PartyFolder(tmp_path / "c1") as opened:
        yield opened


def lent(parties: Parties, party: str) -> dict[str, Any]:
    return {"identity": parties.identities.get(party), "roster": parties.roster}


def files(path: Path) -> list[str]:
    return sorted(file.suffix for file in (path / "sessions").iterdir())


class Crash(BaseException):
    """The end of a process."""


def crash(*_: Any, **__: Any) -> None:
    raise Crash


def test_the_folder_is_its_owners_alone(tmp_path: Path, parties: Parties) -> None:
    path = tmp_path / "new" / "c1"
    with secagg.PartyFolder(path) as folder:
        folder.client(parties.task, "c1", session=NAME, **lent(parties, "c1"))
        modes = {each: stat.S_IMODE(each.stat().st_mode) for each in (path, *path.rglob("*"))}
    assert {mode for each, mode in modes.items() if each.is_dir()} == {0o700}
    assert {mode for each, mode in modes.items() if each.is_file()} == {0o600}
    assert len(modes) == 5


def test_a_second_process_is_refused(folder: secagg.PartyFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="open already"):
        secagg.PartyFolder(tmp_path / "c1")


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o770)
    with pytest.raises(ConfigError, match="replace the ledger"):
        secagg.PartyFolder(tmp_path / "shared")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="can't be made or read"):
        secagg.PartyFolder(tmp_path / "file")


@pytest.mark.parametrize("argument", ["save", "ledger"])
def test_the_folder_provides_store_and_ledger(folder: secagg.PartyFolder, parties: Parties, argument: str) -> None:
    with pytest.raises(ConfigError, match=f"got {argument}=, which the folder provides"):
        folder.client(parties.task, "c1", session=NAME, **{argument: object()})


@pytest.mark.parametrize(
    "protocol", [secagg.SecAgg(threat_model="malicious"), secagg.AdditiveShares(), secagg.BFV()]
)
def test_every_role_goes_on_after_every_message(tmp_path: Path, protocol: Any) -> None:
    """Each party's folder is closed and opened again before each message that it gets."""
    parties = parties_for(protocol, 4)
    session, task = Session(parties), parties.task
    folders = {party: secagg.PartyFolder(tmp_path / (party or "server")) for party in (*session.members, "")}

    def again(party: str) -> None:
        folders[party].close()
        folders[party] = opened = secagg.PartyFolder(tmp_path / (party or "server"))
        if not party:
            session.server = opened.server(task, parties.cohort, session=NAME, roster=parties.roster)
            return
        make = {
            PartyRole.CLIENT: opened.client,
            PartyRole.AGGREGATOR: opened.aggregator,
            PartyRole.DECRYPTOR: opened.decryptor,
        }[parties.roles[party]]
        key = parties.long_lived.get(party)
        session.members[party] = make(task, party, session=NAME, key=key, **lent(parties, party))

    for party in folders:
        again(party)
    for party in parties.cohort:
        session.contribute(party)
        assert folders[party].sessions(task, party) == [NAME]
    session.before_request = session.before_relay = lambda party, _: again(party)  # type: ignore[func-returns-value]
    outbox = session.server.start()
    while session.server.outcome is None:
        session.exchange(outbox)
        again("")
        session.exchange(session.server.start())  # it asks again, and gets the same bytes
        outbox = session.server.close_round()
    again("")
    expected = Session(parties)
    assert session.server.outcome is not None
    assert np.array_equal(session.server.outcome.sum["w"], expected.run().sum["w"])
    for party, opened in folders.items():
        with opened:
            opened.forget(session.members[party] if party else session.server)
            assert files(tmp_path / (party or "server")) == []
            assert opened.is_over(task, party or "server", NAME)
            assert opened.sessions(task, party or "server") == []


def played(folder: secagg.PartyFolder, parties: Parties, **how: Any) -> Session:
    """A session to its end, in which c1 is of ``folder``."""
    session = Session(parties, session=NAME, **how)
    session.members["c1"] = folder.client(parties.task, "c1", session=NAME, **lent(parties, "c1"))
    session.contribute("c1")
    return session


def test_a_finished_client_repeats_its_last_answer_until_its_session_is_forgotten(
    tmp_path: Path, parties: Parties
) -> None:
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        session = played(folder, parties)
        session.run()
        last = max(session.requests, key=lambda key: key[0] == "c1" and list(session.requests).index(key))
    with secagg.PartyFolder(tmp_path / "c1") as folder:  # the answer was lost with the process
        client = folder.client(parties.task, "c1", session=NAME, **lent(parties, "c1"))
        assert client.finished
        assert client.receive(session.requests[last]) == session.answers[last]
        folder.forget(client)
    with secagg.PartyFolder(tmp_path / "c1") as folder, pytest.raises(LocalProtocolError, match="over for c1 here"):
        folder.client(parties.task, "c1", session=NAME, **lent(parties, "c1"))


def test_a_state_that_is_put_back_is_not_taken(tmp_path: Path, parties: Parties) -> None:
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        session = played(folder, parties)
        shutil.copytree(tmp_path / "c1" / "sessions", tmp_path / "backup")
        folder.forget(session.members["c1"])
        assert files(tmp_path / "c1") == []
    shutil.copytree(tmp_path / "backup", tmp_path / "c1" / "sessions", dirs_exist_ok=True)
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        assert files(tmp_path / "c1") == []
        with pytest.raises(LocalProtocolError, match="over for c1 here"):
            folder.client(parties.task, "c1", session=NAME, **lent(parties, "c1"))


def test_a_crash_between_note_and_deletion_leaves_nothing(
    tmp_path: Path, parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        session = played(folder, parties)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", crash)
            with pytest.raises(Crash):
                folder.forget(session.members["c1"])
        assert files(tmp_path / "c1") == [".session", ".state"]
    with secagg.PartyFolder(tmp_path / "c1"):
        assert files(tmp_path / "c1") == []


def test_a_role_that_was_forgotten_saves_nothing_any_more(
    folder: secagg.PartyFolder, tmp_path: Path, parties: Parties
) -> None:
    session = played(folder, parties)
    request = session.server.start()["c1"]
    folder.forget(session.members["c1"])
    with pytest.raises(LocalProtocolError, match="its session is over"):
        session.members["c1"].receive(request)
    assert files(tmp_path / "c1") == []


def test_a_role_of_elsewhere_is_not_forgotten(folder: secagg.PartyFolder, tmp_path: Path, parties: Parties) -> None:
    session = Session(parties)
    store = FileStore(tmp_path / "state", ledger=folder.ledger)
    client = parties.task.client("c1", session=NAME, save=store, **lent(parties, "c1"))
    for role in (client, session.server):
        with pytest.raises(LocalProtocolError, match="did not make"):
            folder.forget(role)


def test_a_block_forgets_what_is_over_and_keeps_the_rest(
    folder: secagg.PartyFolder, tmp_path: Path, parties: Parties
) -> None:
    session = played(folder, parties)
    client = session.members["c1"]
    with folder.forgetting(client):
        session.until("MaskedInput")
    assert files(tmp_path / "c1") == [".session", ".state"]  # it is in the middle of its session
    session.until(None)
    with pytest.raises(OSError, match="disk"), folder.forgetting(client):
        raise OSError("the disk is full")
    assert client.finished
    assert files(tmp_path / "c1") == [".session", ".state"]
    with folder.forgetting(client):
        pass
    assert files(tmp_path / "c1") == []


def test_a_block_forgets_a_session_that_was_aborted(
    folder: secagg.PartyFolder, tmp_path: Path, parties: Parties
) -> None:
    session = played(folder, parties)
    with pytest.raises(Aborted), folder.forgetting(session.members["c1"]):
        raise Aborted("the server gave the session up")
    assert files(tmp_path / "c1") == []
    server = folder.server(parties.task, parties.cohort, session=NAME, roster=parties.roster)
    server.start()
    with folder.forgetting(server), pytest.raises(Aborted):
        server.close_round()
    assert files(tmp_path / "c1") == []
    assert folder.is_over(parties.task, "server", NAME)


def test_the_next_session_deletes_what_one_without_an_end_left(tmp_path: Path, parties: Parties) -> None:
    task, other = parties.task, parties.make_task(context=b"another run")
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        played(folder, parties)
        folder.client(other, "c1", session=NAME, **lent(parties, "c1"))
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        first = folder.client(task, "c1", session=b"round 2", **lent(parties, "c1"))
        assert folder.is_over(task, "c1", NAME)
        assert folder.sessions(task, "c1") == [b"round 2"]
        assert folder.sessions(other, "c1") == [NAME]  # of another task
        second = folder.client(task, "c1", session=b"round 3", **lent(parties, "c1"))
        assert folder.sessions(task, "c1") == [b"round 2", b"round 3"]  # the first is in use
        assert folder.client(task, "c1", session=b"round 2", **lent(parties, "c1")) is first is not second


def contributes(folder: secagg.PartyFolder, task: secagg.Task, parties: Parties) -> bytes:
    """Contribute, and answer a proposal; the integers that the client keeps."""
    client = folder.client(task, "c1", session=NAME, **lent(parties, "c1"))
    client.contribute({"w": np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)}, 3)
    return client.to_bytes()


def killed_after_the_claim(path: Path, task: secagg.Task, parties: Parties) -> None:
    """A client whose process ends between the ledger's claim of its update and the save of its state."""
    claim = FileLedger.claim

    def dying(ledger: FileLedger, entry: bytes, value: bytes) -> bytes:
        claim(ledger, entry, value)
        raise Crash

    with pytest.MonkeyPatch.context() as patch, secagg.PartyFolder(path) as folder:
        patch.setattr(FileLedger, "claim", dying)
        with pytest.raises(Crash):
            contributes(folder, task, parties)


def test_an_update_is_rounded_alike_after_a_crash_at_its_claim(tmp_path: Path, parties: Parties) -> None:
    task = parties.make_task(encoding=secagg.FixedPoint(clip=1.0, bits=16))
    assert task.encoding.rounding == "stochastic"  # type: ignore[attr-defined]
    killed_after_the_claim(tmp_path / "c1", task, parties)
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        assert contributes(folder, task, parties)


def test_control_without_the_first_save_the_client_has_lost_its_session(
    tmp_path: Path, parties: Parties, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = parties.make_task(encoding=secagg.FixedPoint(clip=1.0, bits=16))
    save = FileStore.__call__
    monkeypatch.setattr(FileStore, "__call__", lambda store, n, state: save(store, n, state) if n else None)
    lost = []
    for number in range(10):  # five numbers round alike twice in one of twelve tries
        killed_after_the_claim(tmp_path / str(number), task, parties)
        with secagg.PartyFolder(tmp_path / str(number)) as folder:
            try:
                contributes(folder, task, parties)
            except LocalProtocolError as error:
                lost.append(str(error))
    assert lost
    assert all("another update than the ledger has" in error for error in lost)


def test_a_damaged_state_is_named_and_the_next_session_goes_on(tmp_path: Path, parties: Parties) -> None:
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        played(folder, parties)
    (state,) = (tmp_path / "c1" / "sessions").glob("*.state")
    state.write_bytes(state.read_bytes()[:-1])
    with secagg.PartyFolder(tmp_path / "c1") as folder:
        with pytest.raises(ConfigError, match="damaged state"):
            folder.client(parties.task, "c1", session=NAME, **lent(parties, "c1"))
        folder.client(parties.task, "c1", session=b"round 2", **lent(parties, "c1"))
        assert not state.exists()


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    secagg.PartyFolder("~/c1").close()
    assert (tmp_path / "c1" / "ledger").exists()


def test_a_server_keeps_the_cohort_that_it_was_made_with(tmp_path: Path, parties: Parties) -> None:
    with secagg.PartyFolder(tmp_path) as folder:
        folder.server(parties.task, parties.cohort, session=NAME, roster=parties.roster).start()
    with secagg.PartyFolder(tmp_path) as folder:
        server = folder.server(parties.task, ["c1"], session=NAME, roster=parties.roster)
        assert server.start().keys() == set(parties.cohort)


def last_answers_are_lost(path: Path, parties: Parties, *, forget_finished: bool) -> secagg.Outcome:
    """Every client's process ends after its last answer, and the server's before it has saved the last round."""
    session, folders = Session(parties, session=NAME), {}
    for party in parties.cohort:
        folders[party] = secagg.PartyFolder(path / party)
        session.members[party] = folders[party].client(parties.task, party, session=NAME, **lent(parties, party))
        session.contribute(party)
    outbox = session.until(parties.protocol.phases[-1].round)
    session.exchange(outbox)
    for party, folder in folders.items():
        assert session.members[party].finished
        with folder:
            if forget_finished:
                folder.forget(session.members[party])
    session.restore_server(session.stores[""].state)
    for party, request in session.server.start().items():
        with secagg.PartyFolder(path / party) as folder:
            if not folder.is_over(parties.task, party, NAME):
                client = folder.client(parties.task, party, session=NAME, **lent(parties, party))
                session.server.receive(party, client.receive(request) or b"")
    session.server.close_round()
    assert session.server.outcome is not None
    return session.server.outcome


def test_last_answers_that_are_lost_are_repeated(tmp_path: Path, parties: Parties) -> None:
    outcome = last_answers_are_lost(tmp_path, parties, forget_finished=False)
    assert np.array_equal(outcome.sum["w"], Session(parties).run().sum["w"])
    assert outcome.faults == ()


def test_control_forgotten_as_soon_as_finished_the_session_is_lost(tmp_path: Path, parties: Parties) -> None:
    with pytest.raises(Aborted, match="nothing is opened"):
        last_answers_are_lost(tmp_path, parties, forget_finished=True)
