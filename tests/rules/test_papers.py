"""What the papers tell people to type exists: commands, options, settings, files."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from daemon.cli import commands as _registered  # noqa: F401 - the commands register themselves
from daemon.cli.root import app

ROOT = Path(__file__).parents[2]
PAPERS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "docs/adr/*.md", "grafana/*.md", "grafana/runbooks/*.md")
    for path in ROOT.glob(pattern)
)


def text_of(paper: Path) -> str:
    return paper.read_text(encoding="utf-8")


def commands(text: str) -> list[str]:
    """Each ``meltd ...`` in code, inline or in a block."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + inline
    found = []
    for line in lines:
        for part in re.split(r"&&|\||;", line):
            match = re.match(r"\s*(?:sudo (?:-u \w+ )?)?(?:\S*/)?meltd ([a-z].*)", part.split(" #")[0])
            if match:
                found.append(match[1].strip())
    return found


def unknown(line: str) -> str | None:
    """What of a command line the CLI does not know."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        below = command.commands.get(words[0])
        if below is None:
            return words[0]
        command, words = below, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    return next((word for word in words if word.startswith("--") and word.split("=")[0] not in options), None)


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_each_command_in_a_paper_exists(paper: Path):
    for line in commands(text_of(paper)):
        assert unknown(line) is None, line


def test_a_command_that_does_not_exist_would_be_noticed():
    assert unknown("frobnicate --now") == "frobnicate"
    assert unknown("status --frobnicate") == "--frobnicate"
    assert unknown("melts show ID --json") is None
    assert commands("```\nmeltd status | jq .\n```\nand `meltd melts show ID`") == ["status", "melts show ID"]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_each_relative_link_in_a_paper_leads_to_a_file(paper: Path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", text_of(paper)):
        assert (paper.parent / target).exists(), target


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_each_file_named_in_a_paper_exists(paper: Path):
    for target in re.findall(r"(?<![\w./-])((?:deploy|docs|grafana|melt|daemon|tests)/[\w./-]*\w)", text_of(paper)):
        assert any((ROOT / (target + ending)).exists() for ending in ("", ".py")), target


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_each_setting_named_in_a_paper_exists(paper: Path):
    documented = text_of(ROOT / "docs" / "configuration.md")
    sections = "mongo|socket|http|sweep|subscriptions|melt|store|log|webhook"
    for section, name in re.findall(rf"`({sections})\.([a-z_]+)`", text_of(paper)):
        assert f"## `[{section}]`" in documented
        assert f"| `{name}` |" in documented, f"{section}.{name}"


def test_the_readme_has_the_two_commands_that_the_continuous_integration_runs():
    lines = text_of(ROOT / "README.md").splitlines()
    assert len([line for line in lines if re.fullmatch(r"python3 -m venv .*/meltd demo", line)]) == 1
    assert len([line for line in lines if re.fullmatch(r"python3 -m venv .*/pytest( .*)?", line)]) == 1


def test_exact_versions_are_exact():
    lines = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert re.fullmatch(r"#.*|[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+", line), line
    assert not any("://" in line for line in lines)
