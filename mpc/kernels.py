"""The decorator that compiles the loops of a package above. Importing this module loads Numba."""

from mpc._compiling import kernel

__all__ = ["kernel"]
