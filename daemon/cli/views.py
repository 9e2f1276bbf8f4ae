"""What each answer looks like on a terminal."""

from __future__ import annotations

from typing import Any

from daemon.cli.plan_views import age
from daemon.cli.progress import sweeps
from daemon.cli.tables import console, facts, plain, table, when

Body = dict[str, Any]


def melt(body: Body) -> None:
    """One melt."""
    atomic = body.get("atomic_result") or {}
    error = body.get("error") or {}
    unit = body["unit"]
    facts(
        f"Melt {body['id']}",
        [
            ("state", body["state"]),
            ("payment", body["payment_result"]),
            ("npub", body["npub"]),
            ("mint", body["mint"]),
            (f"amount ({unit})", body["amount"]),
            (f"paid ({unit})", body["paid_amount"]),
            (
                f"fees ({unit})",
                f"Lightning {plain(body['fees_paid'])}, inputs {body['input_fee']}, swap {body['swap_fee']}",
            ),
            (f"change ({unit})", body["change_amount"]),
            (f"kept ({unit})", atomic.get("keep_amount")),
            (f"shortfall ({unit})", body["shortfall"]),
            *([(f"gone, nobody knows for what ({unit})", body["unaccounted"])] if body["unaccounted"] else []),
            ("quote", body["quote_id"]),
            ("transaction", body["transaction_id"]),
            ("preimage", body["payment_preimage"]),
            ("took", None if body["operation_duration_ms"] is None else f"{body['operation_duration_ms']} ms"),
            ("error", f"{error.get('code')}: {error.get('detail')}" if error else None),
        ],
    )
    if body["altered"]:
        rows = [
            (when(one["seen_at"]), one["token_id"], one["what"], one["done"], one["amount"], when(one["changed_at"]))
            for one in body["altered"]
        ]
        columns = (
            "seen (UTC)",
            "document",
            "what another writer did",
            "what was done instead",
            f"#{unit}",
            "its own date",
        )
        table("Changed by others while it was reserved", columns, rows, empty="")


def evidence(body: Body) -> None:
    """What there is to see about a melt before deciding."""
    journal, mint = body["journal"], body["at_mint"]
    quote = mint["quote"]
    melt(body["melt"])
    counted = mint["inputs_by_state"]
    told = "asked now" if quote is not None else mint["quote_error"] or "not asked: the payment may be running"
    facts(
        "Evidence",
        [
            ("our request", f"{journal['post']}, sent {when(journal['posted_at'])} UTC"),
            ("mint's code", journal["post_code"]),
            ("contradiction", journal["contradiction"]),
            ("since", when(journal["contradiction_since"])),
            ("quote at the mint", f"{plain(quote['state'] if quote else None)} ({plain(told)})"),
            (
                "inputs at the mint",
                ", ".join(f"{count} {state}" for state, count in counted.items()) if counted else mint["inputs_error"],
            ),
            ("inputs' worth", f"{journal['inputs_amount']} {body['melt']['unit']}"),
            ("decided before", journal["decision"]),
        ],
    )
    events(body["events"])
    rows = [
        (when(entry["at"]), entry["token_id"], entry["from_status"], entry["to_status"], entry["amount"], entry["reason"], entry["actor"]["name"])
        for entry in body["audit"]
    ]  # fmt: skip
    table("Audit", ("at (UTC)", "document", "from", "to", "#amount", "why", "by"), rows, empty="No status was changed.")
    decisions = [(name, "yes" if yes else "no", body["forbidden"].get(name)) for name, yes in body["allowed"].items()]
    table("What can be decided", ("outcome", "allowed", "why not"), decisions, empty="")


def melts(body: Body) -> None:
    """A list of melts."""
    rows = [
        (item["id"], item["state"], item["mint"], item["npub"], item["amount"], item["fees_paid"], item["unit"], when(item["created_at"]))
        for item in body["melts"]
    ]  # fmt: skip
    columns = ("id", "state", "mint", "npub", "#amount", "#fees", "unit", "created (UTC)")
    table("Melts", columns, rows, empty="No melts.")


def wallets(body: Body) -> None:
    """One user's balances."""
    rows = []
    for wallet in body["wallets"]:
        for status, held in sorted(wallet["balances"].items()):
            rows.append(
                (wallet["mint"] or wallet["mint_url"], wallet["unit"], status, held["amount"], held["locked"], held["proofs"], held["documents"])
            )  # fmt: skip
    columns = ("mint", "unit", "status", "#amount", "#locked", "#proofs", "#documents")
    table(f"Wallet {body['npub']}", columns, rows, empty="No ecash.")
    can = [(wallet["mint"] or wallet["mint_url"], wallet["unit"], wallet["spendable"]) for wallet in body["wallets"]]
    table("Can be paid with now, input fees taken", ("mint", "unit", "#amount"), can, empty="")
    rest = [
        (wallet["mint"] or wallet["mint_url"], wallet["unit"], one["amount"], one["reason"], one["detail"])
        for wallet in body["wallets"]
        for one in wallet.get("not_spendable", ())
    ]
    if rest:
        table("Can't be paid with now", ("mint", "unit", "#amount", "reason", "in words"), rest, empty="")


def findings(items: list[Body], title: str) -> None:
    """Discrepancies, or what a dry run found."""
    rows = [
        (item["type"], item["severity"], _state(item), item["action"], item["mint"], item["value"], item["unit"], item["subject"], age(item["age_s"]), when(item["last_seen"]))
        for item in items
    ]  # fmt: skip
    columns = ("type", "severity", "state", "action", "mint", "#value", "unit", "subject", "age", "last seen (UTC)")
    table(title, columns, rows, empty="No discrepancies.")


def _state(item: Body) -> str | None:
    """The record's state, and how long it still waits."""
    state: str | None = item["state"]
    if state is None or not (item["settling"] or item["settles_in_s"]):
        return state
    wait_s = item["settles_in_s"]
    return f"{state}, settling" if not wait_s else f"{state}, carried out in {age(wait_s)}"


def reconcile(body: Body) -> None:
    """What a reconciliation did."""
    findings(body["found"], "Would be found" if body["dry_run"] else "Found")
    verb = "would correct" if body["dry_run"] else "corrected"
    count = body["planned"] if body["dry_run"] else body["corrected"]
    facts(
        "",
        [
            (
                "looked at",
                f"{plain(body['documents'])} documents, {plain(body['proofs'])} proofs in {body['seconds']} s",
            ),
            (verb, f"{count} of {len(body['found'])} found"),
            *(
                [("settling", f"{body['settling']} wait until their documents have stood still")]
                if body["settling"]
                else []
            ),
            *[("error", text) for text in body["errors"]],
        ],
    )


def events(items: list[Body]) -> None:
    """CRITICAL events."""
    rows = [
        (item["id"], item["type"], item["subject"], "open" if item["resolved_at"] is None else "resolved", item["sightings"], when(item["opened_at"]), item["detail"])
        for item in items
    ]  # fmt: skip
    columns = ("id", "type", "subject", "state", "#seen", "opened (UTC)", "detail")
    table("CRITICAL events", columns, rows, empty="No events.")


def status(body: Body) -> None:
    """The daemon on one page."""
    condition = "draining" if body["draining"] else "paused" if body["paused"] else "running"
    reason = f" ({plain(body['paused_reason'])})" if body["paused"] else ""
    open_melts = ", ".join(f"{count} {state}" for state, count in body["open_melts"].items()) or "none"
    store = "ok" if body["store_ok"] else f"down: {plain(body['store_error'])}"
    facts(
        f"meltd {body['version']}",
        [
            ("state", condition + reason),
            ("up for", _duration(body["uptime_s"])),
            ("instance", body["instance_id"]),
            ("store", store + (" (embedded)" if body["embedded"] else "")),
            ("data", body["data_dir"]),
            ("metrics", body["metrics_url"]),
            ("open melts", open_melts),
            ("open events", body["open_events"]),
            ("open discrepancies", sum(body["open_discrepancies"].values())),
            *([("settling", _settling(body["settling"]))] if _waits(body["settling"]) else []),
            *[
                ("plan", f"{plan['id']} {plan['state']}: {plan['items']} items at {plain(plan['mint'])}")
                for plan in body["open_plans"]
            ],
        ],
    )
    rows = []
    for mint in body["mints"]:
        sweep = mint["sweep"] or {}
        up = {True: "up", False: "down", None: "-"}[mint["up"]]
        flags = " ".join(name for name in ("paused", "frozen") if mint[name]) or "-"
        lease = mint.get("lease") or {}
        swept_by = "here" if lease.get("here") else plain(lease.get("holder"))
        progress = f"{plain(sweep['documents'])} of {plain(sweep['total_documents'])}" if sweep else "-"
        corrected = sum(sweep["corrected"].values()) if sweep else None
        hints = (mint["hints"] or {}).get("link", "off")
        rows.append((mint["alias"], mint["url"], up, flags, hints, progress, swept_by, corrected, when(sweep.get("finished_at")), mint["open_melts"], mint["error"]))  # fmt: skip
    columns = (
        "mint",
        "url",
        "up",
        "flags",
        "hints",
        "swept",
        "by",
        "#corrected",
        "tour ended (UTC)",
        "#open melts",
        "error",
    )
    table("Mints", columns, rows, empty="No mints are configured.")
    if body["mints"]:
        console().print(sweeps(body))
    stalled = [loop for loop in body["loops"] if loop["stalled"] or loop["restarts"]]
    if stalled:
        loops = [(loop["name"], loop["stalled"], loop["restarts"], f"{loop['turned_s_ago']} s") for loop in stalled]
        table("Loops in trouble", ("loop", "stalled", "#restarts", "last turn"), loops, empty="")
    for mint in body["mints"]:
        _ways(mint["alias"], mint.get("ways"))


def _ways(alias: str, ways: Body | None) -> None:
    """What of a mint can't be used, where there is anything."""
    if ways is None or (ways["usable"] and not ways["unusable_count"] and not ways["wants_login"]):
        return
    login = [("wants a login for", plain(one)) for one in ways["wants_login"]]
    told = [("can't be used", plain(one)) for one in ways["unusable"]]
    more = ways["unusable_count"] - len(ways["unusable"])
    facts(
        f"Mint {alias}",
        [
            ("melts", "no melt is begun here" if not ways["usable"] else "are begun here"),
            *([("melting", "disabled by the mint")] if ways["melting_disabled"] else []),
            *login,
            *told,
            *([("and", f"{more} more")] if more > 0 else []),
        ],
    )


def _waits(settling: Body) -> bool:
    return bool(settling["settling"] or settling["waiting"])


def _settling(settling: Body) -> str:
    """How many records wait, and what the youngest are worth."""
    worth = ", ".join(f"{amount} {unit}" for unit, amount in settling["amounts"].items())
    young = f"{settling['settling']} page nobody yet" + (f", worth {worth}" if worth else "")
    stuck = f"; {settling['unsettled']} do not come to rest" if settling["unsettled"] else ""
    return f"{young}; {settling['waiting']} wait to be carried out{stuck}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in parts if count)[:40] or "0 s"
