"""The compiled loops of this package that kernels of a package above may call.

They validate nothing: their callers do. Importing this module loads Numba.
"""

from mpc import _aes as aes
from mpc._compiling import kernel

__all__ = ["aes", "kernel"]
