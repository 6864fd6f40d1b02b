"""A job of the simulator that lost a site's process as it started waits for ever: such a test runs again, once."""

from typing import Any

from _pytest.runner import runtestprotocol


def pytest_runtest_protocol(item: Any, nextitem: Any) -> bool:
    """Run a test; once more if a job did not end in its time, which no other fault of a test looks like."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed and "TimeoutExpired" in report.longreprtext for report in reports):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
