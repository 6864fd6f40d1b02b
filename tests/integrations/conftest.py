"""The tests of real processes come first: they mostly wait, and another worker does the rest meanwhile."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("stacks") is None)
