"""A repair's plan, its valuation and the adoption as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.cli.tables import facts, plain, table, when

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN_MAX = 50


def repair(body: Mapping[str, Any]) -> None:
    """What the double count is worth, what is done about it, and what is left."""
    users = [user for user in body["users"] if user["inflation"] or user["after"] != user["counted"]]
    _table(
        "What each user's balance is too high by",
        ("npub", "mint", "unit", "#counted", "#honoured", "#too high", "#after", "because of"),
        [
            (u["npub"], u["mint"], u["unit"], u["counted"], u["honoured"], u["inflation"], u["after"], _causes(u))
            for u in users
        ],
        empty="No balance is too high.",
    )
    _table(
        "Would be changed" if body["dry_run"] else "Changed",
        ("document", "npub", "type", "status", "to", "#amount", "#proofs out", "kept in", "because of"),
        [
            (
                step["token_id"],
                step["npub"],
                step["transaction_type"],
                step["status"],
                step["to_status"],
                step["amount"],
                sum(len(removal["ys"]) for removal in step["removals"]),
                ", ".join(removal["kept_in"] for removal in step["removals"][:3]),
                step["reason"],
            )
            for step in body["steps"]
        ],
        empty="Nothing is to be changed.",
    )
    _table(
        "Left as it is",
        ("why", "a person's?", "mint", "#value", "unit", "documents", "users", "proposed keeper"),
        [
            (
                one["reason"],
                one["needs_person"],
                one["mint"],
                one["value"],
                one["unit"],
                ", ".join(one["token_ids"][:4]),
                ", ".join(one["npubs"][:3]),
                one["proposed_keeper"],
            )
            for one in body["left"]
        ],
        empty="Nothing is left for a person.",
    )
    undone = [(f"left undone: {why}", count) for why, count in body["undone"].items()]
    facts(
        "",
        [
            (
                "looked at",
                f"{plain(body['documents'])} documents, {plain(body['proofs'])} proofs in {body['seconds']} s",
            ),
            ("stand twice", f"{plain(body['duplicates'])} proofs; {body['melted_documents']} melted documents count"),
            (
                "too high",
                ", ".join(f"{plain(value)} at {key}" for key, value in body["inflation"].items()) or "nothing",
            ),
            *([] if body["dry_run"] else [("changed", f"{body['applied']} of {body['planned']}")]),
            *undone,
            *([] if body["complete"] else [("more", "there is more than one run can hold: run it again afterwards")]),
            *[("error", text) for text in body["errors"]],
        ],
    )


def adoption(body: Mapping[str, Any]) -> None:
    """Whether the unique index stands or is wanted."""
    duplicates = "not counted" if body["duplicates"] is None else body["duplicates"]
    facts(
        "Unique index on the secrets of counted documents",
        [
            ("stands", body["indexed"]),
            ("mongo.unique_proofs", body["setting"]),
            ("adopted", when(body["adopted_at"])),
            ("because", body["reason"]),
            ("proofs that count twice", duplicates),
            ("stored before their source was spent", body["keeps_before_source"]),
            ("next step", body["next_step"]),
        ],
    )


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]], *, empty: str) -> None:
    more = f" (the first {SHOWN_MAX} of {len(rows)}; --json shows more)" if len(rows) > SHOWN_MAX else ""
    table(title + more, columns, rows[:SHOWN_MAX], empty=empty)


def _causes(user: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {plain(value)}" for name, value in user["causes"].items())
