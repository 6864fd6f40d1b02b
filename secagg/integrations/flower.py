"""Secure aggregation in Flower, without changing the strategy.

In the ClientApp ``ClientApp(mods=[client_mod(task)])``, in the ServerApp
``strategy.start(grid=SecureGrid(grid, task), ...)``: a train broadcast becomes a session of the task's protocol,
and the strategy is given one reply that holds the weighted mean. ``docs/flower.md`` says what stays visible.
"""

from secagg.errors import ConfigError

try:
    import flwr  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"got no {error.name}, which this needs: pip install 'secagg[flower]', or pip install flwr"
    ) from error

from secagg.integrations._flower_client import client_mod
from secagg.integrations._flower_records import layout_of, with_metrics
from secagg.integrations._flower_server import SecureGrid
from secagg.integrations._hosted import hosted

__all__ = ["SecureGrid", "client_mod", "hosted", "layout_of", "with_metrics"]
