"""HPKE in base mode, opening alone, by the text of RFC 9180: sections 4, 4.1 and 5.1, with AES-256-GCM."""

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEM_IDS = {"X25519": b"\x00\x20", "MLKEM768-X25519": b"\x64\x7a"}
ENCAPSULATED = {"X25519": 32, "MLKEM768-X25519": 1120}


def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")


def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    out, block = b"", b""
    for counter in range(1, 10):
        block = hmac.digest(secret, block + labelled + bytes([counter]), "sha256")
        out += block
    return out[:length]


def decapsulate(kem: str, private: bytes, encapsulated: bytes) -> bytes:
    if kem == "X25519":
        key = X25519PrivateKey.from_private_bytes(private)
        shared = key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
        context = encapsulated + key.public_key().public_bytes_raw()
        suite = b"KEM" + KEM_IDS[kem]
        return expand(suite, extract(suite, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    expanded = hashlib.shake_256(private).digest(96)  # X-Wing, sections 5.2 to 5.5
    key = X25519PrivateKey.from_private_bytes(expanded[64:])
    of_lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64]).decapsulate(encapsulated[:1088])
    of_curve = key.exchange(X25519PublicKey.from_public_bytes(encapsulated[1088:]))
    joined = of_lattice + of_curve + encapsulated[1088:] + key.public_key().public_bytes_raw() + rb"\.//^\ "[:-1]
    return hashlib.sha3_256(joined).digest()


def open_sealed(kem: str, private: bytes, sealed: bytes, info: bytes) -> bytes:
    encapsulated, ciphertext = sealed[: ENCAPSULATED[kem]], sealed[ENCAPSULATED[kem] :]
    suite = b"HPKE" + KEM_IDS[kem] + b"\x00\x01" + b"\x00\x02"
    context = b"\x00" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
    secret = extract(suite, decapsulate(kem, private, encapsulated), b"secret", b"")
    key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, b"")
