"""
The mode in the database, and the gate that every write of the wallet's collections passes (:mod:`melt.model.mode`).

Reading the mode in a transaction would not do: its snapshot may be older than a switch that was committed since. So a
writing transaction *writes* to a gate, one of many so that writers seldom meet, and the switch writes them all: whichever
comes second meets a write conflict, starts again and sees what the first one has done. After a switch to ``observe`` is
committed, no transaction that passed before it can be.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import structlog
from pymongo.errors import DuplicateKeyError

from melt.errors import Code, Observing, StoreError
from melt.model import TERMINAL, Actor
from melt.model.indexes import IndexReport
from melt.model.mode import Mode, ModeChoice, more_careful
from melt.store.core import Core
from melt.store.faults import Retry, store_method
from melt.store.journal import encode, read_actor, record_time

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from melt.store.connect import Document

_log = structlog.get_logger("melt.store")

HEAD: Final = "mode"
GATES: Final = 32
"""With so many, four writers at once meet at one gate in a sixth of their tries, and wait some milliseconds then."""
HISTORY_MAX: Final = 20
_ITSELF: Final = Actor(name="meltd")
_ENDED: Final = sorted(state.value for state in TERMINAL)
_BEGINS: Final = (Mode.CORRECT.value,)
_FINISHES: Final = (Mode.CORRECT.value, Mode.ENDING.value)


class Modes(Core):
    """Implements :class:`melt.ports.ModeStore`."""

    # --- the gate ---

    def _pass_gate(self, session: ClientSession, *, finishing: bool) -> None:
        """
        Let this transaction write the wallet's collections; ``finishing`` what the journal has begun.

        A setting of this process that is more careful than the database forbids what would begin, and lets entries end:
        money that is under way is nobody's to leave lying. Raises :class:`melt.errors.Observing`.
        """
        if not finishing and self.setting_mode is Mode.OBSERVE:
            raise Observing
        gate = f"gate:{random.randrange(GATES)}"  # noqa: S311 - spreads writers, guards nothing
        open_for = {"_id": gate, "mode": {"$in": list(_FINISHES if finishing else _BEGINS)}}
        if self._c.mode.update_one(open_for, {"$inc": {"writes": 1}}, session=session).modified_count != 1:
            raise Observing

    # --- the choice ---

    @property
    def indexes(self) -> IndexReport:
        """See :meth:`melt.ports.ModeStore.indexes`."""
        return self._indexes.report

    @property
    def makes_indexes_at_start_only(self) -> bool:
        """See :meth:`melt.ports.ModeStore.makes_indexes_at_start_only`."""
        return self._indexes.embedded

    @store_method
    def mode(self) -> ModeChoice:
        """See :meth:`melt.ports.ModeStore.mode`."""
        return self._read(None)

    def settle_mode(self, setting: Mode | None) -> ModeChoice:
        """
        At start: what the database says, or what is decided where no person has chosen yet.

        A journal with entries was in ``correct`` and stays so; else an explicit setting decides; else documents that lie
        there already are somebody else's, and are looked at first.
        """
        self.setting_mode = setting
        now = self._now()

        def work(session: ClientSession) -> ModeChoice:
            head = self._c.mode.find_one({"_id": HEAD}, session=session)
            if head is not None and head["chosen"]:
                return self._write(session, _read_choice(head))
            mode, chosen, reason = self._undecided(session, setting)
            choice = ModeChoice(mode=mode, chosen=chosen, at=now, actor=_ITSELF, reason=reason)
            if head is not None and (head["mode"], head["chosen"], head["reason"]) == (mode, chosen, reason):
                choice = _read_choice(head)
            return self._write(session, choice)

        choice = self._run(work)
        self._say(choice, setting)
        return choice

    def _undecided(self, session: ClientSession, setting: Mode | None) -> tuple[Mode, bool, str]:
        for written in (self._c.melts, self._c.audit):
            if written.find_one({}, {"_id": 1}, session=session) is not None:
                return Mode.CORRECT, True, "the journal or the audit has entries: this database is corrected already"
        if setting is not None:
            return setting, setting is Mode.CORRECT, f"the setting mode = {setting}"
        if self._c.tokens.find_one({}, {"_id": 1}, session=session) is not None:
            return Mode.OBSERVE, False, "documents lie there that meltd did not make, and nobody has chosen yet"
        return Mode.CORRECT, False, "the token collection is empty"

    @store_method
    def switch_to_correct(self, *, actor: Actor, reason: str) -> ModeChoice:
        """See :meth:`melt.ports.ModeStore.switch_to_correct`."""
        present = self._read(None)
        if present.chosen and present.mode is Mode.CORRECT:
            return present
        choice = ModeChoice(mode=Mode.CORRECT, chosen=True, at=self._now(), actor=actor, reason=reason)
        self._run(lambda session: self._write_head(session, choice))
        self._set_gates(Mode.CORRECT)
        return choice

    @store_method
    def switch_to_observe(self, *, actor: Actor, reason: str, end_open: bool) -> ModeChoice:
        """
        See :meth:`melt.ports.ModeStore.switch_to_observe`.

        First nothing new may begin, gate by gate: one transaction over all of them would lose to busy writers again and
        again. Then the journal is counted, with nobody left who could add to it.
        """
        before = self._read(None)
        if before.chosen and before.mode is Mode.OBSERVE:
            return before
        ending = ModeChoice(mode=Mode.ENDING, chosen=True, at=self._now(), actor=actor, reason=reason)
        self._run(lambda session: self._write_head(session, ending))
        after = self._finish()
        if after.mode is not Mode.ENDING or end_open:
            return after
        number = self._run(self._open_entries_in)
        back = before if before.mode is Mode.CORRECT else after
        if back is before:
            self._run(lambda session: self._write_head(session, before))
            self._set_gates(before.mode)
        raise StoreError(
            Code.WRONG_STATE,
            f"{number} entries of the journal are open: their documents are reserved, and a payment may be under way",
            hint="let meltd end them first: meltd mode observe --end-open",
        )

    @store_method
    def finish_ending(self) -> ModeChoice:
        """See :meth:`melt.ports.ModeStore.finish_ending`."""
        return self._finish()

    def _finish(self) -> ModeChoice:
        """Shut what is open yet for what would begin, and where nothing is open in the journal, everything."""
        if self._read(None).mode is Mode.ENDING:
            self._set_gates(Mode.ENDING)
        now = self._now()

        def work(session: ClientSession) -> ModeChoice:
            present = self._read(session)
            if present.mode is not Mode.ENDING or self._open_entries_in(session):
                return present
            shut = {"_id": {"$ne": HEAD}, "mode": Mode.CORRECT.value}
            if self._c.mode.find_one(shut, {"_id": 1}, session=session) is not None:
                return present  # somebody has opened one meanwhile: the next look shuts it
            choice = ModeChoice(mode=Mode.OBSERVE, chosen=True, at=now, actor=present.actor, reason=present.reason)
            return self._write(session, choice)

        return self._run(work)

    def _set_gates(self, mode: Mode) -> None:
        """One gate after another, as long as the head says so: each waits for the few writers that are in it."""
        for number in range(GATES):

            def work(session: ClientSession, gate: str = f"gate:{number}") -> None:
                if self._read(session).mode is not mode:
                    return
                # Written even where it says so already: whoever sets it otherwise at this moment has to look again.
                changed = {"$set": {"mode": mode.value}, "$inc": {"writes": 1}}
                self._c.mode.update_one({"_id": gate}, changed, session=session)

            self._run(work)

    def _open_entries_in(self, session: ClientSession) -> int:
        """No new one can be committed beside a switch: reserving passes the gate that the switch writes."""
        return self._c.melts.count_documents({"state": {"$nin": _ENDED}}, session=session)

    def _read(self, session: ClientSession | None) -> ModeChoice:
        head = self._c.mode.find_one({"_id": HEAD}, session=session)
        if head is None:
            # Nobody has started here yet, or somebody has deleted it: the gates are shut then, too.
            return ModeChoice(
                mode=Mode.OBSERVE, chosen=False, at=self._now(), actor=_ITSELF, reason="the database holds no choice"
            )
        return _read_choice(head)

    def _write_head(self, session: ClientSession, choice: ModeChoice) -> ModeChoice:
        """What everybody reads. Whoever writes it at the same moment has to look again."""
        present = self._c.mode.find_one({"_id": HEAD}, session=session)
        if present is not None and _read_choice(present) == choice:
            return choice
        turn = {"at": choice.at, "mode": str(choice.mode), "actor": encode(choice.actor), "reason": choice.reason}
        history = [*(present or {}).get("history", ()), turn][-HISTORY_MAX:]
        head = {"_id": HEAD, "chosen": choice.chosen, **turn, "history": history}
        collided = False
        try:
            self._c.mode.replace_one({"_id": HEAD}, head, upsert=True, session=session)
        except DuplicateKeyError:
            collided = True
        if collided:
            raise Retry
        return choice

    def _write(self, session: ClientSession, choice: ModeChoice) -> ModeChoice:
        """The head and every gate, in one transaction; a gate that says the same already is not written."""
        self._write_head(session, choice)
        known = {raw["_id"]: raw["mode"] for raw in self._c.mode.find({"_id": {"$ne": HEAD}}, session=session)}
        missing = [f"gate:{number}" for number in range(GATES) if f"gate:{number}" not in known]
        if missing:
            fresh = [{"_id": gate, "mode": str(choice.mode), "writes": 0} for gate in missing]
            self._c.mode.insert_many(fresh, session=session)
        others = sorted(gate for gate, mode in known.items() if mode != choice.mode)
        if others:
            changed = {"$set": {"mode": str(choice.mode)}, "$inc": {"writes": 1}}
            self._c.mode.update_many({"_id": {"$in": others}}, changed, session=session)
        return choice

    @staticmethod
    def _say(choice: ModeChoice, setting: Mode | None) -> None:
        effective = more_careful(choice.mode, setting)
        told = _log.info if effective is Mode.CORRECT else _log.warning
        told(
            "the mode",
            mode=effective.value,
            in_database=choice.mode.value,
            chosen=choice.chosen,
            setting=None if setting is None else setting.value,
            reason=choice.reason,
            next_step=None
            if effective is Mode.CORRECT
            else "meltd adopt shows what is there and what would be changed",
        )

    # --- indexes ---

    @store_method
    def look_after_indexes(self, *, make: bool) -> IndexReport:
        """See :meth:`melt.ports.ModeStore.look_after_indexes`."""
        allowed = make and not self._indexes.embedded and self._may_change()
        return self._look(make=allowed, unique=False)

    def _may_change(self) -> bool:
        return more_careful(self._read(None).mode, self.setting_mode) is Mode.CORRECT

    def _look(self, *, make: bool, unique: bool, starting: bool = False) -> IndexReport:
        known = self._c.discrepancies.count_documents(
            {"type": "DUPLICATE_PROOF", "state": {"$in": ["open", "recurred", "acknowledged"]}}, limit=1
        )
        report = self._indexes.look(make=make, unique=unique, starting=starting, known_duplicates=known)
        self.unique_proofs_indexed = report.unique_proofs
        return report


def _read_choice(raw: Document) -> ModeChoice:
    return ModeChoice(
        mode=Mode(raw["mode"]),
        chosen=bool(raw["chosen"]),
        at=record_time(raw["at"]),
        actor=read_actor(raw["actor"]),
        reason=str(raw["reason"]),
    )
