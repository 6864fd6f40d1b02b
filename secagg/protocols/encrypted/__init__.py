"""Paillier, CKKS and BFV: clients encrypt, the server adds up ciphertexts, a decryptor opens one sum."""

from secagg.protocols.encrypted.protocol import BFV, CKKS, Paillier

__all__ = ["BFV", "CKKS", "Paillier"]
