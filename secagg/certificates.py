"""A private certificate authority and a server's certificate, for operators who have none from a public one."""

import datetime as dt
import ipaddress
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from secagg._numbers import whole
from secagg.errors import ConfigError, blaming, shown

#: The most days for which a certificate holds.
MOST_DAYS = 3650
_MOST_NAMES = 100
_SKEW = dt.timedelta(hours=1)  # by which a client's clock may be late
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")


def write_certificates(names: Iterable[str], folder: str | os.PathLike[str], days: int = 365) -> Path:
    """Write ``ca.crt``, ``server.crt`` and ``server.key`` (mode 0600) into ``folder``; returns its path.

    ``names`` are the host names and IP addresses under which clients reach the server. The certificates are valid
    for ``days`` days. The authority's key is not kept, so it can't sign for anybody else: to renew, make both
    anew.

    Raises ``ConfigError`` before anything is written for a name or number of days that can't be, or if one of the
    files exists.
    """
    alternatives = _alternatives(names)
    valid = whole(days)
    if valid is None or not 1 <= valid <= MOST_DAYS:
        raise ConfigError(f"got {shown(days)} days; expected an integer from 1 to {MOST_DAYS}")
    with blaming(ConfigError, f"got {shown(folder)} as a folder"):
        where = Path(folder)
    files = [where / name for name in ("ca.crt", "server.crt", "server.key")]
    if taken := [str(path) for path in files if path.exists()]:
        raise ConfigError(f"got {', '.join(taken)}, which exist; choose another folder, no file is overwritten")
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    authority = _Authority(ca_key, now - _SKEW, now + dt.timedelta(days=valid))
    signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    ca = authority.certify(authority.name, ca_key.public_key(), x509.BasicConstraints(True, 0), signs)
    server = authority.certify(
        _name("secagg server"),
        key.public_key(),
        x509.BasicConstraints(False, None),
        x509.KeyUsage(True, False, False, False, False, False, False, False, False),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName(alternatives),
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    where.mkdir(parents=True, exist_ok=True)
    for path, data, mode in zip(files, (ca, server, secret), (0o644, 0o644, 0o600), strict=True):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    return where


class _Authority:
    """Signs certificates with one key, all valid for the same time."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, start: dt.datetime, end: dt.datetime) -> None:
        self._key, self._start, self._end = key, start, end
        # Each has a name of its own, so that clients can trust an old and a new one at a time.
        self.name = _name(f"secagg authority {secrets.token_hex(8)}")

    def certify(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType
    ) -> bytes:
        """A certificate of ``public`` in PEM."""
        builder = x509.CertificateBuilder(
            self.name, subject, public, x509.random_serial_number(), self._start, self._end
        )
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in (*extensions, x509.SubjectKeyIdentifier.from_public_key(public), signer):
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _alternatives(names: Iterable[str]) -> Sequence[x509.GeneralName]:
    listed = [_alternative(name) for _, name in zip(range(_MOST_NAMES + 1), names, strict=False)]
    if not 1 <= len(listed) <= _MOST_NAMES:
        raise ConfigError(f"got no name, or too many; expected 1 to {_MOST_NAMES} host names or IP addresses")
    return listed


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not isinstance(name, str) or not _HOST.match(name) or name.replace(".", "").isdigit():
            raise ConfigError(
                f"got {shown(name)}; expected a host name such as agg.example.org, or an IP address"
            ) from None
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
