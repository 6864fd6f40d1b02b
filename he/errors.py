"""The errors of this package, under one root."""

INSTALL = "pip install 'secagg[he]', or pip install tenseal zstandard phe gmpy2"
"""How to install the packages that this one needs; for the errors that name a missing package."""


class HEError(ValueError):
    """A key, parameter, plaintext or ciphertext that this package can't use. The message says what was expected."""


class CiphertextError(HEError):
    """A ciphertext that must not be added to a sum."""


class OpenError(HEError):
    """A sum that is not opened, because its form is wrong or some slot is not a possible sum."""
