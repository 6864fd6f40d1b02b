"""A Collab server and its clients in one process, without a job: NVFlare's own apps and dispatch, and no cells."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.collab import collab
from nvflare.collab.api.app import ClientApp, ServerApp
from nvflare.collab.api.constants import FL_CONTEXT_PROP
from nvflare.collab.api.context import Context, set_call_context
from nvflare.collab.runtime.defs import CallHeaderKey, CallReplyKey, ObjectCallKey
from nvflare.collab.runtime.dispatch import _call_app_method
from nvflare.fuel.f3.cellnet.utils import new_cell_message
from nvflare.fuel.utils import fobs

import secagg
from secagg.identity import PartyRole
from secagg.integrations.flare import SecureClient, SecureServer
from secagg.keygen import write_identities
from tests.flare.federation import Engine
from tests.flare.scenes import SITES, VICTIM, update

MODEL = {"w": np.full((4, 5), 0.5, np.float32)}
METRICS = {"loss": 4.0}


def make_task(**changes: Any) -> secagg.Task:
    settings: dict[str, Any] = {
        "protocol": secagg.SecAgg(),
        "layout": secagg.Layout.of(MODEL),
        "encoding": secagg.FixedPoint(clip=1.0, bits=24),
        "max_clients": 4,
        "min_survivors": 3,
    }
    return secagg.Task(**settings | changes)


def change(site: str) -> Any:
    """What a site's training adds to the model, at a rate of 1."""
    return update(site)[: MODEL["w"].shape[0], : MODEL["w"].shape[1]]


class Client(SecureClient):
    def train(self, model: Any, rate: float = 1.0) -> Any:
        return {"w": (model["w"] + rate * change(collab.site_name)).astype(np.float32)}, {"loss": np.float32(2.0)}


class Server(SecureServer):
    @collab.main  # type: ignore[untyped-decorator]
    def run(self) -> None:
        """Not run: a test calls what it wants."""


class Site:
    """A client's app, and what has left it."""

    def __init__(self, folder: Path, name: str, client: Any, settings: Any) -> None:
        self.name, self.client, self.sent = name, client, list[bytes]()
        engine = Engine(folder / name, name, "job")
        if settings is not None:
            (folder / name / "local" / "secagg.json").write_text(json.dumps(settings))
        self.app = ClientApp(client)
        self.app.name, self.app._workspace = name, engine.workspace
        self.app.set_prop(FL_CONTEXT_PROP, engine.new_context())
        self.app.initialize(Context(self.app, name, name, None))

    def call(self, message: Any, caller: str = "server", method: str = "secagg_message") -> Any:
        """What NVFlare answers to a call: the method's result, or the error."""
        headers = {
            CallHeaderKey.AUTHENTICATED_CALLER: caller,
            CallHeaderKey.TARGET_NAME: f"{self.name}.client",
            CallHeaderKey.METHOD_NAME: method,
        }
        request = new_cell_message(headers, {ObjectCallKey.KWARGS: fobs.loads(fobs.dumps({"message": message}))})
        reply = _call_app_method(request, self.app, logging.getLogger("collab"))
        self.sent.append(fobs.dumps(dict(reply.payload)))
        return fobs.loads(self.sent[-1])


class Proxy:
    """The server's side of a site; ``tamper`` may change a message for this site."""

    def __init__(self, site: Site, tamper: Callable[[str, Any], None]) -> None:
        self.name, self.site, self.tamper = site.name, site, tamper

    def __call__(self, *, timeout: float, target: str | None) -> Proxy:
        return self

    def secagg_message(self, message: Any) -> Any:
        sent = fobs.loads(fobs.dumps(message))
        self.tamper(self.name, sent)
        answer = self.site.call(sent)
        if CallReplyKey.ERROR in answer:
            raise RuntimeError(answer[CallReplyKey.ERROR])
        return answer[CallReplyKey.RESULT]


class Federation:
    """Enrolled sites with a key and a folder, and a server; ``settings`` change what single sites have.

    ``hosts`` has decryptors, each with its site, which need not be one that trains.
    """

    def __init__(
        self,
        folder: Path,
        task: secagg.Task | None = None,
        tamper: Callable[[str, Any], None] = lambda site, message: None,
        settings: dict[str, Any] | None = None,
        client: Callable[..., Any] = Client,
        hosts: dict[str, str] | None = None,
        **named: Any,
    ) -> None:
        task, keys = task or make_task(), folder / "keys"
        roster = str(write_identities(SITES, keys))
        contents: dict[str, Any] = {
            name: {
                "secagg-key": f"{keys}/{name}.pem",
                "secagg-roster": roster,
                "secagg-dir": f"{folder}/{name}.dir",
            }
            for name in SITES
        }
        for party, name in (hosts or {}).items():
            write_identities([party], keys, PartyRole.DECRYPTOR)
            own = {
                "role": "decryptor",
                "secagg-key": f"{keys}/{party}.pem",
                "secagg-dir": f"{folder}/{party}.dir",
            }
            contents.setdefault(name, {"secagg-roster": roster})["parties"] = {party: own}
        self.sites = {}
        for name, content in contents.items():
            changed = (settings or {}).get(name, {})
            self.sites[name] = Site(
                folder, name, client(task, metrics=METRICS), None if changed is None else content | changed
            )
        self.settings = contents
        named["parties"] = hosts
        self.server = Server(task, roster=roster, metrics=METRICS, **named)
        engine, app = Engine(folder / "server", "server", "job"), ServerApp(self.server)
        app.name, app._workspace = "server", engine.workspace
        app.set_prop(FL_CONTEXT_PROP, engine.new_context())
        app._client_proxies = [Proxy(site, tamper) for site in self.sites.values()]
        context = Context(app, "server", "server", None)
        app.initialize(context)
        set_call_context(context)  # as in @collab.main


def steer(folder: Path) -> Any:
    """All sites but the victim are told to rest: the model that the server gets from a round."""

    def tamper(site: str, message: Any) -> None:
        if site != VICTIM and "request" in message:
            message["request"]["rate"] = 0.0

    return Federation(folder, tamper=tamper).server.aggregate(MODEL, rate=1.0)[0]


def call_the_victims_training(folder: Path) -> Any:
    """The model that the server gets if it calls a published training of one site."""

    class Published(Client):
        @collab.publish  # type: ignore[untyped-decorator]
        def train(self, message: Any) -> Any:
            return super().train(message)

    site = Federation(folder, client=Published).sites[VICTIM]
    model, _ = site.call(MODEL, method="train")["result"]
    return model


def has_the_victims_update(model: Any, sites: int = len(SITES)) -> bool:
    return bool(np.allclose(sites * (model["w"] - MODEL["w"]), change(VICTIM), rtol=0, atol=1e-4))
