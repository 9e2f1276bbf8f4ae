"""Every row of the fault table."""

from __future__ import annotations

from tests.faults import answers, backend, change, crashes, load, network, outages
from tests.faults.cases import Case, Skipped


def all_cases(*, kills: int = 200) -> list[Case]:
    """The cases, in the order of the table."""
    return [
        *answers.cases(),
        *backend.cases(),
        *change.cases(),
        *network.cases(),
        *outages.cases(),
        *crashes.cases(),
        *load.cases(kills=kills),
    ]


def skipped() -> list[Skipped]:
    """What has no case, with the reason in words."""
    return [*crashes.skipped()]
