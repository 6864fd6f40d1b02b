"""Multi-party computation: secret sharing, mask streams and keys.

This package knows nothing of federated learning. Import the module that you need
(``from mpc import shamir``). Compiled code is loaded when it first runs.
"""

from mpc.errors import MPCError

__distribution__ = "secagg/mpc"  # secagg checks it, since other distributions also install a package 'mpc'

__all__ = ["MPCError"]
