"""Bulk emergencies: many keys, one intent row each, started by the scheduler under a cap.

The rows are written first and in one transaction. Each beat then starts what the caps allow, one item a
transaction: after a crash the next beat goes on where the last one was, and a stop leaves the rest untouched.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db import IntegrityError as DuplicateRow
from django.db import transaction
from django.db.models import Count, Q, QuerySet

from keyvault import audit
from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.exceptions import KeyturnError, denied, not_found
from keyvault.prepared import prepared
from keyvault.services import consumers
from rotation import engine
from rotation.facts import Verb
from rotation.models import EmergencyItem, EmergencyRun, Rotation
from rotation.notices.kinds import NoticeKind
from rotation.services import verbs
from rotation.services.announcing import tell_run
from rotation.services.emergencies import Way, act, lock_open
from rotation.services.radius import (
    PROTECTED_FIRST,
    Radius,
    demand_confirmed,
    of_versions,
    radius,
    urgency,
)
from rotation.services.results import result_of

log = structlog.get_logger("keyturn.emergency")

AT_ONCE = 100  # items that one beat starts; a bound, not a pace
LOOK_AGAIN = timedelta(seconds=10)  # an open rotation has to end first
AFTER_FAILURE = timedelta(minutes=1)


def start(actor: Actor, drawn: Radius, *, count: int, plan: str, reason: str, now: datetime) -> EmergencyRun:
    """Begin what the plan says; the beats do it.

    The typed number and the hash of the plan must fit (``precondition_failed``). The same plan twice is the
    same run: the second caller gets the first one's.
    """
    demand_confirmed(drawn, count=count, plan=plan)
    try:
        with transaction.atomic():
            return _write(actor, drawn, state=EmergencyRun.RUNNING, reason=reason, now=now)
    except DuplicateRow:
        running = EmergencyRun.objects.filter(plan=plan, state=EmergencyRun.RUNNING).first()
        if running is None:
            raise
        return running


def propose(actor: Actor, drawn: Radius, *, reason: str, now: datetime) -> EmergencyRun:
    """Write the plan down for a lead to confirm; nothing happens before that."""
    with transaction.atomic():
        return _write(actor, drawn, state=EmergencyRun.PROPOSED, reason=reason, now=now)


def _write(actor: Actor, drawn: Radius, *, state: str, reason: str, now: datetime) -> EmergencyRun:
    run = EmergencyRun.objects.create(
        scope=drawn.scope,
        subject=drawn.subject,
        mode=drawn.mode,
        reason=reason,
        requested_by=actor.name,
        user_id=actor.user_id,
        plan=drawn.digest if state == EmergencyRun.RUNNING else "",
        state=state,
        created_at=now,
    )
    items = _items(run, drawn, now)
    EmergencyItem.objects.bulk_create(items, batch_size=500)
    if state == EmergencyRun.RUNNING:
        _tell_started(actor, run, drawn.count, now)
    else:
        tell_run(run, NoticeKind.RUN_PROPOSED, now, dedup="new")
    return run


def _tell_started(actor: Actor, run: EmergencyRun, items: int, now: datetime) -> None:
    event = audit.record(
        "emergency:started",
        actor=actor,
        now=now,
        subject=str(run.id),
        reason=run.reason,
        run=str(run.id),
        scope=run.scope,
        mode=run.mode,
        items=items,
    )
    tell_run(run, NoticeKind.RUN_STARTED, now, who=actor.name, dedup=str(event.sequence))


def _items(run: EmergencyRun, drawn: Radius, now: datetime) -> list[EmergencyItem]:
    rows = [
        EmergencyItem(
            key=planned.target.key,
            version=planned.target.version,
            urgency=urgency(planned.target.key.environment),
            why=planned.target.why[:200],
        )
        for planned in drawn.keys
    ]
    rows += [
        EmergencyItem(token=planned.token, urgency=2 * PROTECTED_FIRST, why="is the pasted secret")
        for planned in drawn.tokens
    ]
    for position, (row, refusal) in enumerate(zip(rows, drawn.refusals, strict=True), start=1):
        row.run, row.position, row.due_at = run, position, now
        if refusal is not None:
            row.state, row.code, row.message = EmergencyItem.REFUSED, refusal.code, refusal.message
    return rows


# People --------------------------------------------------------------------------------------------


def find(actor: Actor, run_id: uuid.UUID) -> EmergencyRun:
    """The run; ``not_found`` for a stranger."""
    run = EmergencyRun.objects.for_actor(actor).filter(pk=run_id).first()
    if run is None:
        raise not_found()
    return run


def items_for(actor: Actor, *some: EmergencyRun) -> QuerySet[EmergencyItem]:
    """The items of these runs, among those the actor may know of, with all that showing them needs."""
    rows = EmergencyItem.objects.filter(run__in=some)
    if not actor.sees_everything:
        mine = actor.team_ids
        rows = rows.filter(Q(key__service__team_id__in=mine) | Q(token__consumer__team_id__in=mine))
    return rows.select_related(
        "key__service__team",
        "key__service__provider",
        "key__environment",
        "version",
        "rotation",
        "token__consumer__team",
        "token__environment",
    )


def stop(actor: Actor, run_id: uuid.UUID, *, reason: str, now: datetime) -> EmergencyRun:
    """Start nothing more. What was started goes on; what waits stays as it is. Stopping twice is harmless."""
    with transaction.atomic():
        run = _lock(actor, run_id, "stop")
        if run.state == EmergencyRun.STOPPED:
            return run
        if run.state not in (EmergencyRun.RUNNING, EmergencyRun.PROPOSED):
            raise _wrong_state(run, "It is over already.")
        run.state = EmergencyRun.STOPPED
        run.save()
        waiting = run.items.filter(state=EmergencyItem.WAITING).count()
        event = audit.record(
            "emergency:stopped",
            actor=actor,
            now=now,
            subject=str(run.id),
            reason=reason,
            run=str(run.id),
            waiting=waiting,
        )
        tell_run(run, NoticeKind.RUN_STOPPED, now, who=actor.name, dedup=str(event.sequence))
    return run


def resume(
    actor: Actor, run_id: uuid.UUID, *, reason: str, now: datetime, ring: engine.Ring | None = None
) -> EmergencyRun:
    """Go on with what waits, and try again what was refused, failed, or stands before a person."""
    with transaction.atomic():
        run = _lock(actor, run_id, "resume")
        if run.state == EmergencyRun.PROPOSED:
            raise _wrong_state(run, "A lead has to confirm this proposal first.")
        again = [
            item.id
            for item in run.items.select_related("rotation", "version")
            if result_of(item) in ("refused", "failed")
        ]  # the rights and the world may have changed
        if run.state == EmergencyRun.DONE and not again:
            raise _wrong_state(run, "Everything in it is done.")
        EmergencyItem.objects.filter(id__in=again).update(
            state=EmergencyItem.WAITING, rotation=None, code="", message="", due_at=now
        )
        if run.state != EmergencyRun.RUNNING or again:
            run.state, run.finished_at, run.plan = EmergencyRun.RUNNING, None, ""
            run.save()
            event = audit.record(
                "emergency:resumed",
                actor=actor,
                now=now,
                subject=str(run.id),
                reason=reason,
                run=str(run.id),
                again=len(again),
            )
            who, dedup = actor.name, str(event.sequence)
            tell_run(run, NoticeKind.RUN_STARTED, now, who=who, dedup=dedup, code="resumed")
    _resume_rotations(actor, run, reason, now, ring)
    return run


def _resume_rotations(
    actor: Actor, run: EmergencyRun, reason: str, now: datetime, ring: engine.Ring | None
) -> None:
    stuck = Rotation.objects.filter(id__in=run.items.values("rotation_id")).exclude(attention="")
    for rotation in stuck:
        if Verb.RESUME not in rotation.attention_verbs:
            continue
        try:
            verbs.resume(actor, rotation.id, reason=reason, now=now, ring=ring)
        except KeyturnError as error:  # it moved on by itself
            log.info("rotation not resumed", rotation=str(rotation.id), code=error.code)


def proposal(actor: Actor, run: EmergencyRun, *, now: datetime) -> Radius:
    """The plan of a proposal as it is now."""
    items = run.items.filter(key__isnull=False).select_related("version")
    versions = [item.version for item in items if item.version is not None]
    targets = of_versions(versions, actor, "reported as leaked")
    tokens = [item.token for item in items_for(actor, run) if item.token is not None]
    return radius(actor, targets, tokens, scope=run.scope, subject=run.subject, mode=run.mode, now=now)


def confirm(
    actor: Actor, run_id: uuid.UUID, *, count: int, plan: str, reason: str, now: datetime
) -> EmergencyRun:
    """A lead says yes to a proposal. It goes on under the lead's rights, with what those reach."""
    with transaction.atomic():
        run = _lock(actor, run_id, "confirm")
        if run.state != EmergencyRun.PROPOSED:
            raise _wrong_state(run, "This is no proposal any more.")
        drawn = proposal(actor, run, now=now)
        demand_confirmed(drawn, count=count, plan=plan)
        kept = {planned.target.key.id for planned in drawn.keys if planned.refusal is None}
        tokens = {planned.token.id for planned in drawn.tokens if planned.refusal is None}
        # What another team's lead has to decide stays a proposal of its own.
        rest = list(run.items.exclude(Q(key_id__in=kept) | Q(token_id__in=tokens)))
        _split_off(run, rest, now)
        run.items.update(state=EmergencyItem.WAITING, code="", message="", due_at=now)
        run.state, run.reason, run.plan = EmergencyRun.RUNNING, reason, ""
        run.requested_by, run.user_id = actor.name, actor.user_id
        run.save()
        _tell_started(actor, run, drawn.count, now)
    return run


def _split_off(run: EmergencyRun, rest: Iterable[EmergencyItem], now: datetime) -> None:
    items = list(rest)
    if not items:
        return
    other = EmergencyRun.objects.create(
        scope=run.scope,
        subject=run.subject,
        mode=run.mode,
        reason=run.reason,
        requested_by=run.requested_by,
        user_id=run.user_id,
        state=EmergencyRun.PROPOSED,
        created_at=run.created_at,
    )
    EmergencyItem.objects.filter(id__in=[item.id for item in items]).update(run=other)
    tell_run(other, NoticeKind.RUN_PROPOSED, now, dedup="new")


def may(actor: Actor, run: EmergencyRun, verb: str) -> bool:
    """``confirm`` is for who leads one of the teams in it; ``stop`` and ``resume`` are for who started it and
    for who leads them all. Administrators may everything."""
    teams = set(run.items.filter(key__isnull=False).values_list("key__service__team_id", flat=True))
    tokens = run.items.filter(token__isnull=False)
    teams |= set(tokens.values_list("token__consumer__team_id", flat=True))
    led = [actor.may("manage", team) for team in teams]
    if verb == "confirm":
        return actor.is_admin or any(led)
    mine = actor.user_id is not None and run.user_id == actor.user_id
    return mine or actor.is_admin or (bool(led) and all(led))


def demand(actor: Actor, run: EmergencyRun, verb: str) -> None:
    """Raise ``permission_denied`` unless allowed. For runs that the actor may already see."""
    if not may(actor, run, verb):
        which = "one of the teams" if verb == "confirm" else "all the teams"
        raise denied(f"This needs the role lead in {which} of this run.")


def _lock(actor: Actor, run_id: uuid.UUID, verb: str) -> EmergencyRun:
    run = EmergencyRun.objects.select_for_update().get(pk=find(actor, run_id).pk)
    demand(actor, run, verb)
    return run


def _wrong_state(run: EmergencyRun, message: str) -> KeyturnError:
    return KeyturnError("invalid_transition", message, extra={"state": run.state})


# Beats ---------------------------------------------------------------------------------------------


@prepared
def _running() -> QuerySet[EmergencyRun, uuid.UUID]:
    return EmergencyRun.objects.filter(state=EmergencyRun.RUNNING).order_by().values_list("id", flat=True)[:1]


def carry_on(now: datetime, *, ring: engine.Ring | None = None, most: int = AT_ONCE) -> int:
    """Start what the caps allow, most urgent first; close runs that are over. Returns how many started."""
    if not _running():
        return 0
    started = looked_at = 0
    while looked_at < most:
        outcome = _start_next(now, ring)
        if outcome is None:
            break
        looked_at += 1
        started += outcome
    _close(now)
    return started


def _start_next(now: datetime, ring: engine.Ring | None) -> bool | None:
    """One item in one transaction; None when nothing may start now.

    Every running run is locked, so that of two schedulers one counts and starts at a time, and a stop waits
    for the item that is being started.
    """
    with transaction.atomic():
        running = EmergencyRun.objects.select_for_update().filter(state=EmergencyRun.RUNNING)
        runs = {run.id: run for run in running.order_by("created_at", "id")}
        item = _next(list(runs), now)
        if item is None:
            return None
        try:
            with transaction.atomic():
                _carry_out(item, runs[item.run_id], now, ring)
        except KeyturnError as refused:
            _refuse(item, refused, now)
        except Exception:
            # One key that cannot be started must not stop the others; it is tried again soon.
            log.exception("an emergency could not start", item=str(item.id))
            item.refresh_from_db()
            item.code, item.message = "internal_error", "Something went wrong on our side; it is tried again."
            item.due_at = now + AFTER_FAILURE
        item.save()
        return item.state == EmergencyItem.STARTED


def _next(runs: list[uuid.UUID], now: datetime) -> EmergencyItem | None:
    """The most urgent item whose provider has room. What stands before a person takes no room."""
    busy = _in_flight()
    if not runs or sum(busy.values()) >= settings.KEYTURN_EMERGENCY_CAP:
        return None
    full = [provider for provider, n in busy.items() if n >= settings.KEYTURN_EMERGENCY_PROVIDER_CAP]
    waiting = EmergencyItem.objects.filter(run_id__in=runs, state=EmergencyItem.WAITING, due_at__lte=now)
    if full:
        waiting = waiting.exclude(key__isnull=False, key__service__provider_id__in=full)
    return waiting.order_by("-urgency", "run__created_at", "position").select_related("key", "token").first()


def _in_flight() -> Counter[uuid.UUID]:
    """Per provider the open emergency rotations that Keyturn is busy with."""
    rows = EmergencyItem.objects.filter(
        run__state__in=[EmergencyRun.RUNNING, EmergencyRun.STOPPED],
        state=EmergencyItem.STARTED,
        rotation__finished_at__isnull=True,
        rotation__attention="",
    )
    counted = rows.values_list("key__service__provider_id").annotate(n=Count("rotation", distinct=True))
    return Counter({provider: n for provider, n in counted.order_by() if provider is not None})


def _carry_out(item: EmergencyItem, run: EmergencyRun, now: datetime, ring: engine.Ring | None) -> None:
    """The item under the rights that its person has now."""
    actor = SYSTEM if run.user_id is None else _person(run)
    item.code = item.message = ""
    if item.token is not None:
        consumers.revoke_token(actor, item.token, now=now)
        item.state, item.started_at = EmergencyItem.STARTED, now
        return
    if item.key is None or item.version is None:
        raise KeyturnError("no_active_version", "This key has no active version.")
    rotation, key = lock_open(item.key, item.version)
    actor.demand("manage", key.service.team_id)
    leaked = key.versions.get(pk=item.version.pk)
    done = act(actor, key, leaked, rotation, mode=run.mode, reason=run.reason, now=now, ring=ring)
    if done.way is Way.WAIT:
        item.code, item.message = "rotation_in_progress", "It starts when the open rotation is over."
        item.due_at = now + LOOK_AGAIN
    elif done.rotation is None:
        item.state, item.code = EmergencyItem.SKIPPED, "version_gone"
        item.message = "The provider refuses this version already."
    else:
        item.state, item.rotation, item.started_at = EmergencyItem.STARTED, done.rotation, now


def _person(run: EmergencyRun) -> Actor:
    if run.user is None or not run.user.is_active:
        raise denied("Whoever started this is not active any more.")
    return actor_for(run.user)


def _refuse(item: EmergencyItem, refused: KeyturnError, now: datetime) -> None:
    item.rotation = None
    item.code, item.message = refused.code, refused.message
    if refused.code == "rotation_in_progress":  # it started at this very moment
        item.due_at = now + LOOK_AGAIN
        return
    item.state = EmergencyItem.REFUSED


def _close(now: datetime) -> None:
    """A run is over when nothing waits and every rotation of it is."""
    running = EmergencyRun.objects.filter(state=EmergencyRun.RUNNING)
    open_items = EmergencyItem.objects.filter(
        Q(state=EmergencyItem.WAITING)
        | Q(state=EmergencyItem.STARTED, rotation__finished_at__isnull=True, rotation__isnull=False)
    )
    for run in running.exclude(id__in=open_items.values("run_id")):
        with transaction.atomic():
            if not running.filter(pk=run.pk).update(state=EmergencyRun.DONE, finished_at=now):
                continue  # another scheduler, or a stop, was here
            event = audit.record(
                "emergency:finished", actor=SYSTEM, now=now, subject=str(run.id), run=str(run.id)
            )
            tell_run(run, NoticeKind.RUN_FINISHED, now, dedup=str(event.sequence))
