"""What importing a package may load. The contracts in pyproject.toml check the same in the source."""

import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    """Top-level modules that importing ``module`` loads, in a fresh interpreter."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_secagg_loads_nothing_heavy() -> None:
    heavy = {"numba", "tenseal", "phe", "sklearn", "matplotlib", "torch", "typer", "rich"}
    heavy |= {"httpx2", "jwt", "starlette", "uvicorn", "sqlalchemy", "structlog", "prometheus_client"}
    assert not heavy & loaded_by("secagg")
    assert not heavy & loaded_by("secagg.task")


def test_a_client_loads_no_http_library_before_it_connects() -> None:
    assert not {"httpx2", "jwt", "starlette", "uvicorn", "sqlalchemy"} & loaded_by("secagg.remote")


def test_protocols_and_their_roles_load_nothing_heavy() -> None:
    """Protocols import their roles at the top of the module, so no role may load a heavy package."""
    modules = ("pairwise.client", "pairwise.server", "shares.client", "shares.collector", "encrypted.protocol")
    for module in modules:
        assert not {"numba", "tenseal", "gmpy2", "phe"} & loaded_by(f"secagg.protocols.{module}")


def test_secagg_does_not_load_federated_learning() -> None:
    code = "import sys, secagg; secagg.simulate, secagg.Task; print('secagg.federated' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    assert not {"numba", "tenseal", "sklearn", "torch"} & loaded_by("secagg.federated")


def test_control_numba_is_seen_when_it_is_loaded() -> None:
    assert "numba" in loaded_by("secagg._kernels")


@pytest.mark.parametrize("core", ["he", "mpc", "dp"])
def test_cores_load_neither_each_other_nor_secagg(core: str) -> None:
    assert loaded_by(core) & {"he", "mpc", "dp", "secagg"} == {core}
