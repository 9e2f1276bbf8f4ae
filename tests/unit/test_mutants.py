"""The catalogue of planted bugs stays applicable: a mutant that no longer applies kills nothing."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import applies
from tests.mutants.catalogue import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_code_as_it_is(mutant: Mutant) -> None:
    assert applies(mutant), f"{mutant.file} no longer holds the text once"


def test_there_are_enough_of_them() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
