"""Imported by a fork server: the processes that it forks begin with what takes a second to load and to choose."""

from tests.secagg.test_oneshot_killed import begin

begin()
