"""The kit: what a party pins before it talks to a service.

It holds no secret, so anybody may read it. But a person who can change it decides what its party believes: it comes
on a channel that the server can't write to, or the party compares its fingerprint with the person who made it.
"""

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cryptography.x509 import load_pem_x509_certificates

from secagg._documents import Document, read_document, read_file, write_document
from secagg._numbers import is_a
from secagg.errors import ConfigError, blaming, choice, kind_of, shown
from secagg.identity import AUTHS, PartyRole, Roster, check_party_id
from secagg.registrar import check_registrar, read_roster, verify_roster
from secagg.store import ReadableLedger
from secagg.task import Task

_KIT = "a kit, as secagg kit writes it"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*\Z")
_USUAL_PORTS = {"https": ":443", "http": ":80"}
_LONGEST_URL = 1024
_MOST_CERTIFICATES = 16
_PIN = (
    "pin the registrar's public key (--registrar registrar.pub) or the digest of the roster (--roster-digest HEX), "
    "which secagg roster list prints"
)


class _Kit(Document, kw_only=True):
    version: Literal[1]
    party: str | None = None
    role: PartyRole
    url: str
    task: str
    auth: str = "roster"
    registrar: bytes | None = None
    roster: str | None = None
    trust: str | None = None
    ca: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """What one party pins: where the service is, what the party takes part in, and who vouches for the roster.

    ``party`` is its id; None with ``auth="open"``, where the server draws the id. ``role`` is what the party does
    in a session. ``url`` is the service's address, with ``http`` only on this machine. ``task`` and ``roster`` are
    SHA-256 digests in hexadecimal, and ``registrar`` is the registrar's public key (32 bytes). ``ca`` is PEM of the
    certificates to trust for the connection; None means the system's.

    With ``auth="roster"`` a party proves who it is by its key in the roster. ``"tokens"`` and ``"open"`` are for
    sessions without identities, which don't withstand a server that lies. A roster that comes on the server's word
    doesn't either: if neither ``registrar`` nor ``roster`` is pinned, ``trust="semi-honest"`` asks for that by
    name.

    Raises ``ConfigError`` for impossible fields, and for fields that contradict each other.
    """

    party: str | None
    role: PartyRole = PartyRole.CLIENT
    url: str
    task: str
    auth: str = "roster"
    registrar: bytes | None = None
    roster: str | None = None
    trust: str | None = None
    ca: str | None = None

    def __post_init__(self) -> None:
        role = choice("role", self.role, map(str, PartyRole))
        for name, value in (
            ("party", None if self.auth == "open" and self.party is None else check_party_id(self.party)),
            ("role", PartyRole(role)),
            ("url", check_url(self.url)),
            ("task", _digest("task", self.task)),
            ("auth", choice("auth", self.auth, AUTHS)),
        ):
            object.__setattr__(self, name, value)
        if self.registrar is not None:
            object.__setattr__(self, "registrar", check_registrar(self.registrar))
        if self.roster is not None:
            object.__setattr__(self, "roster", _digest("roster", self.roster))
        if self.ca is not None:
            _check_certificates(self.ca)
            if self.url.startswith("http://"):
                raise ConfigError(f"got ca, certificates to trust, and {self.url}, which has none; use https")
        if self.auth == "open" and self.party is not None:
            raise ConfigError(
                f"got party {self.party} with auth='open', where the server draws the ids; leave it out"
            )
        self._check_trust()

    def _check_trust(self) -> None:
        """``ConfigError`` unless it is clear who vouches for the roster, if there is one."""
        if self.trust is not None:
            choice("trust", self.trust, ["semi-honest"])
        if self.auth != "roster":
            if self._vouched or self.trust is not None:
                raise ConfigError(
                    f"got auth={self.auth!r}, under which there is no roster, with registrar, roster or trust; "
                    "leave these out, or use auth='roster'"
                )
        elif self._vouched and self.trust is not None:
            raise ConfigError(
                f"got trust={self.trust!r}, a roster on the server's word, and a pin of registrar or roster; choose"
            )
        elif not self._vouched and self.trust is None:
            raise ConfigError(
                f"got a kit in which nothing vouches for the roster; {_PIN}. A roster on the server's word "
                "withstands no server that lies: if it is enough, name it trust='semi-honest' (--trust)"
            )

    @property
    def _vouched(self) -> bool:
        return self.registrar is not None or self.roster is not None

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all fields, in hexadecimal: which the maker of the kit and its party compare."""
        return hashlib.sha256(b"secagg/v1/kit" + self.to_json().encode()).hexdigest()

    def check_task(self, task: Task) -> None:
        """``ConfigError`` unless ``task`` is the pinned one, and who vouches for the roster is enough for it."""
        if task.digest.hex() != self.task:
            raise ConfigError(
                f"got a task with digest {task.digest.hex()}; this kit pins {self.task}: ask the person who made it"
            )
        model = task.protocol.threat_model
        if model != "semi-honest" and not self._vouched:
            raise ConfigError(
                f"got a task of the {model} threat model and a kit in which nothing vouches for the roster; {_PIN}"
            )

    def check_roster(
        self,
        roster: str | bytes,
        signature: str | bytes | None,
        *,
        ledger: ReadableLedger,
        now: float | None = None,
    ) -> Roster:
        """The roster that the server sent, if what this kit pins vouches for it; see :func:`verify_roster`.

        ``ConfigError`` for any other, or if it doesn't list the party in its role.
        """
        if self.auth != "roster":
            raise ConfigError(f"got a roster with auth={self.auth!r}, under which there is none")
        if self._vouched:
            digest = None if self.roster is None else bytes.fromhex(self.roster)
            accepted = verify_roster(
                roster, signature, registrar=self.registrar, digest=digest, ledger=ledger, now=now
            )
        else:
            accepted = read_roster(roster)  # trust="semi-honest"
        entry = accepted.get(self.party or "")
        if entry is None or entry.role is not self.role:
            raise ConfigError(
                f"got a roster that doesn't list {self.party} as a {self.role}; ask the registrar to enrol it"
            )
        return accepted

    def to_json(self) -> str:
        """The kit as JSON text; the registrar's key is base64."""
        return write_document(
            _Kit(
                version=1,
                party=self.party,
                role=self.role,
                url=self.url,
                task=self.task,
                auth=self.auth,
                registrar=self.registrar,
                roster=self.roster,
                trust=self.trust,
                ca=self.ca,
            )
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> "Kit":
        """The kit that :meth:`to_json` wrote as ``text``.

        ``ConfigError`` for anything else, such as an unknown field.
        """
        file = read_document(text, _Kit, _KIT)
        return cls(
            party=file.party,
            role=file.role,
            url=file.url,
            task=file.task,
            auth=file.auth,
            registrar=file.registrar,
            roster=file.roster,
            trust=file.trust,
            ca=file.ca,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Kit":
        """The kit in the file at ``path``; ``ConfigError`` says what is wrong with it."""
        data = read_file(path, _KIT)
        try:
            return cls.from_json(data)
        except ConfigError as error:
            raise ConfigError(f"{error} (in {path})") from error


def check_url(url: object) -> str:
    """``url`` in one spelling; ``ConfigError`` unless it is ``https``, or ``http`` on this machine.

    Scheme and host are in lower case, and a slash at the end and the scheme's usual port are left out.
    """
    text = str.__str__(url) if is_a(url, str) else ""
    expected = "expected the service's address, such as https://agg.example.org:8443"
    if not 0 < len(text) <= _LONGEST_URL:
        raise ConfigError(f"got url {shown(url)}; {expected}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", "" if parts.port is None else f":{parts.port}"
    except ValueError as error:
        raise ConfigError(f"got url {shown(text)}: {error}; {expected}") from error
    inside = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/")
    plain = f"{parts.scheme}://{inside}{port}{path}"
    if not _is_host(host) or not _PATH.match(path) or text.rstrip("/").lower() != plain.lower():
        raise ConfigError(f"got url {shown(text)}; {expected}, without a user, query or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_here(host)):
        raise ConfigError(f"got url {shown(text)}; expected https (http only to this machine, such as localhost)")
    return f"{parts.scheme}://{inside}{'' if port == _USUAL_PORTS[parts.scheme] else port}{path}"


def _is_host(host: str) -> bool:
    named = _HOST.match(host) is not None and ".." not in host
    return named or (_address(host) is not None and "%" not in host)


def _is_here(host: str) -> bool:
    """Whether ``host`` is this machine by its name alone; no name is looked up."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _digest(name: str, value: object) -> str:
    text = str.__str__(value) if is_a(value, str) else ""
    if not _DIGEST.match(text):
        raise ConfigError(
            f"got {name}={shown(value)}; expected a SHA-256 digest, 64 hexadecimal digits in lower case"
        )
    return text


def _check_certificates(ca: object) -> None:
    """``ConfigError`` unless ``ca`` is PEM of a few certificates."""
    if not is_a(ca, str):
        raise ConfigError(f"got a {kind_of(ca)} as ca; expected certificates in PEM, such as the text of ca.crt")
    if "PRIVATE KEY" in ca:
        raise ConfigError("got a private key in ca; a kit holds no secret, so pass the certificate alone (ca.crt)")
    with blaming(
        ConfigError, "got ca that can't be read; expected certificates in PEM, such as the text of ca.crt"
    ):
        certificates = load_pem_x509_certificates(str.__str__(ca).encode())
    if len(certificates) > _MOST_CERTIFICATES:
        raise ConfigError(f"got {len(certificates)} certificates in ca; expected at most {_MOST_CERTIFICATES}")
