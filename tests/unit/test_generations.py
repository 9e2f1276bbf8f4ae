"""The command that runs tests on several generations of the mint: what it counts as passed, and what it starts with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from daemon.demo.mint_child import LAUNCHER
from tests.generations import cdk, environments
from tests.generations.__main__ import Outcome, main, read, run
from tests.generations.environments import RECIPES, EnvironmentNotMade, python_of
from tests.support.generations import GENERATIONS
from tests.support.mint import CDK, KIND_ENV, PYTHON_ENV, VERSION_ENV, NutshellMint

REPORT = """<testsuites><testsuite name="pytest">
<testcase name="a"/>
<testcase name="b"><failure message="no">no</failure></testcase>
<testcase name="c"><error message="no">no</error></testcase>
<testcase name="d"><skipped message="why">why</skipped></testcase>
</testsuite></testsuites>"""


def test_a_report_is_counted(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    outcome = read(report, "0.20.2", 1.0)
    assert (outcome.passed, outcome.failed, outcome.skipped) == (1, 2, ("d: why",))
    assert not outcome.good


@pytest.mark.parametrize(
    ("outcome", "good"),
    [
        (Outcome(version="1", passed=3, skipped=("x: why",)), True),
        (Outcome(version="1", passed=3, failed=1), False),
        (Outcome(version="1", skipped=("x: why",)), False),
        (Outcome(version="1", passed=3, why="not done"), False),
        (Outcome(version="1"), False),
    ],
)
def test_only_a_generation_that_was_tested_and_had_no_failure_is_good(outcome, good):
    assert outcome.good is good


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ("import os; assert os.environ['MELTD_TEST_MINT_VERSION'] == '9.9.9'", True),
        ("raise ValueError", False),
        ("import os; os._exit(3)", False),
    ],
)
def test_the_tests_run_with_the_generation_in_their_environment(tmp_path, monkeypatch, body, good):
    # The runs below are pytest's own, and not of this checkout.
    monkeypatch.setattr("tests.generations.__main__.ROOT", tmp_path)
    (tmp_path / "test_one.py").write_text(f"def test_one():\n    {body}\n")
    environment = {PYTHON_ENV: sys.executable, VERSION_ENV: "9.9.9"}
    assert run("9.9.9", environment, ["test_one.py"], tmp_path).good is good


def test_tests_that_hang_are_ended_and_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.generations.__main__.ROOT", tmp_path)
    monkeypatch.setattr("tests.generations.__main__.RUN_S", 0.5)
    (tmp_path / "test_one.py").write_text("import time\ndef test_one():\n    time.sleep(600)\n")
    outcome = run("9.9.9", {}, ["test_one.py"], tmp_path)
    assert not outcome.good
    assert "not done" in outcome.why


def test_a_run_that_is_ended_ends_the_tests(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import os, pathlib, time\n"
        "def test_one():\n"
        f"    pathlib.Path({str(tmp_path / 'new')!r}).write_text(str(os.getpid()))\n"
        f"    pathlib.Path({str(tmp_path / 'new')!r}).rename({str(tmp_path / 'pid')!r})\n"
        "    time.sleep(600)\n"
    )
    script = (
        "import signal, sys, pathlib, tests.generations.__main__ as command\n"
        f"command.ROOT = pathlib.Path({str(tmp_path)!r})\n"
        "command.python_of = lambda *_: pathlib.Path(sys.executable)\n"
        "sys.argv[1:] = ['--only', '0.20.2', 'test_one.py']\n"
        "command.main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=environments.ROOT) as child:
        deadline = time.monotonic() + 90
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline, "the test did not start"
            time.sleep(0.05)
        child.terminate()
        assert child.wait(90) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_every_generation_that_can_be_made_was_measured():
    known = {f"Nutshell/{version}" for version in RECIPES} | {f"cdk-mintd/{cdk.VERSION}"}
    assert known == set(GENERATIONS)


def test_another_recipe_or_other_pins_are_another_environment(tmp_path):
    recipe, pins = RECIPES["0.16.5"], tmp_path / "pins.txt"
    pins.write_text(recipe.pins.read_text())
    # Where the pins lie doesn't matter, so that a copy of the repository finds what was made.
    assert replace(recipe, pins=pins).key == recipe.key
    pins.write_text("cashu==0.16.5\n")
    assert len({recipe.key, replace(recipe, pins=pins).key, replace(recipe, over=("x",)).key}) == 3


def test_an_environment_that_could_not_be_made_is_made_anew_and_one_that_is_there_is_kept(tmp_path, monkeypatch):
    recipe, made, said = RECIPES["0.20.2"], [], []

    def make(recipe, folder, *, deadline):
        made.append(folder)
        assert not folder.exists(), "what was left unfinished is gone"
        folder.mkdir()
        if len(made) == 1:
            raise EnvironmentNotMade("no network")
        (folder / environments.READY).write_text("{}")

    monkeypatch.setattr(environments, "_make", make)
    with pytest.raises(EnvironmentNotMade):
        python_of(recipe, tmp_path, said.append)
    pythons = {python_of(recipe, tmp_path, said.append) for _ in range(3)}
    assert len(made) == 2
    assert pythons == {made[0] / "bin" / "python"}


def test_what_pip_says_is_in_the_error(tmp_path):
    with pytest.raises(EnvironmentNotMade, match="No module named nothing"):
        environments.logged([sys.executable, "-m", "nothing"], tmp_path / "log", deadline=time.monotonic() + 60)
    assert "No module named nothing" in (tmp_path / "log").read_text()


def test_cdk_mintd_is_built_once_and_by_one_at_a_time(tmp_path, monkeypatch):
    built, said = [], []

    def build(place, *, deadline):
        built.append(place)
        (place / "bin").mkdir(parents=True)
        (place / environments.READY).write_text("{}")

    monkeypatch.delenv(cdk.BINARY_ENV, raising=False)
    monkeypatch.setenv(environments.CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setattr(cdk, "_build", build)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert cdk.built() is None
    binaries = {cdk.build(said.append) for _ in range(3)}
    assert len(built) == 1
    assert binaries == {cdk.built()} == {built[0] / "bin" / "cdk-mintd"}


@pytest.mark.parametrize("missing", ["cargo", "protoc"])
def test_without_what_builds_it_cdk_mintd_is_not_made_and_the_line_says_what_is_missing(
    tmp_path, monkeypatch, capsys, missing
):
    monkeypatch.delenv(cdk.BINARY_ENV, raising=False)
    monkeypatch.setenv(environments.CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(EnvironmentNotMade, match=missing):
        cdk.build(lambda line: None)
    monkeypatch.setattr(sys, "argv", ["generations", "--only", CDK, "--make"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main() == 1
    assert missing in capsys.readouterr().err


def test_tests_on_cdk_mintd_are_left_out_by_one_line_where_it_is_not_built(tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in {cdk.BINARY_ENV, KIND_ENV}}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_cdk_mint.py"],
        cwd=environments.ROOT,
        env={**env, environments.CACHE_ENV: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, done.stdout
    assert cdk.NOT_BUILT in done.stdout
    assert "skipped" not in done.stdout
    assert len([line for line in done.stdout.splitlines() if "cdk-mintd" in line]) == 1


def test_a_mint_of_another_version_than_asked_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON_ENV, raising=False)
    monkeypatch.setenv(VERSION_ENV, "9.9.9")
    mint = NutshellMint(tmp_path)
    with pytest.raises(RuntimeError, match=r"asked for Nutshell 9\.9\.9"):
        mint.start_blocking()
    assert mint.pid is None


def test_the_launcher_by_its_path_takes_only_the_node_of_ours(tmp_path):
    """So it runs in an environment that has cashu and nothing of meltd."""
    script = (
        f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_path({str(LAUNCHER)!r});"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in {'melt', 'daemon', 'tests'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "['daemon.demo.lightning']"
