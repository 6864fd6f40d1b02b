"""Sites and a server of the shared adapter, over messages that are dicts of plain values and without any stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import secagg
from secagg.identity import PartyRole, Roster, load_roster
from secagg.integrations._shared.digests import arrays_digest
from secagg.integrations._shared.site import Site
from secagg.integrations._shared.site_rounds import SiteRounds
from secagg.keygen import write_identities
from secagg.roles.outcome import Outcome

STACK, REQUEST, SIZE = "test", bytes(32), 3
SITES = ("s1", "s2", "s3", "s4")
HOST = "host"  # a site that trains nothing and hosts the task's other parties

ROLES: Mapping[type, tuple[PartyRole, tuple[str, ...], str]] = {
    secagg.AdditiveShares: (PartyRole.AGGREGATOR, ("a1", "a2"), "secagg-sealing-key"),
    secagg.BFV: (PartyRole.DECRYPTOR, ("d1",), ""),
}


class PlainSites:
    """Four sites with folders, the site that hosts the other parties, and the server's rounds between them.

    ``ask`` may be replaced: it is what carries a message to a site, and its answer back.
    """

    def __init__(self, folder: Path, protocol: Any) -> None:
        role, hosted, key = ROLES.get(type(protocol), (PartyRole.CLIENT, (), ""))
        keys = folder / "keys"
        write_identities([*SITES, HOST], keys)
        if hosted:
            write_identities(hosted, keys, role)
        self.roster: Roster = load_roster(keys / "roster.json")
        self.task = secagg.Task(
            protocol, secagg.Layout.of(self.model(0)), secagg.FixedPoint(clip=8.0, bits=20), len(SITES), 3
        )
        shared = {"secagg-roster": str(keys / "roster.json")}
        self.sites: dict[str, Site] = {}
        for name in (*SITES, HOST):
            settings: dict[str, Any] = shared | {"secagg-key": str(keys / f"{name}.pem")}
            settings["secagg-dir"] = str(folder / name)
            if name == HOST and hosted:
                settings["parties"] = {
                    party: shared
                    | {
                        "role": str(role),
                        "secagg-key": str(keys / f"{party}.pem"),
                        "secagg-dir": str(folder / party),
                    }
                    | ({key: str(keys / f"{party}.sealing.json")} if key else {})
                    for party in hosted
                }
            self.sites[name] = Site(self.task, name, stack=STACK, run="1", settings=settings, weighted_by="n")
        self.parties = dict.fromkeys(hosted, HOST)

    @staticmethod
    def model(number: int) -> dict[str, np.ndarray[Any, Any]]:
        """The model of a round."""
        return {"w": np.full(SIZE, float(number))}

    def train(self, number: int) -> None:
        """Let site n train the update n / 8."""
        model = self.model(number)
        for place, name in enumerate(SITES):
            site = self.sites[name]
            site.keep(site.take(number, model, REQUEST), {"w": model["w"] + place / 8}, {})

    def rounds(self, deadlines: float = 20.0) -> SiteRounds:
        """The server."""
        return SiteRounds(
            STACK,
            self.task,
            roster=self.roster,
            parties=self.parties,
            deadlines=deadlines,
            ask=lambda site, message, seconds: self.ask(site, message, seconds),
        )

    def ask(self, site: str, message: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """A site's answer."""
        return self.sites[site].answer(message)

    def play(self, rounds: SiteRounds, number: int) -> Outcome | None:
        """Train and sum a round."""
        self.train(number)
        digest = arrays_digest(STACK, self.model(number))
        return rounds.play(number, model=digest, request=REQUEST, sites=list(SITES), left_out={})

    def check(self, outcome: Outcome) -> None:
        """The mean is that of the survivors, whoever they are."""
        expected = float(np.mean([SITES.index(name) / 8 for name in outcome.survivors]))
        np.testing.assert_allclose(outcome.mean["w"], expected, atol=1e-4)

    def close(self) -> None:
        """Release the ledgers."""
        for site in self.sites.values():
            site.close()
