"""What is shipped for operators can be used: the unit, the sample configuration, the container's files."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from daemon.settings import Settings, load
from daemon.settings.sources import CREDENTIALS, leaves, variable

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "meltd.service"


def setting(name: str) -> str:
    """The value of a directive of the unit."""
    found = re.search(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert found is not None, name
    return found.group(1)


@pytest.fixture
def unit_here(tmp_path: Path) -> Path:
    """The unit with a program that exists on this machine."""
    copy = tmp_path / "meltd.service"
    copy.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    return copy


def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is missing")
    return found


def test_systemd_understands_the_whole_unit(unit_here: Path) -> None:
    done = subprocess.run([systemd_analyze(), "verify", str(unit_here)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_hardened(unit_here: Path) -> None:
    command = [systemd_analyze(), "security", "--offline=yes", "--threshold=20", "--no-pager", str(unit_here)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_unit_fits_the_daemon() -> None:
    assert setting("Type") == "notify"
    assert setting("RestartPreventExitStatus") == "78"
    assert setting("KillMode") == "mixed"
    assert (setting("RuntimeDirectoryMode"), setting("StateDirectoryMode")) == ("0750", "0700")
    assert float(setting("TimeoutStopSec").removesuffix("s")) > load(environ={}).drain_s
    assert re.findall(r"^LoadCredential=(.*)$", UNIT.read_text(), re.MULTILINE) == list(CREDENTIALS)
    assert "PrivateUsers=yes" not in UNIT.read_text()


def test_the_sample_configuration_can_be_used() -> None:
    settings = load(config=DEPLOY / "meltd.toml", environ={"MELTD_MONGO_URI": "mongodb://db/?replicaSet=rs0"})
    settings.require_runnable()
    assert list(settings.mints) == ["main"]


def test_the_sample_configuration_shows_the_defaults() -> None:
    given = tomllib.loads((DEPLOY / "meltd.toml").read_text())
    defaults = Settings()
    for section in ("http", "sweep", "melt"):
        for key, value in given[section].items():
            assert getattr(getattr(defaults, section), key) == value


def test_every_line_of_the_sample_that_is_a_comment_would_be_accepted() -> None:
    text = re.sub(r"^# (?=[a-z_]+ = |\[)", "", (DEPLOY / "meltd.toml").read_text(), flags=re.MULTILINE)
    text = text.replace("/etc/meltd/mongo-uri", "/dev/null").replace("/etc/meltd/webhook-url", "/dev/null")
    assert "uri_file" in tomllib.loads(text)["mongo"]
    assert "backup" in tomllib.loads(text)["mints"]


def test_the_containers_variables_are_settings() -> None:
    known = {variable(path) for path, _ in leaves(Settings)} | {"MELTD_MINTS__MAIN__URL"}
    image = (DEPLOY / "container" / "Containerfile").read_text()
    compose = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    named = set(re.findall(r"\b(MELTD_\w+)=", image)) | set(compose["services"]["meltd"]["environment"])
    assert {name.removesuffix("_FILE") for name in named} <= known
    assert named


def test_compose_gives_the_drain_its_time() -> None:
    compose = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    assert int(compose["services"]["meltd"]["stop_grace_period"].removesuffix("s")) > load(environ={}).drain_s
