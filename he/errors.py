"""What goes wrong in this package, under one root."""

INSTALL = "pip install 'secagg[he]', or pip install tenseal zstandard phe gmpy2"
"""What errors tell those to do who lack a package."""


class HEError(ValueError):
    """A key, plaintext or ciphertext that this package can't work with."""


class CiphertextError(HEError):
    """A ciphertext that must not be added to a sum."""


class OpenError(HEError):
    """A sum that must not be opened, or whose opening is not shown: some slot is no possible sum."""
