"""Multi-party computation: secret sharing, mask streams and the keys that they come from.

This package knows nothing of federated learning. Import the module that is wanted
(``from mpc import shamir``); nothing heavy is loaded before that.
"""

from mpc.errors import MPCError

__distribution__ = "secagg/mpc"  # by which secagg knows its own: others install a package 'mpc' too

__all__ = ["MPCError"]
