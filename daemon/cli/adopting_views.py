"""A survey and the mode as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon.cli.tables import facts, plain, table, when

if TYPE_CHECKING:
    from collections.abc import Mapping

SHOWN_MAX = 50


def mode(body: Mapping[str, Any]) -> None:
    """The mode in force, who chose it, and the indexes."""
    by = body["chosen_by"]
    facts(
        "Mode",
        [
            ("mode", body["mode"]),
            ("because", body["reason"]),
            ("in the database", f"{body['in_database']}{'' if body['chosen'] else ', chosen by nobody yet'}"),
            ("since", when(body["chosen_at"])),
            ("by", by["name"] if by["uid"] is None else f"{by['name']} (uid {by['uid']})"),
            ("setting", body["setting"]),
        ],
    )
    _indexes(body)


def survey(body: Mapping[str, Any]) -> None:
    """What is there, what would be changed and when, and what a person should know."""
    table(
        f"{plain(body['documents'])} documents, {plain(body['proofs'])} proofs, {plain(body['users'])} users",
        ("status", "type", "#documents", "#proofs", "#value", "unit"),
        [
            (h["status"], h["transaction_type"], h["documents"], h["proofs"], h["value"], h["unit"])
            for h in body["holdings"]
        ],
        empty="There are no documents.",
    )
    table(
        "Drift",
        ("type", "severity", "rule", "mint", "#number", "#value", "unit"),
        [(d["type"], d["severity"], d["action"], d["mint"], d["number"], d["value"], d["unit"]) for d in body["drift"]],
        empty="No drift was found.",
    )
    more = f" (the first {SHOWN_MAX} of {body['changes_count']}; --json shows more)"
    table(
        "Would be changed" + (more if body["changes_count"] > SHOWN_MAX else ""),
        ("document", "npub", "status", "what", "because of", "#proofs", "#value", "unit", "#in s"),
        [
            (
                c["token_id"],
                c["npub"],
                c["status"],
                c["action"],
                c["type"],
                f"{c['proofs']}/{c['of_proofs']}",
                c["value"],
                c["unit"],
                round(c["in_s"]),
            )
            for c in body["changes"][:SHOWN_MAX]
        ],
        empty="Nothing would be changed.",
    )
    table(
        "Proofs in several documents",
        ("pattern", "#proofs", "#value"),
        [(c["pattern"], c["proofs"], c["value"]) for c in body["copies"]],
        empty="Every proof lies in one document.",
    )
    _indexes(body)
    others = body["others"]
    sent = ", ".join(f"{plain(value)} {unit}" for unit, value in body["sent_as_unspent"].items()) or "nothing"
    facts(
        "",
        [
            ("sent, yet unspent", f"{body['sent_as_unspent_documents']} documents, {sent}"),
            ("somebody else spends", f"{plain(others['somebody_spends'])} ({others['cleared']} put right by others)"),
            ("spent rolled back", f"{plain(others['somebody_rolls_back'])} ({others['rolled_back']} documents)"),
            ("corrected after", f"{body['correct_after_s']:g} s of standing still"),
            ("mode now", body["mode"]),
            *[("note", text) for text in body["advice"]],
            *([] if body["complete"] else [("incomplete", "there is more than was looked at")]),
            *[("error", text) for text in body["errors"]],
        ],
    )


def _indexes(body: Mapping[str, Any]) -> None:
    table(
        "Indexes in the wallet's collections",
        ("collection", "index", "state", "what for", "#about s"),
        [
            (
                i["collection"],
                i["name"],
                _state(i),
                i["purpose"],
                None if i["seconds"] is None else f"{i['seconds']:.1f}",
            )
            for i in body["indexes"]
        ],
        empty="None was looked for yet.",
    )


def _state(index: Mapping[str, Any]) -> str:
    if index["state"] == "missing" and index["on_a_yes"]:
        return "not asked for"
    return f"{index['state']}{'' if index['detail'] is None else ': ' + index['detail']}"
