"""A certificate for tests, which signs itself, and what a client needs to trust it."""

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_certificate(folder: Path, host: str = "localhost") -> tuple[Path, Path]:
    """The paths of a certificate for ``host`` and 127.0.0.1, and of its key; each PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(1)
    addresses = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now - day, now + day)
    builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    certificate, secret = folder / "server.crt", folder / "server.key"
    certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, secret


def trusting(certificate: Path) -> ssl.SSLContext:
    """A client's context that trusts ``certificate`` alone."""
    return ssl.create_default_context(cafile=certificate)
