"""What the wheel holds: the four packages, typed, and nothing else."""

import re
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_wheel_holds_the_packages_and_neither_bench_nor_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"secagg", "he", "mpc", "dp"}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"secagg/service/page/{name}" for name in ("index.html", "status.js", "status.css")} <= set(names)
    assert "secagg/service/migrations/versions/v1.py" in names
    assert not [name for name in names if name.endswith((".pem", ".nbi", ".nbc"))]


def extras_to_install() -> list[tuple[str, str, str]]:
    """Where the sources and the documents say to install an extra: the file, the extra, and the text after it."""
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    for package in ("secagg", "he", "mpc", "dp", "bench"):
        files += (ROOT / package).rglob("*.py")
    places = []
    for path in files:
        text = path.read_text()
        matches = re.finditer(r"pip install '?secagg\[(\w+)\]'?", text)
        places += [(str(path.relative_to(ROOT)), match[1], text[match.end() :]) for match in matches]
    return places


def test_an_extra_is_never_named_without_its_packages() -> None:
    """The distribution may not be in an index. The benchmarks that are skipped here address developers."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    places = [(path, *rest) for path, *rest in extras_to_install() if not path.startswith("bench/test_")]
    known = {"he/errors.py", "dp/pld.py", "secagg/cli.py", "secagg/integrations/flower.py"}
    assert {path for path, *_ in places} >= known
    for path, extra, following in places:
        packages = {re.split(r"[<>=\[]", requirement)[0] for requirement in extras[extra]}
        match = re.match(r"[`,]* or `*pip install ([\w\s-]+)", following)
        assert match is not None, f"{path}: names secagg[{extra}] alone"
        assert packages <= set(match[1].split()), f"{path}: lacks {packages - set(match[1].split())}"


def test_the_oldest_flower_that_is_allowed_is_tested() -> None:
    (allowed,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["flower"]
    pins = [(ROOT / "requirements" / name).read_text() for name in ("flower-floor.txt", "flower.txt")]
    oldest, newest = (re.findall(r"^flwr==(\d+\.\d+)\.\d+ ", pin, re.M) for pin in pins)
    assert [f"flwr>={version},<2" for version in oldest] == [allowed]
    text = " ".join((ROOT / "docs" / "flower.md").read_text().split())
    assert f"Flower must be {oldest[0]} or newer; the tests run with {newest[0]}, and" in text
    assert f"those without processes with {oldest[0]} too." in text
