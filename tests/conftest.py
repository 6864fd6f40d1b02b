"""The wheel, the order of tests, and Hypothesis profiles.

The profile ``ci`` is bounded and repeats itself; ``HYPOTHESIS_PROFILE=deep`` does neither.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("ci", derandomize=True, max_examples=50, deadline=None, database=None)
settings.register_profile("deep", max_examples=2000, stateful_step_count=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


#: Modules with the longest tests, longest first. Begun last, one of them would leave the other workers idle.
LONGEST = (
    *("test_killed_server.py", "test_constant_time.py", "test_service_demo.py", "test_cold_start.py"),
    *("test_compiled_code.py", "test_two_processes.py", "test_frameworks.py", "test_clusters.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, and those that share a browser on one worker (``--dist loadgroup``)."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("chromium"))
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A window of Chromium that all tests share; ``browser`` clears it for each."""
    from tests.service.browser import start

    window = start(tmp_path_factory.mktemp("browser"))
    yield window
    window.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    """The window, empty."""
    from tests.service.browser import clear

    clear(chromium)
    return chromium


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built
