"""What plans, single discrepancies and stories look like on a terminal."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from daemon.cli.tables import console, facts, plain, table, when

Body = dict[str, Any]


def plans(body: Body) -> None:
    """A list of plans."""
    rows = [
        (item["id"], item["state"], item["scope"]["mint"], item["items"], _who(item["made_by"]), when(item["made_at"]), _approvals(item), item["done"])
        for item in body["plans"]
    ]  # fmt: skip
    columns = ("id", "state", "mint", "#items", "made by", "made (UTC)", "approvals", "#done")
    table("Plans", columns, rows, empty="No plans.")


def plan(body: Body) -> None:
    """One plan with its totals."""
    scope = body["scope"]
    facts(
        f"Plan {body['id']}",
        [
            ("state", body["state"]),
            ("made", f"{when(body['made_at'])} UTC by {_who(body['made_by'])}"),
            ("of", ", ".join(plain(part) for part in (scope["mint"], scope["npub"]) if part) or "everything"),
            ("expires (UTC)", when(body["expires_at"])),
            ("items", body["items"]),
            ("left out", body["left_out"]),
            *([("now", "applied without waiting until its documents have stood still")] if body["now"] else []),
            ("approvals", _approvals(body)),
            *[
                ("approved by", f"{_who(one['by'])} at {when(one['at'])} UTC: {plain(one['reason'])}")
                for one in body["approvals"]
            ],
            ("ended (UTC)", when(body["ended_at"])),
            ("why", body["reason"]),
            ("done", body["done"]),
            *[("left", f"{count}: {plain(why)}") for why, count in body["why_left"].items()],
        ],
    )
    rows = [
        (one["type"], one["action"], one["mint"], one["items"], one["value"], one["unit"]) for one in body["totals"]
    ]
    table("Totals", ("type", "action", "mint", "#items", "#value", "unit"), rows, empty="")


def plan_with_items(body: Body) -> None:
    """One plan, item by item."""
    plan(body["plan"])
    rows = [
        (item["type"], item["action"], item["mint"], item["token_id"], item["expected_status"], len(item["ys"]), item["value"], item["unit"], item["npub"])
        for item in body["items"]
    ]  # fmt: skip
    columns = ("type", "action", "mint", "document", "is", "#proofs", "#value", "unit", "npub")
    shown = f"Items {body['skip'] + 1} to {body['skip'] + len(rows)} of {body['plan']['items']}"
    table(shown, columns, rows, empty="No items.")


def made(body: Body) -> None:
    """What making a plan came to."""
    if body["plan"] is None:
        waiting = [("left out", f"{body['left_out']}: not settled yet, or acknowledged")] if body["left_out"] else []
        facts("Nothing to correct now", waiting)
    else:
        plan(body["plan"])
    facts(
        "",
        [
            ("looked at", f"{plain(body['documents'])} documents, {plain(body['proofs'])} proofs"),
            *[("error", text) for text in body["errors"]],
            *([("next", f"meltd plans show {body['plan']['id']}")] if body["plan"] else []),
        ],
    )


def discrepancy(body: Body) -> None:
    """One discrepancy and its life."""
    item = body["discrepancy"]
    facts(
        item["id"],
        [
            ("state", item["state"]),
            ("severity", item["severity"]),
            ("action", item["action"]),
            ("mint", item["mint"]),
            ("npub", item["npub"]),
            (f"value ({item['unit']})", item["value"]),
            ("proofs", len(item["ys"])),
            ("age", age(item["age_s"])),
            ("seen", f"{item['sightings']} times, last {when(item['last_seen'])} UTC"),
            ("opened", f"{item['occurrence']} times, last {when(item['first_seen'])} UTC"),
            *[(f"evidence: {plain(name)}", value) for name, value in item["evidence"].items()],
        ],
    )
    rows = [
        (when(turn["at"]), turn["what"], None if turn["by"] is None else _who(turn["by"]), turn["reason"])
        for turn in body["history"]
    ]
    table("History", ("at (UTC)", "what", "by", "why"), rows, empty="No history.")


def story(body: Body) -> None:
    """Lines in order of time, and where it stands."""
    out = console()
    out.print(Text(f"{body['kind']} {plain(body['subject'])}", style="bold"))
    for line in body["lines"]:
        out.print(Text(f"{when(line['at'])} {plain(line['text'])}"))
    for text in body["left_out"]:
        out.print(Text(f"left out: {plain(text)}", style="dim"))
    for text in body["now"]:
        out.print(Text(f"now: {plain(text)}", style="bold"))


def age(seconds: int | None) -> str:
    """A duration in its largest units."""
    if seconds is None:
        return "-"
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"


def _who(actor: Body) -> str:
    return plain(actor["name"]) if actor["uid"] is None else f"uid {actor['uid']}"


def _approvals(body: Body) -> str:
    return f"{len(body['approvals'])} of {body['approvals_needed']}"
