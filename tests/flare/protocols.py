"""The protocols that jobs play, and the keys and settings of their sites, which host the protocols' parties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import secagg
from secagg.identity import PartyRole
from secagg.keygen import write_identities

SITES = [f"site-{number}" for number in range(1, 5)]
PROTOCOLS: dict[str, Any] = {
    "SecAgg": secagg.SecAgg(),
    "SecAggPlus": secagg.SecAggPlus(),
    "OneShot": secagg.OneShot(members=4, corrupt_members=1),
    "BFV": secagg.BFV(),
    "Paillier": secagg.Paillier(bits=2048),
    "AdditiveShares": secagg.AdditiveShares(),
}


def protocol_of(name: str) -> Any:
    """The protocol that a name begins with: ``SecAgg`` or ``SecAgg_again``."""
    return PROTOCOLS[name.partition("_")[0]]


def make_task(name: str, layout: secagg.Layout, encoding: Any, max_weight: int) -> secagg.Task:
    return secagg.Task(
        protocol=protocol_of(name),
        layout=layout,
        encoding=encoding,
        max_clients=len(SITES),
        min_survivors=len(SITES) - 1,
        max_weight=max_weight,
        context=name.encode(),
    )


def enrol(protocol: Any, keys: Path, sites: Path) -> dict[str, str]:
    """Write keys, and the settings of all sites; returns the site that hosts each party of the protocol."""
    write_identities(SITES, keys)
    roster = {"secagg-roster": str(keys / "roster.json")}
    settings: dict[str, dict[str, Any]] = {
        site: roster | {"secagg-key": str(keys / f"{site}.pem"), "secagg-dir": str(keys / site)} for site in SITES
    }
    hosts: dict[str, str] = {}
    for role, count in protocol.party_counts.items():
        hosts = {f"p{number + 1}": SITES[-1 - number] for number in range(count)}
        write_identities(hosts, keys, PartyRole(role))
        for party, site in hosts.items():
            own = {"role": str(role), "secagg-key": str(keys / f"{party}.pem"), "secagg-dir": str(keys / party)}
            if role is PartyRole.AGGREGATOR:
                own["secagg-sealing-key"] = str(keys / f"{party}.sealing.json")
            settings[site]["parties"] = {party: own}
    sites.mkdir(parents=True)
    for site in SITES:
        (sites / f"{site}.json").write_text(json.dumps(settings[site]))
    return hosts
