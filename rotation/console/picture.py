"""Everything that the page of one rotation shows, gathered once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyvault.actors import SYSTEM, Actor
from keyvault.models.activity import OUTCOMES
from rotation.console.ahead import Ahead, ahead
from rotation.console.choices import Choice, choices, seen_mark
from rotation.console.rail import Stop, rail
from rotation.console.stragglers import Stragglers, stragglers
from rotation.console.traffic import Traffic, traffic
from rotation.console.withheld import Withheld, withheld
from rotation.facts import ROUTINE, Counts, Observations, Stage
from rotation.gather import ROUTINE_CALLS
from rotation.minutes import totals, versions_of
from rotation.models import Operation, Rotation, RotationEvent
from rotation.observe import observe
from rotation.policy import Policy, from_json

OUTCOME_WORDS: Mapping[str, str] = {
    "ok": "answered",
    "auth_invalid": "key rejected",
    "auth_missing": "no key sent",
    "rate_limited": "rate-limited",
    "not_found_job": "job not found",
    "client_error": "caller's own error",
    "server_error": "provider error",
    "timeout": "timed out",
}
_BLAMED = ("auth_invalid", "server_error", "timeout")

EVENT_TONES: Mapping[str, str] = {
    "rollback": "bad",
    "attention": "bad",
    "abort:asked": "warn",
    "revoke:forced": "bad",
    "paused": "warn",
    "declined": "warn",
    "glass:broken": "bad",
    "glass:overdue": "warn",
    "stage": "info",
    "weight": "info",
    "finished": "good",
}
EVENT_WORDS: Mapping[str, str] = {
    "started": "Started",
    "stage": "Stage {stage}",
    "weight": "Weight {weight} %",
    "paused": "Paused",
    "resumed": "Resumed",
    "advanced": "Moved on by hand",
    "extended": "Given more time",
    "gap": "No key from here on",
    "gap:over": "The new key works",
    "attention": "A person is needed",
    "attention:cleared": "Taken care of",
    "approval:wanted": "Waits for an approval",
    "approved": "Approved",
    "declined": "Declined",
    "glass:broken": "Approved by one person alone",
    "glass:reviewed": "Break-glass reviewed",
    "glass:overdue": "Break-glass not reviewed in time",
    "abort:asked": "Abort asked for",
    "rollback": "Rolled back",
    "supplied": "New key supplied",
    "revoke:confirmed": "Revoke confirmed",
    "revoke:forced": "Revoke forced",
    "operation": "Provider called",
    "finished": "Finished",
    "reminded": "Owners reminded",
}


@dataclass(frozen=True)
class ShareLine:
    name: str
    value: float | None
    meaning: str


@dataclass(frozen=True)
class OutcomeLine:
    """One outcome: counts of both versions, in the window of the verdict and since the start."""

    word: str
    blamed: bool
    old_now: int
    new_now: int
    old: int
    new: int

    @property
    def empty(self) -> bool:
        return not (self.old_now or self.new_now or self.old or self.new)


@dataclass(frozen=True)
class EventLine:
    """One line of the timeline; ``actor`` is empty where Keyturn itself acted."""

    event: RotationEvent
    title: str
    tone: str
    actor: str
    reason: str


@dataclass(frozen=True)
class Picture:
    """The rotation as its page shows it."""

    rotation: Rotation
    policy: Policy
    seen: Observations
    stops: Sequence[Stop]
    traffic: Traffic | None
    shares: Sequence[ShareLine]
    outcomes: Sequence[OutcomeLine]
    events: Sequence[EventLine]
    operations: Sequence[Operation]
    choices: Sequence[Choice]
    withheld: Sequence[Withheld]
    stragglers: Stragglers
    ahead: Ahead | None
    mark: str

    @property
    def shown_outcomes(self) -> list[OutcomeLine]:
        """Success and the failures that a key is blamed for, always; the others when there were any."""
        return [line for line in self.outcomes if line.blamed or line.word == "answered" or not line.empty]

    @property
    def monitored_percent(self) -> int:
        needed = self.policy.monitor.total_seconds()
        return min(100, int(100 * self.rotation.monitored_seconds / needed)) if needed else 100

    @property
    def clock_reason(self) -> str:
        """Why the monitor clock stands still; empty while it runs or has run its time."""
        if self.rotation.stage != Stage.MONITOR:
            return "" if self.rotation.monitored_seconds else "It runs in the stage monitor."
        return "" if self.monitored_percent == 100 else self.rotation.clock_note

    @property
    def error_rates(self) -> list[str]:
        """Of outgoing and incoming: in the window while it is open, then since the start."""
        bad = [line for line in self.outcomes if line.blamed]
        rates = []
        now = ("old_now", "new_now") if self.rotation.is_open else ()
        for name in (*now, "old", "new"):
            total = sum(getattr(line, name) for line in self.outcomes)
            failed = sum(getattr(line, name) for line in bad)
            rates.append(f"{100 * failed / total:.1f} %" if total else "–")
        return rates

    @property
    def old_name(self) -> str:
        return f"v{self.rotation.outgoing.number}" if self.rotation.outgoing else "outgoing"

    @property
    def new_name(self) -> str:
        return f"v{self.rotation.incoming.number}" if self.rotation.incoming else "incoming"

    @property
    def rollback_reason(self) -> str:
        return self.rotation.rolled_back_reason.rstrip(".")

    @property
    def proof(self) -> str:
        """Where the quiet proof stands: later, open, proved, over."""
        if self.rotation.stage == Stage.MONITOR:
            return "open" if self.seen.offenders else "proved"
        return "later" if self.rotation.is_open and self.rotation.stage != Stage.REVOKE else "over"


def picture(rotation: Rotation, actor: Actor, now: datetime) -> Picture:
    """Gather it all; the number of queries does not grow with traffic or events."""
    policy = from_json(rotation.policy)
    seen = observe(rotation, now)
    events = list(rotation.events.all())
    options = choices(rotation, policy, seen, actor)
    return Picture(
        rotation=rotation,
        policy=policy,
        seen=seen,
        stops=rail(rotation, policy, events),
        traffic=traffic(rotation, events, now),
        shares=_shares(seen, rotation),
        outcomes=_outcomes(rotation, seen, now),
        events=_event_lines(events),
        operations=_calls(rotation),
        choices=options,
        withheld=withheld(rotation, options, actor),
        stragglers=stragglers(seen.offenders),
        ahead=ahead(rotation, policy),
        mark=seen_mark(rotation),
    )


def _shares(seen: Observations, rotation: Rotation) -> list[ShareLine]:
    shares = seen.shares
    return [
        ShareLine("Target", float(shares.target), "the weight that the policy wants now"),
        ShareLine("Assigned", shares.assigned, f"of {seen.instances} active instances"),
        ShareLine("Delivered", shares.delivered, "of the latest deliveries"),
        ShareLine("Observed", shares.observed, "of the requests reported in the window"),
    ]


def _outcomes(rotation: Rotation, seen: Observations, now: datetime) -> list[OutcomeLine]:
    sums = totals(versions_of(rotation), rotation.created_at, now)
    old, new = (
        sums.get(pk, Counts()) if pk is not None else Counts()
        for pk in (rotation.outgoing_id, rotation.incoming_id)
    )
    found = []
    for name in OUTCOMES:
        line = OutcomeLine(
            word=OUTCOME_WORDS[name],
            blamed=name in _BLAMED,
            old_now=getattr(seen.outgoing.counts, name),
            new_now=getattr(seen.incoming.counts, name),
            old=getattr(old, name),
            new=getattr(new, name),
        )
        found.append(line)
    return found


def _event_lines(events: Sequence[RotationEvent]) -> list[EventLine]:
    """Newest first. A reason that only repeats the event before it is said once."""
    lines, before = [], ""
    for event in events:
        title = EVENT_WORDS.get(event.name, event.name).format(
            stage=event.stage.replace("_", " "), weight=event.weight
        )
        tone = EVENT_TONES.get(event.name, "")
        if event.name == "finished" and event.stage != Stage.SUCCEEDED:
            tone = "warn"
        plain = event.name in ("weight", "finished") or event.reason == before
        actor = "" if event.actor == SYSTEM.name else event.actor
        lines.append(EventLine(event, title, tone, actor, "" if plain else event.reason))
        before = event.reason
    return lines[::-1]


def _calls(rotation: Rotation) -> list[Operation]:
    """The latest calls to the provider; of those made again and again only the last of each side."""
    rows = rotation.operations.select_related("version")
    calls = list(rows.exclude(kind__in=ROUTINE).order_by("-created_at")[:20])
    for kind, side in ROUTINE_CALLS:
        calls += rows.filter(kind=kind, side=side).order_by("-created_at")[:1]
    return sorted(calls, key=lambda call: call.created_at, reverse=True)


def waits_for_key(rotation: Rotation) -> bool:
    """Whether a person must paste the new key."""
    return rotation.stage == Stage.DEPLOY and (
        rotation.incoming is None or rotation.incoming.ciphertext is None
    )
