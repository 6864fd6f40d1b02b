"""Transports over TCP between processes and threads of one machine, without any authentication."""

import contextlib
import queue
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path

SECONDS = 20.0  # to wait for a party before a test fails


def _write(connection: socket.socket, message: bytes) -> None:
    connection.sendall(len(message).to_bytes(4, "big") + message)


def _read(connection: socket.socket) -> bytes:
    return _exactly(connection, int.from_bytes(_exactly(connection, 4), "big"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


class Listener:
    """The server's side. ``received`` has all that each party sent.

    ``send`` waits for a party that has not left to be connected, so that nothing is lost with the server's process.
    """

    def __init__(self, folder: Path) -> None:
        self.received = defaultdict[str, list[bytes]](list)
        self._folder, self._inbox = folder, queue.Queue[tuple[str, bytes]]()
        self._messages = defaultdict[str, list[bytes]](list)
        self._connected: dict[str, socket.socket] = {}
        self._news = threading.Condition()
        self._socket = socket.create_server(("127.0.0.1", 0))
        (folder / "port.new").write_text(str(self._socket.getsockname()[1]))
        (folder / "port.new").replace(folder / "port")
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            party = _read(connection).decode()
            with self._news:
                for message in self._messages[party]:
                    _write(connection, message)
                self._connected[party] = connection
                self._news.notify_all()
            try:
                while True:
                    message = _read(connection)
                    self.received[party].append(message)
                    self._inbox.put((party, message))
            finally:
                with self._news:
                    if self._connected.get(party) is connection:
                        del self._connected[party]
                    self._news.notify_all()

    def send(self, party: str, message: bytes) -> None:
        with self._news:
            self._messages[party].append(message)
            patience = time.monotonic() + SECONDS
            while party not in self._connected and not (self._folder / f"{party}.left").exists():
                assert time.monotonic() < patience
                self._news.wait(0.02)
            if party in self._connected:
                with contextlib.suppress(OSError):
                    _write(self._connected[party], message)

    def receive(self, timeout: float) -> tuple[str, bytes]:
        return self._inbox.get(timeout=timeout)

    def close(self) -> None:
        """Wait until all parties have hung up."""
        with self._news:
            self._news.wait_for(lambda: not self._connected, SECONDS)
        self._socket.close()


class Caller:
    """The side of every other party: it connects again whenever the connection is lost."""

    def __init__(self, folder: Path, party: str) -> None:
        self._folder, self._party = folder, party
        self._connection: socket.socket | None = None

    def receive(self) -> bytes:
        patience = time.monotonic() + SECONDS
        while time.monotonic() < patience:
            try:
                if self._connection is None:
                    port = int((self._folder / "port").read_text())
                    self._connection = socket.create_connection(("127.0.0.1", port), SECONDS)
                    _write(self._connection, self._party.encode())
                return _read(self._connection)
            except (OSError, EOFError, ValueError):
                self.close()
                time.sleep(0.01)
        raise TimeoutError(self._party)

    def send(self, message: bytes) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):  # then the server sends its request again
                _write(self._connection, message)

    def leave(self) -> None:
        """Hang up for good."""
        (self._folder / f"{self._party}.left").touch()
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
