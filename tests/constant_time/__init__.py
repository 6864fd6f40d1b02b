"""Whether a branch, an address or the time of a kernel depends on a secret: ``make constant-time``."""
