"""Secure aggregation in NVFlare, without changing the training script.

Write ``secured(FedAvgRecipe, TASK, roster="roster.json")(...)`` with the recipe's own arguments. By hand it is
``aggregator=SecureAggregator(TASK, ...)`` and ``recipe.add_client_output_filter(SecureFilter(TASK),
tasks=["train"])``. In a Collab job, derive the two objects from :class:`SecureClient` and :class:`SecureServer`.
``docs/nvflare.md`` says what stays visible.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from secagg.errors import ConfigError

try:
    from nvflare.app_common.utils.math_utils import parse_compare_criteria
    from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
    from nvflare.client.config import TransferType
    from nvflare.collab import collab
    from nvflare.collab.api.decorators import get_object_publish_interface
    from nvflare.recipe.fedavg import FedAvgRecipe
    from nvflare.recipe.spec import Recipe
except ImportError as error:
    raise ConfigError(
        f"the package {error.name}, which this module needs, is not installed: "
        "pip install 'secagg[nvflare]', or pip install nvflare"
    ) from error

from secagg.integrations._flare_server import SecureAggregator, SecureFedAvg, SecureServer
from secagg.integrations._flare_site import MODEL, REQUEST, SERVER, STACK, SecureFilter
from secagg.integrations._flare_ways_out import NoShell, check_shell
from secagg.integrations._shared.digests import arguments_digest, arrays_of
from secagg.integrations._shared.hosted import hosted
from secagg.integrations._shared.metrics import check_model, metrics_of, with_metrics
from secagg.integrations._shared.party import RefusalError
from secagg.integrations._shared.settings import read_settings
from secagg.integrations._shared.site import Site
from secagg.integrations._shared.statements import read, refuse, task_text, write
from secagg.layout import Layout
from secagg.task import Task

__all__ = [
    "NoShell",
    "SecureAggregator",
    "SecureClient",
    "SecureFedAvg",
    "SecureFilter",
    "SecureServer",
    "hosted",
    "layout_of",
    "secured",
    "with_metrics",
]

log = logging.getLogger("secagg.nvflare")

_PUBLISHED = {"secagg_message"}
_NUMPY = "numpy_key"  # the name that NVFlare gives to a model that is one array
_TF = "{}_nvf_{}"  # the name that NVFlare gives to an array of a Keras layer
_REFUSED = {
    "FedAvgRecipeWithHE": "gives every site one secret key; use the plain recipe",
    "CyclicRecipe": "passes the model of one site on to the next",
    "SwarmLearningRecipe": "lets a site aggregate in place of the server",
    "BaseSwarmLearningRecipe": "lets a site aggregate in place of the server",
    "ScaffoldRecipe": "sends control terms beside the model",
    "FedOptRecipe": "aggregates by another controller than FedAvg",
}
_UNSUPPORTED = {
    "aggregator": "secured brings its own aggregator",
    "aggregation_weights": "nobody sees single updates; give the task a max_weight, and sites send their weights",
    "exclude_vars": "all arrays of the layout are in the sum; leave them out of the model that the script returns",
}
_SECRETS = ("PRIVATE KEY", "secagg-key", "secagg-he-key")


class SecureClient:
    """A Collab client whose updates leave its site only in the secure sum.

    Write ``class Client(SecureClient)`` with a method ``train(self, model, ...)`` that returns the trained model
    and its metrics, as in a plain job, but without ``@collab.publish``. The server's ``aggregate(model, ...)``
    calls it with the same arguments by name. ``CollabRecipe(client=Client(TASK), server=Server(TASK), ...)``.

    - ``task``: a :class:`secagg.Task`, or base64 of its bytes, as a job's JSON has it.
    - ``metrics``: name → bound, as in :class:`SecureServer`.
    - ``weighted_by``: the name of the metric that is the integer weight, if the task has a ``max_weight``.

    A subclass with a constructor of its own calls this one. The site's settings are read on the site and never from
    the job: see ``docs/nvflare.md``. ``ConfigError`` if a subclass publishes a method, because the server could
    call it past the protocol.
    """

    def __init__(
        self,
        task: Task | str,
        metrics: Mapping[str, float] | None = None,
        weighted_by: str = "num-examples",
    ) -> None:
        bare, self.task = task_text(task, None)
        self._full, self.metrics = with_metrics(bare, metrics), None if metrics is None else dict(metrics)
        self.weighted_by = weighted_by
        self._site: Site | None = None
        self._training = threading.Lock()
        self._newest = -1
        if published := sorted(set(get_object_publish_interface(type(self))) - _PUBLISHED):
            raise ConfigError(
                f"got @collab.publish at {', '.join(published)} of {type(self).__name__}, so that the server could "
                "ask a single client for values; remove the decorator: secagg calls train"
            )

    def train(self, model: Any, **request: Any) -> tuple[Any, Mapping[str, Any]]:
        """Train; run by the site. Returns the whole model, under the names of ``model``, and metrics by name.

        ``request`` are the other arguments with which the server calls ``aggregate``.
        """
        raise NotImplementedError(f"write {type(self).__name__}.train(self, model, ...)")

    @collab.init  # type: ignore[untyped-decorator]
    def secagg_open(self) -> None:
        """Read the site's settings, and compile kernels; run by NVFlare."""
        try:
            name, local = str(collab.site_name), collab.workspace.get_site_config_dir()
            check_shell(self._full, local, collab.fl_ctx)
            settings = read_settings(name, local)
            self._site = Site(
                self._full,
                name,
                stack=STACK,
                run=str(collab.fl_ctx.get_job_id()),
                settings=settings,
                weighted_by=self.weighted_by,
            )
        except Exception as error:  # NVFlare would end the job, also for the other sites
            log.warning("secagg: this site can't take part: %s: %s", type(error).__name__, error)

    @collab.final  # type: ignore[untyped-decorator]
    def secagg_close(self) -> None:
        """Release the site's files; run by NVFlare."""
        if self._site is not None:
            self._site.close()

    @collab.publish  # type: ignore[untyped-decorator]
    def secagg_message(self, message: dict) -> dict:  # type: ignore[type-arg]
        """The answer to a message of the server, which may ask for a training; nothing of an update is in it."""
        if collab.caller != SERVER:
            return refuse("got a call from another site; only the server plays sessions")
        site, run = self._site, str(collab.fl_ctx.get_job_id())
        if site is None:
            return refuse("this site can't take part with its settings; its log says why")
        if isinstance(message, Mapping) and MODEL in message:
            return site.refusing(lambda: self._train(site, run, dict(message)))
        return site.answer(message)

    def _train(self, site: Site, run: str, message: dict[str, Any]) -> dict[str, Any]:
        """Train, and keep what the training returns in this site."""
        model, request = message.pop(MODEL), message.pop(REQUEST, {})
        number = read(message, self._full).number
        self._newest = max(self._newest, number)
        with self._training:  # a site that is late goes on with the newest round
            if number < self._newest:
                raise RefusalError("got the model of an earlier round, and this site was training until now")
            training = site.take(number, arrays_of(model), arguments_digest(STACK, run, model, request))
            site.party.check()
            result = self.train(model, **request)
            if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
                raise RefusalError("got a result of train that is not a model and its metrics; return both")
            after, metrics = result
            site.keep(training, arrays_of(after), metrics)
        return write(self._full, number=number)


def layout_of(model: Any) -> Layout:
    """The layout, for the task, of ``model`` as its recipe takes it.

    A PyTorch module, a Keras model, arrays by name, or one array, as for ``NumpyFedAvgRecipe``.
    """
    return Layout.of(_arrays(model))


def _arrays(model: Any) -> dict[str, Any]:
    if callable(getattr(model, "state_dict", None)):
        return dict(model.state_dict())
    if callable(getattr(model, "get_weights", None)) and hasattr(model, "layers"):
        layers = {layer.name: layer.get_weights() for layer in model.layers}
        return {_TF.format(name, i): array for name, arrays in layers.items() for i, array in enumerate(arrays)}
    return dict(model) if isinstance(model, Mapping) else {_NUMPY: np.asarray(model)}


def secured(
    recipe: type[Any],
    task: Task | str,
    *,
    roster: str | None = None,
    metrics: Mapping[str, float] | None = None,
    parties: Mapping[str, str] | None = None,
    deadlines: float | Mapping[str, float] = 60.0,
    training_seconds: int = 0,
) -> type[Any]:
    """``recipe``, a FedAvg recipe of NVFlare, with this library's filter, aggregator and controller.

    What it returns is called with the recipe's own arguments. ``task``, ``roster``, ``metrics``, ``parties`` and
    ``deadlines`` are those of :class:`SecureAggregator`, and ``training_seconds`` is that of :class:`SecureFedAvg`.
    The recipe's ``key_metric`` and ``stop_cond`` see the mean of a metric that is in the sum. Metrics that a script
    writes for experiment tracking stay in the sites.

    ``ConfigError`` for a recipe or an argument that needs more than the mean, or that does not fit the task.
    """
    _check_recipe(recipe)
    if type(training_seconds) is not int or training_seconds < 0:
        raise ConfigError(f"got training_seconds={training_seconds!r}; expected whole seconds, or 0 for no limit")
    full, _ = task_text(task, metrics)
    common: dict[str, Any] = {"roster": roster, "parties": parties, "deadlines": deadlines}
    _check_secrets(common)
    SecureAggregator(full, **common)  # to refuse here what does not fit

    class Secured(recipe):  # type: ignore[misc]
        __doc__ = recipe.__doc__

        def __init__(self, **arguments: Any) -> None:
            key_metric = _check_arguments(arguments, full)
            mode = arguments.get("key_metric_mode") or _mode(arguments.get("stop_cond"), key_metric)
            aggregator = SecureAggregator(full, **common, key_metric=key_metric, key_metric_mode=mode)
            # NVFlare's selector looks for metrics in the results of single sites; the aggregator has them later.
            super().__init__(**{**arguments, "aggregator": aggregator, "key_metric": ""})
            self._job.job.set_app_packages([*self._job.job.app_packages, "secagg", "he", "mpc", "dp"])
            self._job.convert_to_fed_event = ConvertToFedEvent(events_to_convert=[])  # no metric of a site
            self._is_final = False

        def _create_controller(self, *arguments: Any, **named: Any) -> Any:
            controller = super()._create_controller(*arguments, **named)
            return SecureFedAvg.of(controller, training_seconds=training_seconds)

        def _apply_per_site_config(self, config: dict[str, dict[str, Any]]) -> None:
            _check_sites(config, full)
            super()._apply_per_site_config(config)

        def finalize(self) -> None:
            """Add the filter, after all others; see NVFlare's ``Recipe``."""
            super().finalize()
            if not self._is_final:
                self._is_final = True
                self.add_client_output_filter(SecureFilter(full), tasks=["train"])

    Secured.__name__ = Secured.__qualname__ = f"Secure{recipe.__name__}"
    return Secured


def _check_recipe(recipe: Any) -> None:
    """``ConfigError`` unless this is a class of recipes whose aggregator can be replaced."""
    expected = "expected a FedAvgRecipe of NVFlare for NumPy, PyTorch or TensorFlow"
    if isinstance(recipe, Recipe):
        name = type(recipe).__name__
        raise ConfigError(
            f"got a {name} that is made already; pass the class, and give its arguments to the class that secured "
            f"returns: secured({name}, TASK)(...)"
        )
    name = getattr(recipe, "__name__", type(recipe).__name__)
    if not (isinstance(recipe, type) and issubclass(recipe, FedAvgRecipe)):
        raise ConfigError(f"got {name}, which {_REFUSED.get(name, 'is not a FedAvg recipe')}; {expected}")
    kinds = inspect.signature(recipe).parameters
    if "aggregator" not in kinds and not any(each.kind is each.VAR_KEYWORD for each in kinds.values()):
        raise ConfigError(
            f"got {name}, which takes no aggregator=, because its own reads the results of single sites; {expected}"
        )


def _has_secret(value: Any) -> bool:
    """Whether there are bytes or a key in a value that a job's JSON can hold."""
    if isinstance(value, Mapping):
        return any(map(_has_secret, (*value.keys(), *value.values())))
    if isinstance(value, list | tuple):
        return any(map(_has_secret, value))
    return isinstance(value, bytes | bytearray) or (
        isinstance(value, str) and any(secret in value for secret in _SECRETS)
    )


def _check_secrets(arguments: Mapping[str, Any], where: str = "") -> None:
    for name, value in arguments.items():
        if _has_secret(value):
            raise ConfigError(
                f"got {name}={where} with bytes or a key, which the job would carry to the server; put keys into "
                "the site's own settings, secagg.json in its folder local"
            )


def _check_arguments(arguments: Mapping[str, Any], task: Task) -> str:
    """The key metric, empty if none rides; ``ConfigError`` for arguments that don't fit the task or the mean."""
    for name, reason in _UNSUPPORTED.items():
        if arguments.get(name) is not None:
            raise ConfigError(f"got {name}= for a secured recipe: {reason}")
    _check_transfer(arguments.get("params_transfer_type", TransferType.FULL), "for all sites")
    _check_secrets(arguments)
    count, least, most = arguments.get("min_clients"), task.min_survivors, task.max_clients
    if type(count) is int and not least <= count <= most:
        raise ConfigError(
            f"got min_clients={count}; the task needs {least} to {most}, from its min_survivors to its max_clients"
        )
    riding = metrics_of(task)
    key_metric = arguments.get("key_metric", "accuracy")
    stop = _stop_metric(arguments.get("stop_cond"))
    for name, metric in (("key_metric", arguments.get("key_metric")), ("stop_cond", stop)):
        if metric and metric not in riding:
            raise ConfigError(
                f"got {name}= on {metric!r}, which is not in the sum, so the server does not see it; name it "
                f"with its bound: secured(..., metrics={{{metric!r}: 1.0}})"
            )
    if arguments.get("model") is not None and not isinstance(arguments["model"], dict):  # a dict may be a class
        check_model(_arrays(arguments["model"]), task)
    return key_metric if key_metric in riding else ""


def _check_sites(config: Mapping[str, Mapping[str, Any]], task: Task) -> None:
    """``ConfigError`` for settings of single sites that don't fit the mean, or with which a job could steer."""
    for site, own in config.items():
        _check_transfer(own.get("params_transfer_type") or TransferType.FULL, f"for {site}")
        _check_secrets(own, f" for {site}")
        if task.protocol.threat_model != "semi-honest" and own != next(iter(config.values())):
            raise ConfigError(
                "got a config for each site, which would let a job make all sites but one train on nothing; give "
                "all sites the same, and let the script find what is a site's own by flare.get_site_name()"
            )


def _stop_metric(stop_cond: Any) -> str | None:
    """The metric of a stop condition; ``ConfigError`` for a text that NVFlare does not read."""
    if not stop_cond:
        return None
    try:
        return str(parse_compare_criteria(str(stop_cond))[0])
    except ValueError as error:
        raise ConfigError(
            f"got stop_cond={stop_cond!r:.80}; expected a metric, a comparison and a number with single spaces, "
            "such as 'accuracy >= 0.9'"
        ) from error


def _check_transfer(kind: Any, where: str) -> None:
    if kind not in (TransferType.FULL, TransferType.FULL.value):
        raise ConfigError(
            f"got params_transfer_type={kind} {where}; secagg takes the difference itself: use TransferType.FULL"
        )


def _mode(stop_cond: str | None, key_metric: str) -> str:
    """As NVFlare: a stop condition on the key metric says whether less of it is better."""
    words = str(stop_cond or "").split()
    return "min" if words[:1] == [key_metric] and words[1:2] in (["<"], ["<="]) else "max"
