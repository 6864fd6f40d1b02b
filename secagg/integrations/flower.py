"""Secure aggregation in Flower, without changing the strategy.

Write ``ClientApp(mods=[client_mod(task)])`` in the ClientApp, and ``strategy.start(grid=SecureGrid(grid, task),
...)`` in the ServerApp, or let a :class:`SecureClientApp` do both. A train broadcast then becomes a session of the
task's protocol, and the strategy gets one reply, which holds the weighted mean. ``docs/flower.md`` says what stays
visible.
"""

from secagg.errors import ConfigError

try:
    import flwr  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"the package {error.name}, which this module needs, is not installed: "
        "pip install 'secagg[flower]', or pip install flwr"
    ) from error

from secagg.integrations._flower_app import SecureClientApp
from secagg.integrations._flower_client import client_mod
from secagg.integrations._flower_records import layout_of
from secagg.integrations._flower_server import SecureGrid
from secagg.integrations._shared.hosted import hosted
from secagg.integrations._shared.metrics import with_metrics

__all__ = ["SecureClientApp", "SecureGrid", "client_mod", "hosted", "layout_of", "with_metrics"]
