"""The public names: each exists and is documented, and no other is offered."""

import ast
import importlib
import logging
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dp
import secagg
import secagg.federated


@pytest.mark.parametrize("package", [secagg, dp], ids=lambda package: package.__name__)
def test_exports_are_sorted_and_no_others_are_offered(package: ModuleType) -> None:
    assert sorted(set(package.__all__)) == sorted(package.__all__) == dir(package)
    assert all(getattr(package, name).__doc__ for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = package.Nothing


@pytest.mark.parametrize("package", ["secagg", "he", "mpc", "dp"])
def test_each_package_has_one_root_of_errors(package: str) -> None:
    errors = vars(importlib.import_module(f"{package}.errors")).values()
    own = [
        e
        for e in errors
        if isinstance(e, type) and issubclass(e, Exception) and e.__module__ == f"{package}.errors"
    ]
    roots = [e for e in own if not any(issubclass(e, other) for other in own if other is not e)]
    assert len(roots) == 1


def test_library_logs_nothing_unless_asked() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("secagg").handlers)


def test_what_federated_offers_is_documented() -> None:
    names = secagg.federated.__all__
    assert len(names) == len(set(names))
    assert all(getattr(secagg.federated, name).__doc__ for name in names)


def test_a_function_is_never_hidden_by_a_module_of_its_name() -> None:
    """Importing a submodule sets it on the package, over a function of the same name."""
    code = "import secagg; secagg.Simulation; import secagg.simulation; secagg.simulate.__name__; print('ok')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "ok\n"
    modules = {path.stem for path in (Path(secagg.__file__).parent).glob("*.py")}
    assert not modules & set(secagg.__all__)


def test_what_dp_loads_at_run_time_is_what_type_checkers_read() -> None:
    tree = ast.parse(Path(dp.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert declared == dp._HOMES
    assert {*declared, "DPError"} == set(dp.__all__)
