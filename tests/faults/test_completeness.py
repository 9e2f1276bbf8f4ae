"""The fault table leaves nothing out: a new boundary, endpoint or row of MINTS.md needs a case, or a reason in words."""

from __future__ import annotations

import ast
from pathlib import Path

import melt.store
from melt.failpoints import BOUNDARIES, COMMITTING, ENDPOINTS
from tests.faults import answers, crashes, network
from tests.faults.network import ACTS
from tests.faults.table import all_cases, skipped
from tests.support.proxy import Act


def test_every_boundary_of_effect_has_a_case_or_a_reason() -> None:
    without_case, without_boundary = crashes.unlisted()

    assert without_case == frozenset(), "new boundaries: add them to tests/faults/crashes.py"
    assert without_boundary == frozenset(), "these boundaries are gone"
    assert frozenset(crashes.CRASHES) < BOUNDARIES


def _committing_in_the_code() -> set[str]:
    """The store's methods that reach a transaction, by the calls in their source."""
    calls: dict[str, set[str]] = {}
    methods: set[str] = set()
    for file in Path(str(melt.store.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            if any(isinstance(one, ast.Name) and one.id == "store_method" for one in node.decorator_list):
                methods.add(node.name)
            calls.setdefault(node.name, set()).update(
                one.func.attr
                for one in ast.walk(node)
                if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)
                if isinstance(one.func.value, ast.Name) and one.func.value.id == "self"
            )
    reach = {"_run", "_run_fenced"}
    while more := {name for name, called in calls.items() if called & reach} - reach:
        reach |= more
    return methods & reach


def test_every_method_that_commits_is_a_boundary() -> None:
    found = _committing_in_the_code()

    assert len(found) > 20
    assert found - COMMITTING == set(), "new methods that commit: add them to melt.failpoints"


def test_every_fault_of_the_proxy_is_tried_on_every_endpoint() -> None:
    names = {case.name for case in network.cases()}
    for endpoint in ENDPOINTS:
        for act in ACTS:
            act_name = act.name.lower().replace("_", "-")
            found = [n for n in names if n.split("/")[1].split("-")[0] == endpoint and n.endswith(f"/{act_name}")]
            assert found, f"{endpoint}: {act.value}"
    assert {*ACTS, Act.REFUSE, Act.REWRITE, Act.EDIT} == set(Act)


def test_every_code_of_every_generation_is_answered_with_and_without_a_payment() -> None:
    names = {case.name for case in answers.cases()}
    for what, codes in answers.CODES.items():
        for code in {code for code in codes if code is not None}:
            name = f"answers/{what.replace(' ', '-')}-{code}"
            assert {f"{name}/not-asked", f"{name}/paid"} <= names


def test_rows_have_names_of_their_own_and_what_has_no_case_has_a_reason() -> None:
    names = [case.name for case in all_cases()]

    assert len(names) == len(set(names))
    assert all(len(row.reason.split()) > 5 for row in skipped())
