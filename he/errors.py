"""What goes wrong in this package, under one root."""


class HEError(ValueError):
    """A key, plaintext or ciphertext that this package can't work with."""
