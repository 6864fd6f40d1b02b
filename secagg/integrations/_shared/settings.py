"""What a site's operator has set, in a file on the site."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from secagg.errors import ConfigError
from secagg.identity import Roster, load_roster
from secagg.task import Task

_SETTINGS = "secagg.json"
_PLACE = "SECAGG_SITE"  # the environment variable for sites that share a machine
_KEYS = {
    "secagg-key", "secagg-roster", "secagg-dir", "secagg-he-key", "secagg-epsilon", "secagg-delta",
    "secagg-evaluate", "parties",
}  # fmt: skip
_PATHS = {"secagg-key", "secagg-roster", "secagg-dir", "secagg-he-key", "secagg-sealing-key"}


def read_settings(site: str, local: str | os.PathLike[str], *, required: bool = True) -> dict[str, Any]:
    """What a site's operator has set: ``secagg.json`` in ``local``, or what the variable SECAGG_SITE names.

    ``ConfigError`` for a file that can't be read, is not a JSON object or has an unknown key, for a path that is
    not absolute, and if the variable names no file.
    """
    place = os.environ.get(_PLACE)
    path = Path(local) / _SETTINGS if place is None else Path(place)
    if not path.is_absolute():
        raise ConfigError(
            f"got {_PLACE}={place}; expected an absolute path, because NVFlare runs sites in folders of their own"
        )
    if place is not None and path.is_dir():
        path /= f"{site}.json"
    if not os.path.lexists(path):  # a link to a volume that is not mounted is no site without settings
        if place is not None and required:
            raise ConfigError(f"got {_PLACE}={place}, and no file {path}; expected the settings of site {site}")
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"got settings {path} that can't be read: {error}; expected a JSON object") from error
    expected = f"expected a JSON object of {', '.join(sorted(_KEYS))}"
    if not isinstance(settings, dict):
        raise ConfigError(f"got settings {path} that are a {type(settings).__name__}; {expected}")
    if wrong := sorted(settings.keys() - _KEYS):
        raise ConfigError(f"got settings {path} with {', '.join(wrong):.200}; {expected}")
    parties = settings["parties"].values() if isinstance(settings.get("parties"), dict) else ()
    for own in [settings, *(own for own in parties if isinstance(own, dict))]:
        for name in sorted(own.keys() & _PATHS):
            _check_path(path, name, own[name])
    return settings


def _check_path(path: Path, name: str, value: Any) -> None:
    """``ConfigError`` for a path that means another file, or another ledger, in each folder that a job runs in."""
    if not (isinstance(value, str) and Path(value).is_absolute()):
        raise ConfigError(
            f"got settings {path} with {name}={value!r:.80}; expected an absolute path, because NVFlare runs sites "
            "in folders of their own"
        )


def roster_path(roster: Any) -> str | None:
    """A roster as a job can name it; ``ConfigError`` unless it is a path, or None."""
    if roster is None or type(roster) is str:
        return roster
    raise ConfigError(f"got a roster that is a {type(roster).__name__}; expected its path on the server, a str")


def server_roster(path: str | None, server: str, local: str | os.PathLike[str], task: Task) -> Roster | None:
    """The server's roster, at ``path`` or where its settings say; ``ConfigError`` if the task needs one."""
    if path is None:
        path = read_settings(server, local, required=False).get("secagg-roster")
    if path is not None:
        return load_roster(path)
    try:
        task.protocol.validate_roster(task, None)
    except ConfigError:
        raise ConfigError(
            f"got no roster at the server, and {task.protocol.name} for a {task.protocol.threat_model} server "
            "needs one; pass its path as roster= in the job, or set secagg-roster in secagg.json in the server's "
            "folder local"
        ) from None
    return None
