"""Where machine code is kept, and that no code is loaded that somebody else may have written."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest

import he._compiling
import mpc._compiling

ROOT = Path(__file__).parent.parent
CORES = ("he", "mpc", "dp")

needs_compiler = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")

KERNELS = """
from {core} import _compiling

@_compiling.kernel
def twice_{core}(number):
    return 2 * number
"""
RUN = """
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
{before}
import kernels_he, kernels_mpc, kernels_dp
kernels = [kernels_he.twice_he, kernels_mpc.twice_mpc, kernels_dp.twice_dp]
assert [kernel(21) for kernel in kernels] == [42] * 3
print(*(sum(kernel.stats.cache_hits.values()) for kernel in kernels))
"""


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return exec, (f"open({self.path!r}, 'w').close()",)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Kernels for which Numba has no place of its own: there are files where it would make folders."""
    for core in CORES:
        (tmp_path / f"kernels_{core}.py").write_text(KERNELS.format(core=core))
    for name in ("__pycache__", "home"):
        (tmp_path / name).touch()
    (tmp_path / "tmp").mkdir(mode=0o700)
    return tmp_path


def play(place: Path, before: str = "") -> tuple[list[int], str]:
    """Run the kernels in a new process: how often each came from the cache, and what was logged."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "PYTHONPATH": f"{place}:{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN.format(before=before)],
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return [int(hits) for hits in done.stdout.split()], done.stderr


def test_the_cores_keep_machine_code_alike() -> None:
    first, *others = ((ROOT / core / "_compiling.py").read_text() for core in CORES)
    assert others == [first, first]


@needs_compiler
def test_a_second_process_compiles_nothing_where_numba_may_write_nowhere(place: Path) -> None:
    assert play(place) == ([0, 0, 0], "")
    assert play(place) == ([1, 1, 1], "")
    (folder,) = (place / "tmp").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_without_any_folder_one_warning_says_what_helps(place: Path) -> None:
    (place / "tmp").chmod(0o777)  # other users could replace our folder
    hits, log = play(place)
    assert hits == [0, 0, 0]
    assert log.count("WARNING") == 1
    assert "NUMBA_CACHE_DIR" in log


@needs_compiler
def test_code_that_others_may_have_written_is_never_loaded(place: Path) -> None:
    """A cache is a pickle. Control: without the check of the folder, the planted code runs."""
    play(place)
    (folder,) = (place / "tmp").iterdir()
    fired = place / "fired"
    indexes = list(folder.rglob("*.nbi"))
    assert len(indexes) == 3
    for index in indexes:
        index.write_bytes(pickle.dumps(Bomb(str(fired))))
    folder.chmod(0o770)
    hits, log = play(place)
    assert (hits, log.count("WARNING"), fired.exists()) == ([0, 0, 0], 1, False)
    play(place, UNCHECKED)
    assert fired.exists()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def replaced(file: Path) -> None:
    file.write_bytes(bytes(range(256)))


@needs_compiler
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [cut_short, emptied, replaced])
def test_damaged_files_are_replaced(place: Path, damage: Callable[[Path], None], kind: str) -> None:
    play(place)
    files = list((place / "tmp").rglob(f"*.{kind}"))
    assert len(files) == 3
    for file in files:
        damage(file)
    hits, log = play(place)
    assert (hits, log.count("WARNING")) == ([0, 0, 0], 1)
    assert "files are damaged" in log
    assert play(place) == ([1, 1, 1], "")


FULL = """
import resource
import kernels_he, kernels_mpc, kernels_dp
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
def test_a_full_disk_ends_no_call(place: Path) -> None:
    hits, log = play(place, FULL)
    assert (hits, log.count("WARNING")) == ([0, 0, 0], 1)
    assert "make room" in log
    assert play(place) == ([0, 0, 0], "")


SWAPPED = """
import kernels_mpc
kernels_mpc.twice_mpc(1.5)
"""


@needs_compiler
def test_code_under_the_name_of_another_signature_is_not_run(place: Path) -> None:
    """Two processes that save at once can leave such files. Control: without the check, half a number is lost."""
    play(place, SWAPPED)
    whole, half = sorted((place / "tmp").rglob("*twice_mpc*.nbc"), key=lambda file: file.name, reverse=True)
    half.write_bytes(whole.read_bytes())
    assert play(place, SWAPPED + "assert kernels_mpc.twice_mpc(1.5) == 3")[1] == ""


UNCHECKED = """
import he._compiling, mpc._compiling, dp._compiling
for module in (he._compiling, mpc._compiling, dp._compiling):
    module._is_private = lambda folder: True
"""


def private(parent: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    return he._compiling.private_folder()


def test_a_folder_of_ours_is_made_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / f"secagg-kernels-{os.geteuid()}"
    assert private(tmp_path, monkeypatch) == str(folder) == private(tmp_path, monkeypatch)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o720, 0o755, 0o777])
def test_a_folder_that_is_open_to_others_is_refused(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(str(private(tmp_path, monkeypatch))).chmod(mode)
    assert private(tmp_path, monkeypatch) is None


def test_a_link_and_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(str(private(tmp_path, monkeypatch)))
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)
    assert private(tmp_path, monkeypatch) is None
    folder.unlink()
    folder.touch(0o600)
    assert private(tmp_path, monkeypatch) is None


@pytest.mark.parametrize(("mode", "safe"), [(0o1777, True), (0o777, False), (0o770, False), (0o755, True)])
def test_what_it_lies_in_may_be_written_by_others_only_if_they_cannot_move_it(
    mode: int, safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parent in (tmp_path / "inner", tmp_path / "outer" / "inner"):
        parent.mkdir(parents=True)
    (tmp_path / "inner").chmod(mode)
    assert (private(tmp_path / "inner", monkeypatch) is not None) is safe
    (tmp_path / "outer").chmod(mode)
    assert (private(tmp_path / "outer" / "inner", monkeypatch) is not None) is safe


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives folders away")
def test_folders_of_other_users_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(str(private(tmp_path, monkeypatch)))
    os.chown(folder, 65534, 65534)
    assert private(tmp_path, monkeypatch) is None
    shutil.rmtree(folder)
    assert private(tmp_path, monkeypatch) is not None
    os.chown(tmp_path, 65534, 65534)
    assert private(tmp_path, monkeypatch) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives files away")
@pytest.mark.parametrize("kind", ["file", "deep file", "folder", "link"])
def test_a_folder_of_ours_that_holds_what_others_made_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may have been open to them before. Control: without the check of its entries it is used."""
    folder = Path(str(private(tmp_path, monkeypatch)))
    planted = folder / "module_1" / "kernel.nbi" if kind == "deep file" else folder / "planted"
    planted.parent.mkdir(exist_ok=True)
    if kind == "folder":
        planted.mkdir()
    elif kind == "link":
        planted.symlink_to("/nowhere")
    else:
        planted.touch()
    assert private(tmp_path, monkeypatch) is not None
    os.chown(planted, 65534, 65534, follow_symlinks=False)
    assert private(tmp_path, monkeypatch) is None
    monkeypatch.setattr(he._compiling, "_is_own", lambda _: True)
    assert private(tmp_path, monkeypatch) is not None


def test_a_system_without_a_place_for_temporary_files_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert private(Path("/nowhere/at/all"), monkeypatch) is None


def test_a_function_without_a_file_is_compiled_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    names: dict[str, object] = {}
    exec("def double(a):\n    return 2 * a\n", names)
    double = mpc._compiling.kernel(names["double"])  # type: ignore[arg-type]
    assert double(np.arange(3)).tolist() == [0, 2, 4]
    assert not caplog.records
    if not numba.config.DISABLE_JIT:
        assert type(double._cache).__name__ == "NullCache"  # type: ignore[attr-defined]
