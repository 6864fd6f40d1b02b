"""What goes wrong in this package, under one root."""


class DPError(ValueError):
    """A parameter, vector or budget that this package can't work with."""
