"""What Google's dp-accounting says, as a vector file: ``python -m tests.reference.dp_oracle``.

Rényi divergences of Gaussian noise, Poisson-sampled, in samples of fixed size and in full, and ε from
the whole loss distribution. Its RDP ignores that replacing one update moves a sum by twice the clip,
so fixed-size samples are asked for with half the noise multiplier.
"""

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors" / "dp_accounting.json"
ORDERS = [2, 3, 4, 5, 8, 13, 21, 34, 64, 128, 256, 512]
MULTIPLIERS = [0.5, 0.8, 1.0, 1.5, 3.0, 8.0]
RATES = [1e-3, 0.01, 0.03, 0.3, 0.9]
STEPS = [1, 100, 1500]
POPULATION = 10_000
DELTA = 1e-5


def vectors() -> dict[str, Any]:
    """All that the file holds."""
    import dp_accounting as theirs
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    relation = theirs.NeighboringRelation

    def ask(accountant: Any, event: Any, steps: int) -> Any:
        accountant.compose(event, steps)
        return accountant

    rows = []
    for z in MULTIPLIERS:
        for steps in STEPS:
            full = ask(RdpAccountant(ORDERS), theirs.GaussianDpEvent(z), steps)
            rows.append({"kind": "full", "z": z, "steps": steps, "rdp": list(full.rdp)})
            rows[-1]["epsilon"] = full.get_epsilon(DELTA)
            for rate in RATES:
                event = theirs.PoissonSampledDpEvent(rate, theirs.GaussianDpEvent(z))
                account = ask(RdpAccountant(ORDERS), event, steps)
                rows.append({"kind": "poisson", "z": z, "rate": rate, "steps": steps, "rdp": list(account.rdp)})
                rows[-1]["epsilon"] = account.get_epsilon(DELTA)
                if z <= 4:  # beyond that its differences of logarithms lose digits
                    half = theirs.GaussianDpEvent(z / 2)
                    event = theirs.SampledWithoutReplacementDpEvent(POPULATION, round(rate * POPULATION), half)
                    account = ask(RdpAccountant(ORDERS, relation.REPLACE_ONE), event, steps)
                    rows.append({"kind": "fixed", "z": z, "rate": rate, "steps": steps, "rdp": list(account.rdp)})
    losses = []
    for z, rate, steps, neighbours in [
        (1.0, 1.0, 1, "zero-out"),
        (1.0, 1.0, 1, "replace-one"),
        (1.0, 100 / 3400, 1500, "zero-out"),
        (2.0, 0.1, 50, "zero-out"),
    ]:
        gaussian = theirs.GaussianDpEvent(z)
        event = gaussian if rate == 1 else theirs.PoissonSampledDpEvent(rate, gaussian)
        kind = relation.ADD_OR_REMOVE_ONE if neighbours == "zero-out" else relation.REPLACE_ONE
        epsilon = ask(PLDAccountant(kind), event, steps).get_epsilon(DELTA)
        losses.append({"z": z, "rate": rate, "steps": steps, "neighbours": neighbours, "epsilon": epsilon})
    return {
        "made by": "dp-accounting 0.6.0, tests/reference/dp_oracle.py",
        "orders": ORDERS,
        "population": POPULATION,
        "delta": DELTA,
        "rdp": rows,
        "pld": losses,
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=1) + "\n")
