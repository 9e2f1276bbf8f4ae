"""A foreign ``daemon`` package over or beside ours is refused with a message that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = '"""Library to implement a well-behaved Unix daemon process."""\nfrom .daemon import DaemonContext\n'


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of our packages, as an installation would lay them."""
    for name in ("daemon", "melt"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    record(tmp_path, "meltd", "0.1.0", "daemon\nmelt\n")
    return tmp_path


def record(site: Path, name: str, version: str, top_level: str) -> None:
    """The metadata that an installer leaves."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "top_level.txt").write_text(top_level)


def install_python_daemon(site: Path) -> None:
    """What `pip install python-daemon` does to the folder."""
    (site / "daemon" / "__init__.py").write_text(FOREIGN)
    (site / "daemon" / "daemon.py").write_text("class DaemonContext: ...\n")
    record(site, "python-daemon", "3.1.2", "daemon\n")


def meltd(site: Path, *arguments: str, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    """
    Run the command from ``site``. ``isolated`` hides what the tests' own environment has installed, a whole ``daemon``
    among it, which Python would prefer to a folder without an ``__init__.py``.
    """
    environ = {"PATH": os.environ["PATH"], "HOME": str(site), "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        sys.executable,
        *(["-S"] if isolated else []),
        "-c",
        "from daemon.__main__ import main; main()",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=site, env=environ)


def test_alone_it_starts(installed: Path) -> None:
    done = meltd(installed, "version")
    assert (done.returncode, done.stdout) == (0, "0.1.0\n"), done.stderr
    done = meltd(installed, "run")
    assert done.returncode == 78
    assert "no database" in done.stderr


@pytest.mark.parametrize("command", [["version"], ["run", "--embedded"], ["status"], ["--help"]])
def test_python_daemon_over_ours_is_refused_whatever_the_command(installed: Path, command: list[str]) -> None:
    install_python_daemon(installed)
    done = meltd(installed, *command)
    assert done.returncode == 78
    assert done.stdout == ""
    assert "python-daemon" in done.stderr
    assert "pip uninstall python-daemon" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_init_that_python_daemon_took_with_it_is_refused(installed: Path) -> None:
    (installed / "daemon" / "__init__.py").unlink()
    done = meltd(installed, "status", isolated=True)
    assert done.returncode == 78
    assert "__init__.py is gone" in done.stderr


def test_python_daemon_beside_ours_does_not_run(installed: Path) -> None:
    record(installed, "python-daemon", "3.1.2", "daemon\n")
    done = meltd(installed, "run", "--embedded")
    assert done.returncode == 78
    assert "another distribution owns the package `daemon` too" in done.stderr
    assert meltd(installed, "version").returncode == 0
