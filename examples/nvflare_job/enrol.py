"""Keys and settings for a simulation, in which all sites are on one machine; run once for each simulation.

In a deployment each site makes its own key, by ``secagg keygen``, and its operator writes its ``secagg.json``.
"""

import json
from pathlib import Path

from secagg.keygen import write_identities

SITES = [f"site-{number}" for number in range(1, 5)]

folder = Path("keys").resolve()
roster = write_identities(SITES, folder)
settings = Path("sites")
settings.mkdir()
for site in SITES:
    own = {
        "secagg-key": str(folder / f"{site}.pem"),
        "secagg-roster": str(roster),
        "secagg-dir": str(settings.resolve() / site),
    }
    (settings / f"{site}.json").write_text(json.dumps(own))
