"""Imported by a fork server: the processes that it forks begin with what takes a second to load and to choose."""

import tests.service.killed  # noqa: F401
from tests.secagg.test_oneshot_killed import begin

begin()
