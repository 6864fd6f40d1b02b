"""The base class of this package's errors."""


class DPError(ValueError):
    """A parameter, vector or budget that this package can't use. The message says what was expected."""
