"""Mistakes of a site, of a script or of the server: one line each that says what to set, and where.

What the site's own log says is in its own words; what leaves the site has nothing of its files and numbers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.shareable import Shareable
from nvflare.apis.workspace import Workspace
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer

from secagg.errors import Aborted, ConfigError
from secagg.integrations._shared.settings import read_settings
from secagg.integrations.flare import SecureFilter
from secagg.keygen import write_identities
from tests.flare.federation import Federation
from tests.flare.scenes import SITES, VICTIM, make_federation, make_task

Settings = dict[str, Any]


def without(*names: str) -> Callable[[Path, Settings], None]:
    def mistake(folder: Path, settings: Settings) -> None:
        for name in names:
            del settings[name]

    return mistake


def of_others(folder: Path, settings: Settings) -> None:
    """A key and a roster of another enrolment."""
    roster = write_identities(SITES, folder / "others")
    settings |= {"secagg-roster": str(roster), "secagg-key": str(folder / "others" / f"{VICTIM}.pem")}


def gone(folder: Path, settings: Settings) -> None:
    settings["secagg-key"] = str(folder / "gone.pem")


def of_another_site(folder: Path, settings: Settings) -> None:
    settings["secagg-key"] = str(folder / "keys" / "site-1.pem")


def unknown(folder: Path, settings: Settings) -> None:
    settings["secagg-keys"] = "x"


def in_the_folder(folder: Path, settings: Settings) -> None:
    settings["secagg-dir"] = "ledger"


def of_a_party_in_the_folder(folder: Path, settings: Settings) -> None:
    settings["parties"] = {"dec": {"role": "decryptor", "secagg-key": "dec.pem", "secagg-dir": "/dec"}}


NO_RESULT = "no result of the training; its log says why"
CANT = "this node can't take part with its config and files; its log says why"
# What is wrong in the settings; what the site's log says; what the server's says.
SETTINGS = {
    "no key": (
        without("secagg-key"),
        "got settings without secagg-key; set .* in secagg.json in the folder local .* SECAGG_SITE",
        NO_RESULT,
    ),
    "no roster": (without("secagg-roster"), "got settings without secagg-roster; set .* secagg.json", NO_RESULT),
    "neither": (without("secagg-key", "secagg-roster"), "without secagg-key and secagg-roster; set", NO_RESULT),
    "no folder": (without("secagg-dir"), "a malicious server, and a node without secagg-dir .*: set it", NO_RESULT),
    "another roster": (of_others, "", "got another roster; give the server and all parties the same"),
    "a key that is not there": (
        gone,
        "got no private key at .*gone.pem: .*; make one with secagg keygen",
        NO_RESULT,
    ),
    "another site's key": (
        of_another_site,
        r"not the one the roster lists for site-3; load .*\(site-3.pem\)",
        CANT,
    ),
    "an unknown setting": (
        unknown,
        "got settings .*secagg.json with secagg-keys; expected .* secagg-dir",
        NO_RESULT,
    ),
    "a folder in each job's own": (
        in_the_folder,
        "got settings .*secagg.json with secagg-dir='ledger'; expected an absolute path",
        NO_RESULT,
    ),
    "a party's key in each job's own": (
        of_a_party_in_the_folder,
        "got settings .*secagg.json with secagg-key='dec.pem'; expected an absolute path",
        NO_RESULT,
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_site_with_wrong_settings_sits_out_and_says_which(name: str, tmp_path: Path, caplog: Any) -> None:
    mistake, own, server = SETTINGS[name]
    federation = make_federation(tmp_path, mistake=mistake)
    federation.round(0)
    assert f"round 0 went on, without {VICTIM}: {server}" in caplog.text
    assert re.search(own, caplog.text)
    assert not [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]
    # NVFlare sends a site's errors to the server.
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert not [error for error in errors if str(tmp_path) in error]
    assert not any(str(tmp_path).encode() in data for data in federation.sites[VICTIM].sent)


def test_control_the_sites_own_log_has_the_path(tmp_path: Path, caplog: Any) -> None:
    make_federation(tmp_path, mistake=gone).round(0)
    assert [record.levelname for record in caplog.records if f"{tmp_path}/gone.pem" in record.getMessage()][:1] == [
        "WARNING"
    ]


def another_task(folder: Path) -> Federation:
    return make_federation(folder, filters=[SecureFilter(make_task(max_clients=5))])


def another_version(folder: Path) -> Federation:
    federation = make_federation(folder)
    victim, ask = federation.sites[VICTIM], federation.sites[VICTIM].ask
    newer = 1 << 16
    victim.ask = lambda topic, message: ask(
        topic, Shareable(dict(message) | {"version": message["version"] + newer})
    )  # type: ignore[method-assign]
    return federation


def with_model(change: Callable[[Any], Any]) -> Callable[[Path], Federation]:
    """The victim gets another model, as from a filter of the job on the way."""

    def make(folder: Path) -> Federation:
        federation = make_federation(folder)

        def tamper(site: str, request: Shareable) -> None:
            if site == VICTIM:
                request["DXO"]["data"] = {"numpy_key": change(request["DXO"]["data"]["numpy_key"])}

        federation.tamper = tamper
        return federation

    return make


def with_result(result: Callable[[], Shareable]) -> Callable[[Path], Federation]:
    return lambda folder: make_federation(folder, results={VICTIM: result})


def difference() -> Shareable:
    return DXO(DataKind.WEIGHT_DIFF, data={"numpy_key": np.zeros((4, 5))}).to_shareable()


def filter_after(folder: Path) -> Federation:
    return make_federation(folder, filters=[SecureFilter(make_task()), PercentilePrivacy()])


def no_filter(folder: Path) -> Federation:
    return make_federation(folder, filters=[PercentilePrivacy()])


ROUNDS: dict[str, tuple[Callable[[Path], Federation], str]] = {
    "another task": (
        another_task,
        "got another task; give the server and all parties the same task, with the same metrics",
    ),
    "another version": (
        another_version,
        r"got version \d\.\d; this side speaks \d\.\d: install one secagg everywhere",
    ),
    "another model": (
        with_model(lambda model: model + 1),
        "got another model, .*; use no filter that changes the model",
    ),
    "another shape": (
        with_model(np.ravel),
        r"array 'numpy_key' has shape \(20,\); the task's layout says \(4, 5\)",
    ),
    "a difference": (with_result(difference), "send the whole model, with params_transfer_type=TransferType.FULL"),
    "a filter after ours": (
        filter_after,
        "got filter PercentilePrivacy after SecureFilter, .*; put it before SecureFilter",
    ),
    "no filter": (
        no_filter,
        "without site-3: got a model in the clear; put SecureFilter last among the job's result filters",
    ),
}


@pytest.mark.parametrize("name", ROUNDS)
def test_a_site_that_does_not_fit_the_round_is_left_out_and_told_why(
    name: str, tmp_path: Path, caplog: Any
) -> None:
    make, line = ROUNDS[name]
    federation = make(tmp_path)
    federation.round(0)
    assert f"round 0 went on, without {VICTIM}: " in caplog.text
    assert re.search(line, caplog.text)


def test_three_sites_of_which_one_is_lost_are_too_few(tmp_path: Path, caplog: Any) -> None:
    filters = [SecureFilter(make_task()), PercentilePrivacy()]
    federation = make_federation(tmp_path, filters=filters, sites=SITES[:3])
    federation.round(0)
    assert (
        "round 0 aborted: got 2 sites for a sum; the task's min_survivors is 3: start more sites than that, so "
        f"that a round goes on when one is lost, without {VICTIM}: {NO_RESULT}"
    ) in caplog.text
    last = (
        f"2 rounds over one model failed; the last: round 1 aborted: got 2 sites .*, without {VICTIM}: {NO_RESULT}"
    )
    with pytest.raises(Aborted, match=last) as error:
        federation.round(1)
    assert error.value.__context__ is None  # NVFlare prints it with its traceback


def test_a_list_of_classes_without_ours_names_the_class_and_the_list(tmp_path: Path) -> None:
    """NVFlare checks a job without code of its own; an entry with a dot at its end allows the module."""
    resources = tmp_path / "local" / "resources.json"
    (tmp_path / "startup").mkdir()
    resources.parent.mkdir()
    component = {"path": "secagg.integrations.flare.SecureFilter", "args": {}}

    def check(allowed: list[str]) -> None:
        resources.write_text(json.dumps({"format_version": 2, "class_allow_list": allowed}))
        ComponentPathAuthorizer().authorize_component_config(component, workspace=Workspace(str(tmp_path)))

    with pytest.raises(
        UnsafeComponentError, match=r"'secagg.integrations.flare.SecureFilter' .* is not in allow_list"
    ):
        check(["nvflare."])
    check(["nvflare.", "secagg.integrations.flare."])


def test_a_link_to_settings_that_are_gone_is_not_a_site_without_settings(tmp_path: Path) -> None:
    (tmp_path / "secagg.json").symlink_to(tmp_path / "volume" / "secagg.json")
    with pytest.raises(ConfigError, match=r"got settings .*secagg\.json that can't be read"):
        read_settings("site-1", tmp_path)
    assert read_settings("site-1", tmp_path / "local") == {}
