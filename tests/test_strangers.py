"""Packages ``he``, ``mpc`` and ``dp`` of other distributions are noticed when secagg is imported, and never run."""

import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from secagg import _cores

ROOT = Path(__file__).parent.parent


@pytest.fixture
def site(wheel: Path, tmp_path: Path) -> Path:
    """A folder into which secagg's wheel was unpacked, as by an installer."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    return tmp_path / "site"


def add_stranger(site: Path, name: str) -> list[Path]:
    """Install a distribution ``other-NAME`` whose package NAME writes a file when it runs; returns its files."""
    package, info = site / name, site / f"other_{name}-3.1.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    info.mkdir(parents=True)
    ran = site.parent / "ran"
    files = {
        package / "__init__.py": f"open({str(ran)!r}, 'w').close()\n",
        package / "other.py": "",
        info / "METADATA": f"Metadata-Version: 2.1\nName: other-{name}\nVersion: 3.1\n",
    }
    for path, text in files.items():
        path.write_text(text)
    record = info / "RECORD"
    record.write_text("".join(f"{path.relative_to(site)},,\n" for path in (*files, record)))
    return [*files, record]


def importing(*places: Path, code: str = "import secagg, he, mpc, dp") -> str:
    """The last line on stderr of a Python that imports secagg with ``places``, and no other copy, on its path."""
    alone = (
        f"import os, sys; places = {list(map(str, places))}; "
        "sys.path[:] = [p for p in sys.path if p in places or not os.path.exists(os.path.join(p, 'secagg'))]\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", alone + code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(map(str, places)), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=places[0],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return (done.stderr.strip().splitlines() or [""])[-1]


def not_run(site: Path) -> bool:
    return not (site.parent / "ran").exists()


def test_an_installed_wheel_is_taken_for_ours(site: Path) -> None:
    code = f"import secagg, he; assert secagg.__file__.startswith({str(site)!r}), secagg.__file__"
    assert importing(site, code=code) == ""


def test_an_editable_install_is_taken_for_ours(tmp_path: Path) -> None:
    """A .pth file puts its folder at the end of the path."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "_editable_impl_secagg.pth").write_text(f"{ROOT}\n")
    code = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); import secagg, he"
    assert importing(tmp_path, code=code) == ""


@pytest.mark.parametrize("name", _cores.CORES)
def test_a_package_that_another_distribution_wrote_over_ours_is_named(site: Path, name: str) -> None:
    add_stranger(site, name)
    error = importing(site)
    assert error.startswith("ImportError: secagg needs its own package")
    assert f"'other-{name}'" in error
    assert f"pip uninstall other-{name}" in error
    assert "pip install --force-reinstall" in error
    assert not_run(site)


def test_after_the_other_distribution_is_removed_the_hole_is_named(site: Path) -> None:
    for path in add_stranger(site, "dp"):
        path.unlink()
    error = importing(site)
    assert error.startswith("ImportError: secagg's package 'dp' is gone")
    assert "pip install --force-reinstall" in error
    shutil.rmtree(site / "mpc")
    shutil.rmtree(site / "dp")
    assert "'mpc' is gone" in importing(site)


def test_a_distribution_earlier_on_the_path_is_named(tmp_path: Path) -> None:
    """As with an editable install, whose folder comes last."""
    add_stranger(tmp_path / "site", "mpc")
    error = importing(tmp_path / "site", ROOT)
    assert "'mpc'" in error
    assert "of the distribution 'other-mpc'" in error
    assert not_run(tmp_path / "site")


@pytest.mark.parametrize("file", ["dp.py", "dp/__init__.py"])
def test_a_file_of_the_users_is_named(site: Path, file: str) -> None:
    own = site.parent / "project" / file
    own.parent.mkdir(parents=True)
    own.write_text(f"open({str(site.parent / 'ran')!r}, 'w').close()\n")
    error = importing(site.parent / "project", site)
    assert str(own) in error
    assert "rename it" in error
    assert not_run(site)


def test_control_without_the_check_the_stranger_runs(site: Path) -> None:
    add_stranger(site, "dp")
    (site / "secagg" / "_cores.py").write_text("def check(home):\n    pass\n")
    assert importing(site, code="import secagg, dp") == ""
    assert not not_run(site)


def test_a_module_that_hides_where_it_comes_from_is_no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "he", types.ModuleType("he"))
    with pytest.raises(ImportError, match="'he' is gone"):
        _cores.check(str(ROOT / "secagg" / "__init__.py"))


def test_the_check_reads_no_distribution_while_all_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: str, origin: str) -> None:
        raise AssertionError("the list of distributions was read")

    monkeypatch.setattr(_cores, "_owner", never)
    _cores.check(str(ROOT / "secagg" / "__init__.py"))
    loaded = importing(ROOT, code="import sys, secagg; assert 'importlib.metadata' not in sys.modules")
    assert loaded == ""
