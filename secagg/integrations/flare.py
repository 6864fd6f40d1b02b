"""Secure aggregation in NVFlare, without changing the training script.

Write ``secured(FedAvgRecipe, TASK, roster="roster.json")(...)`` with the recipe's own arguments. By hand it is
``aggregator=SecureAggregator(TASK, ...)`` and ``recipe.add_client_output_filter(SecureFilter(TASK),
tasks=["train"])``. ``docs/nvflare.md`` says what stays visible.
"""

from secagg.errors import ConfigError

try:
    import nvflare  # noqa: F401
except ImportError as error:
    raise ConfigError(
        f"the package {error.name}, which this module needs, is not installed: "
        "pip install 'secagg[nvflare]', or pip install nvflare"
    ) from error

from secagg.integrations._flare_server import SecureAggregator
from secagg.integrations._flare_site import SecureFilter
from secagg.integrations._shared.hosted import hosted
from secagg.integrations._shared.metrics import with_metrics

__all__ = ["SecureAggregator", "SecureFilter", "hosted", "with_metrics"]
