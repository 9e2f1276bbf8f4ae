"""What the neighbour is installed from, and what is said where it can't be."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.neighbour import install
from tests.neighbour.process import why_skipped


@pytest.mark.parametrize("program", ["node", "npm"])
def test_tests_skip_by_the_name_of_what_is_missing(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in {"node", "npm"} - {program}:
        (tmp_path / other).symlink_to(shutil.which("true") or "/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_skipped() == f"{program} is not installed: the neighbour's tests need it"


def test_the_lock_pins_every_package_and_names_no_place_to_get_it_from() -> None:
    lock = json.loads((install.SERVICE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert {"node_modules/mongoose", "node_modules/@cashu/cashu-ts"} <= packages.keys()
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert entry["integrity"].startswith("sha512-"), name
    wanted = json.loads((install.SERVICE / "package.json").read_text())["dependencies"]
    assert wanted == {name: packages[f"node_modules/{name}"]["version"] for name in wanted}
    assert wanted["mongoose"].startswith("8.")
    assert wanted["@cashu/cashu-ts"].startswith("2.5.")


def test_another_service_gets_a_folder_of_its_own_beside_the_same_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := why_skipped()) is not None:
        pytest.skip(reason)
    folder = install.service_folder()
    assert install.service_folder() == folder
    assert {file.name: file.read_bytes() for file in install.SERVICE.glob("*.mjs")} == {
        file.name: file.read_bytes() for file in folder.glob("*.mjs")
    }
    changed = tmp_path / "service"
    shutil.copytree(install.SERVICE, changed)
    (changed / "main.mjs").write_text("// another\n")
    monkeypatch.setattr(install, "SERVICE", changed)
    other = install.service_folder()
    try:
        assert other != folder
        assert other.parent == folder.parent
        assert (other / "main.mjs").read_text() == "// another\n"
        assert os.access(other.parent / "node_modules" / "mongoose", os.R_OK)
    finally:
        shutil.rmtree(other)
