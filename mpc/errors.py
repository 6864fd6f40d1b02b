"""The one error of this package."""


class MPCError(ValueError):
    """An argument, share, key or ciphertext that can't be used. The message says what was expected."""
