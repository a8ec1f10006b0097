"""What there is to tell, how urgent each is, and the facts that a notice carries. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class NoticeKind(StrEnum):
    """The value is the ``type`` of a signed event."""

    STARTED = "rotation.started"
    APPROVAL_WANTED = "rotation.approval_wanted"
    GLASS_BROKEN = "rotation.break_glass"
    REVIEW_OVERDUE = "rotation.review_overdue"
    ATTENTION = "rotation.attention"
    ROLLED_BACK = "rotation.rolled_back"
    FINISHED = "rotation.finished"
    CANCELLED = "rotation.cancelled"
    LATE = "rotation.late"
    STANDS = "rotation.stands"
    STRAGGLERS = "rotation.stragglers"
    UNDEAD_KEY = "rotation.undead_key"
    REMINDER = "rotation.reminder"
    EMERGENCY = "rotation.emergency"
    RUN_PROPOSED = "emergency.proposed"
    RUN_STARTED = "emergency.started"
    RUN_STOPPED = "emergency.stopped"
    RUN_STUCK = "emergency.stuck"
    RUN_FINISHED = "emergency.finished"
    DRIFT = "drift.found"
    EXPIRING = "key.expiring"
    TOKEN_REPLAYED = "token.replayed"
    TOKEN_CROWDED = "token.crowded"
    TOKEN_LEAKED = "token.leaked"
    TOKEN_EXPIRING = "token.expiring"
    ACCOUNT = "account.changed"
    BEAT_DEAD = "keyturn.beat_dead"
    AUDIT_UNPROVED = "keyturn.audit_unproved"
    TEST = "keyturn.test"


# What can wait for the daily message. Everything else is told at once, whatever the channel says.
CAN_WAIT = frozenset({NoticeKind.STARTED, NoticeKind.FINISHED, NoticeKind.CANCELLED})


# What everybody hears who hears anything of the team, owners or not.
FOR_ALL = frozenset({NoticeKind.EMERGENCY, NoticeKind.GLASS_BROKEN, NoticeKind.REVIEW_OVERDUE})


@dataclass(frozen=True)
class Facts:
    """What a notice tells: names, numbers and Keyturn's own sentences. Never a secret, nor what people typed.

    ``at`` and ``since`` are ISO 8601 with zone; ``verbs`` are what a person may do now.
    """

    at: str
    service: str = ""
    environment: str = ""
    rotation: str = ""
    stage: str = ""
    outgoing: int | None = None
    incoming: int | None = None
    code: str = ""
    reason: str = ""
    who: str = ""
    level: str = ""
    since: str = ""
    verbs: tuple[str, ...] = ()
    provider: str = ""
    provider_key: str = ""  # what the provider calls the key: its label, or its id
    run: str = ""
    what: str = ""  # what an emergency run is about, in words
    items: int | None = None  # the secrets of a run that the reader may know of
    waiting: int | None = None  # of these, not begun yet
    left: int | None = None  # of these, still honoured
    names: tuple[str, ...] = ()  # the first of those that are left
    consumer: str = ""  # whose token it is about
    token: str = ""  # its hint
    place: str = ""  # where it was used, or found

    @property
    def key(self) -> str:
        return f"{self.service}/{self.environment}"

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in ("", None, ())}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Facts:
        """The facts of a stored notice; a member of an older or newer Keyturn is passed over."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        lists = {name: tuple(values.get(name, ())) for name in ("verbs", "names")}
        return cls(**{**values, **lists})


def kind_of(name: str, *, trigger: str, code: str, stage: str, reason: str) -> NoticeKind | None:
    """What a line of a rotation's timeline is to be told as; None where it interests nobody outside.

    ``code`` is that of an attention, or of the incident that an escalation is about.
    """
    match name:
        case "started":
            return NoticeKind.EMERGENCY if trigger == "emergency" else NoticeKind.STARTED
        case "advanced" | "abort:asked" if reason.startswith("emergency:"):
            return NoticeKind.EMERGENCY
        case "attention" | "escalated":
            return _OF_CODE.get(code, NoticeKind.ATTENTION)
        case "finished":
            # A rollback is told when it happens.
            return _OF_END.get(stage)
    return _OF_NAME.get(name)


_OF_NAME = {
    "approval:wanted": NoticeKind.APPROVAL_WANTED,
    "glass:broken": NoticeKind.GLASS_BROKEN,
    "glass:overdue": NoticeKind.REVIEW_OVERDUE,
    "rollback": NoticeKind.ROLLED_BACK,
    "late": NoticeKind.LATE,
    "stands": NoticeKind.STANDS,
}
_OF_CODE = {
    "stragglers": NoticeKind.STRAGGLERS,
    "undead_key": NoticeKind.UNDEAD_KEY,
    "late": NoticeKind.LATE,
    "stands": NoticeKind.STANDS,
}
_OF_END = {"succeeded": NoticeKind.FINISHED, "cancelled": NoticeKind.CANCELLED}
