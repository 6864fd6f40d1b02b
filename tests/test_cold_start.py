"""How much a new process loads and compiles, and that ``secagg warm`` leaves it nothing to compile."""

import functools
import importlib
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

import secagg
from mpc import masks
from mpc.kernels import kernel as mpc_kernel
from secagg import warming
from secagg.protocols import named

ROOT = Path(__file__).parent.parent
NOBODY = 65534

#: A first session of SecAgg: Shamir's two kernels, the masks', the quantizer, two that pack, and one that decodes.
MOST_KERNELS = 7
SECAGG = [("SecAgg", "plain")]

needs_compiler = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


def environment(cache: Path, **more: str) -> dict[str, str]:
    """What a container has: no home, and nothing of the environment of whoever runs the tests."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(cache),
        **more,
    }


def start(cache: Path, **arguments: Any) -> subprocess.Popen[str]:
    """A new process of :mod:`tests.first_session`."""
    more = arguments.pop("environment", {})
    return subprocess.Popen(
        [sys.executable, "-m", "tests.first_session", json.dumps({"before": [], "sessions": SECAGG} | arguments)],
        env=environment(cache, **more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result


def first(cache: Path, **arguments: Any) -> dict[str, Any]:
    """What a new process compiled, and more, once its sessions are over."""
    return finish(start(cache, **arguments))


def warm(cache: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "secagg", "warm", *options],
        env=environment(cache, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """The folder in which ``secagg warm`` has left the machine code of every protocol; others can read it."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        yield from warmed(Path(parent) / "kernels")


def warmed(folder: Path) -> Iterator[Path]:
    done = warm(folder, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert len(document["compiled"]) > 30
    assert all(Path(kept).is_relative_to(folder) for kept in document["folders"])
    assert document["cpu"]
    yield folder
    for kept in (folder, *folder.iterdir()):
        kept.chmod(0o755)


def test_importing_secagg_loads_numpy_and_nothing_else_of_others() -> None:
    code = "import sys, secagg; print(*{name.partition('.')[0] for name in sys.modules if sys.modules[name]})"
    isolated = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {[str(ROOT), *sys.path]!r}; {code}"]
    done = subprocess.run(isolated, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - set(sys.stdlib_module_names) == {"__main__", "numpy", "secagg"}


@needs_compiler
def test_a_first_session_compiles_few_kernels_even_if_two_processes_begin_at_once(tmp_path: Path) -> None:
    """The bound is the number today, so that one more kernel, or one more type of an argument, is noticed."""
    together = [start(tmp_path), start(tmp_path)]
    for result in map(finish, together):
        assert len(result["compiled"]) <= MOST_KERNELS, result["compiled"]
    assert first(tmp_path)["compiled"] == []


@needs_compiler
def test_after_warm_no_protocol_and_no_encoding_compiles_anything(cache: Path) -> None:
    noisy = [("SecAgg", name) for name in ("gaussian", "skellam", "central", "nearest")]
    slow = [("Paillier", "plain"), ("BFV", "gaussian"), ("AdditiveShares", "gaussian")]
    sessions = [(name, encoding) for name in named() if name != "Paillier" for encoding in ("plain", "weights")]
    result = first(cache, sessions=[*sessions, *noisy, *slow])
    assert result["compiled"] == []
    assert all(Path(kept).is_relative_to(cache) for kept in result["folders"])


@needs_compiler
def test_a_cache_that_its_user_may_only_read_is_used(cache: Path) -> None:
    """As from an image that was built by another user. Control: Numba alone passes over it."""
    result = as_another_user(cache)
    assert result["compiled"] == []
    assert len(as_another_user(cache, NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")["compiled"]) > 3


@needs_compiler
@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser gives folders away")
@pytest.mark.parametrize("change", ["owner", "mode"])
def test_a_cache_that_a_third_user_can_write_to_is_not_loaded(cache: Path, change: str) -> None:
    """A cache is a pickle, and so code. Control: with the owner and the mode of before, the same is loaded."""
    loaded()
    assert as_another_user(cache)["compiled"] == []
    (kept,) = cache.glob("mpc_*")
    file = next(kept.glob("*evaluate*.nbi"))
    try:
        if change == "owner":
            os.chown(kept, NOBODY - 1, NOBODY - 1)
        else:
            file.chmod(0o666)
        assert "mpc._kernels.evaluate" in as_another_user(cache)["compiled"]
    finally:
        os.chown(kept, 0, 0)
        file.chmod(0o644)


@needs_compiler
def test_kernels_that_a_read_only_cache_lacks_go_to_a_folder_of_the_user(cache: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        other = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "TMPDIR": folder}
        assert len(as_another_user(cache, **other)["compiled"]) > 3
        assert as_another_user(cache, **other)["compiled"] == []


def as_another_user(cache: Path, **more: str) -> dict[str, Any]:
    """A first session of a user who may read all files, but write only to a new folder for temporary files."""
    for kept in (cache, *cache.iterdir()):
        kept.chmod(0o555)
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o1777)
        settings = {"TMPDIR": scratch, **more}
        if os.geteuid() != 0:
            return first(cache, environment=settings)
        folders = [folder for path in (cache, ROOT) for folder in (path, *path.parents)]
        if not all(folder.stat().st_mode & 0o001 for folder in folders):
            pytest.skip("other users can't read these sources or the folder of temporary files")
        others = [name for name in loaded() if name.partition(".")[0] != "__main__"]
        return first(cache, environment=settings, before=others, user=NOBODY)


@functools.cache
def loaded() -> list[str]:
    """The modules of others that a first session loads."""
    with tempfile.TemporaryDirectory() as folder:
        modules: list[str] = first(Path(folder))["modules"]
        return modules


@needs_compiler
def test_a_task_of_a_large_cohort_is_warmed_by_a_small_session(tmp_path: Path) -> None:
    update = {"layers.0": np.zeros((300, 40), np.float32), "steps": 3}
    task = secagg.Task(
        protocol=secagg.SecAggPlus(),
        layout=secagg.Layout.of(update),
        encoding=secagg.FixedPoint(clip={"layers.*": 1.0, "steps": 100.0}),
        max_clients=1000,
        min_survivors=800,
        context=b"large",
    )
    (tmp_path / "task.bin").write_bytes(task.to_bytes())
    done = warm(tmp_path / "kernels", "--task", str(tmp_path / "task.bin"))
    assert (done.returncode, done.stderr) == (0, "")
    *kernels, summary, _ = [line for line in done.stdout.splitlines() if not line.startswith("machine code: ")] + [
        ""
    ]
    assert 3 < len(kernels) <= MOST_KERNELS
    assert summary.startswith(f"compiled {len(kernels)} kernels for the CPU ")
    assert str(tmp_path / "kernels") in done.stdout
    assert first(tmp_path / "kernels", sessions=[("SecAggPlus", "plain")])["compiled"] == []


def test_warm_fails_in_one_line_where_the_cache_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    folder.touch()
    done = warm(folder, "--protocol", "Clear")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"secagg: got NUMBA_CACHE_DIR={folder}, which this user can't write to")


@needs_compiler
@pytest.mark.parametrize(
    ("names", "variables", "words"),
    [
        ([], {"SECAGG_KERNEL": "64"}, "Clear, of which no task can be made here: got SECAGG_KERNEL='64'"),
        (["SecAgg"], {"SECAGG_KERNEL": "64"}, "SecAgg, of which no task can be made here: got SECAGG_KERNEL='64'"),
        (["Clear", "Paillier"], {}, "Paillier, of which no task can be made here: "),
    ],
)
def test_warm_does_not_end_well_without_what_it_was_asked_for(
    tmp_path: Path, names: list[str], variables: dict[str, str], words: str
) -> None:
    (tmp_path / "gmpy2.py").write_text("raise ModuleNotFoundError('hidden', name='gmpy2')")
    options = [word for name in names for word in ("--protocol", name)]
    done = warm(tmp_path / "kernels", *options, PYTHONPATH=f"{tmp_path}:{ROOT}", **variables)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"secagg: got {words}")


def test_warm_says_that_the_compiler_is_off(tmp_path: Path) -> None:
    done = warm(tmp_path, "--protocol", "Clear", NUMBA_DISABLE_JIT="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("secagg: got NUMBA_DISABLE_JIT")


def test_warm_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "task.bin").write_bytes(b"no task")
    for options in (["--protocol", "secagg3"], ["--task", str(tmp_path / "task.bin")], ["--task", "nowhere.bin"]):
        done = warm(tmp_path, *options)
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1


@needs_compiler
def test_the_log_says_which_kernels_are_compiled_and_how_to_compile_ahead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Control: a kernel that somebody else wrote is not reported."""
    lines = ["def twice(number):", "    return 2 * number", "def thrice(number):", "    return 3 * number"]
    (tmp_path / "own.py").write_text("\n".join(lines))
    sys.path.insert(0, str(tmp_path))
    try:
        own = importlib.import_module("own")
    finally:
        sys.path.remove(str(tmp_path))
    with caplog.at_level(logging.INFO, "secagg.kernels"):
        mpc_kernel(own.twice)(21)
        assert not caplog.records
        own.thrice.__module__ = "mpc.own"
        for _ in range(2):  # the second time the machine code is loaded
            assert mpc_kernel(own.thrice)(21) == 63
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert re.fullmatch(r"compiled mpc.own.thrice in \d+\.\d\d s; .* run: secagg warm", record.getMessage())


DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")


def shown(language: str) -> str:
    """What the document shows in one language."""
    return "".join(re.findall(rf"```{language}\n(.*?)```", DEPLOYMENT, re.DOTALL))


def variables(pattern: str) -> dict[str, str]:
    return dict(re.findall(pattern, shown("dockerfile")))


def test_the_document_shows_the_commands_that_these_tests_run(tmp_path: Path) -> None:
    """And no command that isn't there. ``secagg warm`` itself fills the module's folder."""
    commands = re.findall(r"(?:/opt/secagg/bin/)?secagg (\w+)([^\n#]*)", shown("(?:shell|dockerfile|ini)"))
    options = {words.strip() for command, words in commands if command == "warm"}
    assert options == {
        "",
        "--protocol SecAgg",
        "--protocol SecAgg --json",
        "--task task.bin",
        "--task /etc/secagg/task.bin",
    }
    assert {command for command, _ in commands} == {"warm", "serve"}


@needs_compiler
def test_the_steps_of_the_image_leave_nothing_to_compile() -> None:
    """The build stage as this user, with the settings of the document; the container as another, who has no home.

    Control: without the CPU that the image was compiled for, everything is compiled again.
    """
    settings = variables(r"(NUMBA_CPU_\w+)=(\S+)")
    assert settings.keys() == {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"}
    if platform.machine() not in ("x86_64", "AMD64") or not masks.compiled():
        pytest.skip("these settings are for x86-64 with AES instructions")
    (build,) = re.findall(r"^RUN /opt/secagg/bin/secagg warm (.*)$", shown("dockerfile"), re.MULTILINE)
    with tempfile.TemporaryDirectory() as image:
        Path(image).chmod(0o755)
        kernels = Path(image) / "kernels"
        done = warm(kernels, *build.split(), "--json", **settings)
        assert json.loads(done.stdout)["cpu"] == settings["NUMBA_CPU_NAME"], done.stderr
        assert as_another_user(kernels, **settings)["compiled"] == []
        assert len(as_another_user(kernels)["compiled"]) > 3
        for folder in (kernels, *kernels.iterdir()):
            folder.chmod(0o755)


def test_warming_says_nothing_of_sessions_that_nobody_played(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "secagg")
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(np.zeros(3)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=4,
        min_survivors=3,
    )
    warming.warm(task)
    assert not caplog.records, "c1 of the small session may be the id of a client that was never asked"
    updates = dict.fromkeys(("c1", "c2", "c3", "c4"), np.zeros(3))
    secagg.simulate(task, updates, dropouts={"c1": secagg.Round.MASKED_INPUT})
    assert "c1 in MaskedInput: silent" in caplog.text, "the control: a session does log"
