"""
A pytest plugin for ``.ci/run``: a skipped test fails the run, since everything that tests need is installed there.

Loaded by ``-p tests.support.no_skips`` with the root of the repository in ``PYTHONPATH``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

_skipped: list[str] = []


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        _skipped.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test, its setup or its teardown."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A whole module."""
    _note(report)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that would have passed fails where anything was skipped."""
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say which, above pytest's own last line."""
    if _skipped:
        terminalreporter.section("skipped, which fails this run", red=True)
        for line in _skipped:
            terminalreporter.line(line)
