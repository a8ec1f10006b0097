"""Rows of rotations. The engine is the only writer of a rotation; see each table for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from django.db import models
from django.db.models import Q

from keyvault.models import ConsumerToken, Key, KeyVersion, Provider, User
from keyvault.models.base import UUIDModel, slug_field
from rotation.approval_rows import Approval as Approval
from rotation.facts import TERMINAL, Kind, OperationState, Side, Stage
from rotation.notice_rows import Channel as Channel
from rotation.notice_rows import Incident as Incident
from rotation.notice_rows import Notice as Notice
from rotation.policy import Policy, kept

if TYPE_CHECKING:
    from keyvault.actors import Actor

_TERMINAL = sorted(stage.value for stage in TERMINAL)  # a set has no order, a migration does
# Rotations whose evidence does not let them go on, or whose old key is still in use.
STANDING = Q(stage__in=[Stage.SHIFT.value, Stage.MONITOR.value]) & (
    ~Q(verdict="pass") | Q(waiting_code="quiet")
)


class RotationPolicy(UUIDModel):
    """A named policy. ``document`` is what ``policy.to_json`` gives. Written by ``services``."""

    slug = slug_field()
    document = models.JSONField()
    preset = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug

    @property
    def value(self) -> Policy:
        return kept(self.document)


class KeySchedule(UUIDModel):
    """Which policy a key follows and when it is due. Written by ``services`` and the engine."""

    key = models.OneToOneField(Key, on_delete=models.CASCADE, related_name="schedule")
    policy = models.ForeignKey(RotationPolicy, on_delete=models.PROTECT, related_name="schedules")
    next_rotation_at = models.DateTimeField(null=True, blank=True)
    last_rotation_at = models.DateTimeField(null=True, blank=True)
    # What set the date: schedule | expiry | max_age | revealed | member_left | reported
    trigger = models.CharField(max_length=16, default="schedule")
    reason = models.CharField(max_length=500, blank=True)
    # A due key that cannot start keeps its date; it is looked at again then, and people see why.
    held_until = models.DateTimeField(null=True, blank=True)
    held_code = models.CharField(max_length=32, blank=True)
    held_reason = models.CharField(max_length=500, blank=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["next_rotation_at"], condition=Q(next_rotation_at__isnull=False), name="schedule_due"
            )
        ]


class RotationQuerySet(models.QuerySet["Rotation"]):
    def for_actor(self, actor: Actor) -> Self:
        return self if actor.sees_everything else self.filter(key__service__team_id__in=actor.team_ids)

    def open(self) -> Self:
        return self.exclude(stage__in=_TERMINAL)


class Rotation(UUIDModel):
    """One run that replaces one version by the next."""

    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="rotations")
    policy_slug = models.CharField(max_length=63)
    policy = models.JSONField()  # the policy as it was when this rotation started
    trigger = models.CharField(max_length=16)  # person | api | first | emergency, or that of the schedule
    reason = models.CharField(max_length=500, blank=True)
    requested_by = models.CharField(max_length=150)
    requester = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    outgoing = models.ForeignKey(
        KeyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="replaced_in"
    )
    incoming = models.ForeignKey(
        KeyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="introduced_in"
    )
    stage = models.CharField(max_length=16, default=Stage.REQUESTED)
    step = models.PositiveSmallIntegerField(default=0)
    weight = models.PositiveSmallIntegerField(default=0)
    salt = models.BinaryField(max_length=32)
    created_at = models.DateTimeField()
    stage_entered_at = models.DateTimeField()
    step_entered_at = models.DateTimeField()
    deadline_at = models.DateTimeField()
    check_at = models.DateTimeField(null=True, blank=True)  # null: nothing left to do
    finished_at = models.DateTimeField(null=True, blank=True)
    # Orthogonal to the stage
    paused = models.BooleanField(default=False)
    attention = models.CharField(max_length=32, blank=True)
    attention_reason = models.CharField(max_length=500, blank=True)
    attention_verbs = models.JSONField(default=list, blank=True)
    waiting_for = models.CharField(max_length=500, blank=True)
    waiting_code = models.CharField(max_length=32, blank=True)
    # What people asked for
    abort_asked_at = models.DateTimeField(null=True, blank=True)
    advance_asked_at = models.DateTimeField(null=True, blank=True)
    force_asked_at = models.DateTimeField(null=True, blank=True)
    # Facts
    revoke_asked_at = models.DateTimeField(null=True, blank=True)  # the point of no return
    no_fallback = models.BooleanField(default=False)
    rolled_back_reason = models.CharField(max_length=500, blank=True)
    # Judging
    passes = models.PositiveIntegerField(default=0)
    failed_checks = models.PositiveIntegerField(default=0)
    monitored_seconds = models.FloatField(default=0)
    last_check_at = models.DateTimeField(null=True, blank=True)
    clock_note = models.CharField(max_length=500, blank=True)
    clock = models.JSONField(null=True, blank=True)  # monitored.to_json: what is decided, and the gaps
    # Reported requests with the outgoing version in the day before the shift, and how many of them failed
    baseline_requests = models.PositiveBigIntegerField(default=0, db_default=0)
    baseline_errors = models.PositiveBigIntegerField(default=0, db_default=0)
    inspected_at = models.DateTimeField(null=True, blank=True)  # when the provider told of the outgoing key
    provider_used_at = models.DateTimeField(null=True, blank=True)  # its last use there that was not ours
    verdict = models.CharField(max_length=16, blank=True)
    verdict_code = models.CharField(max_length=32, blank=True)
    verdict_reason = models.CharField(max_length=500, blank=True)
    revision = models.PositiveBigIntegerField(default=0)  # grows with the timeline: the ETag

    objects = RotationQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["check_at"], condition=Q(check_at__isnull=False), name="rotation_due"),
            models.Index(fields=["key", "-created_at"], name="rotation_key"),
            models.Index(
                fields=["deadline_at"], condition=Q(finished_at__isnull=True), name="rotation_deadline"
            ),
            models.Index(fields=["stage_entered_at"], condition=STANDING, name="rotation_standing"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["key"], condition=~Q(stage__in=_TERMINAL), name="rotation_one_open_per_key"
            ),
            models.CheckConstraint(
                condition=Q(stage__in=[stage.value for stage in Stage]), name="rotation_stage"
            ),
            models.CheckConstraint(condition=Q(weight__lte=100), name="rotation_weight"),
            models.CheckConstraint(
                condition=Q(stage__in=_TERMINAL, finished_at__isnull=False)
                | (~Q(stage__in=_TERMINAL) & Q(finished_at__isnull=True)),
                name="rotation_finished_when_terminal",
            ),
        ]

    def __str__(self) -> str:
        return f"rotation {self.id} of {self.key}"

    @property
    def is_open(self) -> bool:
        return self.stage not in TERMINAL


class RotationRecord(models.Model):
    """What a rotation keeps for its evidence file and nothing decides by: apart from the row that every check
    writes. Written by the engine and by ``services``."""

    rotation = models.OneToOneField(
        Rotation, primary_key=True, on_delete=models.CASCADE, related_name="record"
    )
    plan = models.JSONField(null=True, blank=True)  # what ``plan.plan`` told when it started
    minutes = models.JSONField(null=True, blank=True)  # reported requests, when it finished
    proof = models.JSONField(null=True, blank=True)  # the quiet proof as it stood when the revoke began


class Operation(UUIDModel):
    """One recorded intent to call a driver. Created by the engine, settled by ``operations``."""

    rotation = models.ForeignKey(Rotation, on_delete=models.PROTECT, related_name="operations")
    kind = models.CharField(max_length=16, choices=[(kind.value, kind.value) for kind in Kind])
    side = models.CharField(max_length=16, choices=[(side.value, side.value) for side in Side])
    version = models.ForeignKey(KeyVersion, on_delete=models.PROTECT, related_name="operations")
    attempt = models.PositiveSmallIntegerField(default=1)
    label = models.CharField(max_length=80)  # what the provider calls the key: keyturn-<rotation>-<attempt>
    state = models.CharField(max_length=16, default=OperationState.PENDING)
    outcome = models.CharField(max_length=32, blank=True)
    message = models.CharField(max_length=500, blank=True)
    provider_request_id = models.CharField(max_length=128, blank=True)
    tries = models.PositiveSmallIntegerField(default=0)
    fence = models.PositiveIntegerField(default=0)
    retry_at = models.DateTimeField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    superseded = models.BooleanField(default=False)  # a person asked for a new try

    class Meta:
        ordering = ["created_at"]
        indexes = [
            models.Index(fields=["retry_at"], condition=Q(state="pending"), name="operation_due"),
            models.Index(fields=["lease_until"], condition=Q(state="running"), name="operation_leased"),
            models.Index(fields=["rotation", "kind", "side", "-created_at"], name="operation_latest"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["rotation", "kind", "side"],
                condition=Q(state__in=["pending", "running"]),
                name="operation_one_in_flight",
            ),
            models.CheckConstraint(
                condition=Q(state__in=[state.value for state in OperationState]), name="operation_state"
            ),
        ]


class RotationEvent(UUIDModel):
    """One line of the timeline. Written by the engine, in the transaction of the change."""

    rotation = models.ForeignKey(Rotation, on_delete=models.CASCADE, related_name="events")
    sequence = models.PositiveIntegerField()
    at = models.DateTimeField()
    name = models.CharField(max_length=32)
    stage = models.CharField(max_length=16)
    weight = models.PositiveSmallIntegerField()
    actor = models.CharField(max_length=150)
    reason = models.CharField(max_length=500, blank=True)
    shares = models.JSONField(null=True, blank=True)  # the four shares when a move was decided

    class Meta:
        ordering = ["sequence"]
        constraints = [models.UniqueConstraint(fields=["rotation", "sequence"], name="rotation_event_once")]


class Breaker(UUIDModel):
    """Whether a provider is left alone at present. Written by ``breaker``."""

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, related_name="breaker")
    failures = models.PositiveIntegerField(default=0)  # calls in a row that nobody answered
    pauses = models.PositiveIntegerField(default=0)  # how often in a row it was opened
    open_until = models.DateTimeField(null=True, blank=True)  # null: closed
    trial = models.UUIDField(null=True, blank=True)  # the operation that finds out whether it answers again
    looking_until = models.DateTimeField(null=True, blank=True)  # its keys are being compared with ours


# What an emergency points at is never deleted, and not locked when its rows are written: a check at the end
# of that transaction would wait for those locks crosswise.
_UNCHECKED: Final[dict[str, Any]] = {"on_delete": models.PROTECT, "related_name": "+", "db_constraint": False}


class EmergencyRunQuerySet(models.QuerySet["EmergencyRun"]):
    def for_actor(self, actor: Actor) -> Self:
        """Runs that this person started, or that touch something of their teams."""
        if actor.sees_everything:
            return self
        mine = Q(key__service__team_id__in=actor.team_ids) | Q(token__consumer__team_id__in=actor.team_ids)
        touched = EmergencyItem.objects.filter(mine).values("run_id")
        own = Q(user_id=actor.user_id) if actor.user_id is not None else Q()
        return self.filter(Q(id__in=touched) | own)


class EmergencyRun(UUIDModel):
    """Many keys are to be replaced because they leaked. Written by ``services.runs``.

    The secret of a pasted leak is nowhere in it: what was found by it are the items.
    """

    PROPOSED, RUNNING, STOPPED, DONE = "proposed", "running", "stopped", "done"

    scope = models.CharField(max_length=16)  # key | provider | team | environment | service | person | leak
    subject = models.CharField(max_length=150, blank=True)  # the name of what was chosen; empty for a leak
    mode = models.CharField(max_length=8)  # replace | kill
    reason = models.CharField(max_length=500)
    requested_by = models.CharField(max_length=150)
    user = models.ForeignKey(User, null=True, blank=True, **_UNCHECKED)  # whose rights count; null: Keyturn's
    plan = models.CharField(max_length=64, blank=True)  # hash of the plan that was confirmed
    state = models.CharField(max_length=16, default=RUNNING)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    stuck_told_at = models.DateTimeField(null=True, blank=True)  # when people last heard that it stands still

    objects = EmergencyRunQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["created_at"], condition=Q(state="running"), name="emergency_running")
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["plan"], condition=Q(state="running") & ~Q(plan=""), name="emergency_plan_runs_once"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["proposed", "running", "stopped", "done"]), name="emergency_run_state"
            ),
        ]

    def __str__(self) -> str:
        return f"emergency {self.id}"


class EmergencyItem(UUIDModel):
    """One key (or consumer token) of a run: the intent first, then what became of it."""

    WAITING, STARTED, REFUSED, SKIPPED = "waiting", "started", "refused", "skipped"

    run = models.ForeignKey(EmergencyRun, on_delete=models.CASCADE, related_name="items")
    position = models.PositiveIntegerField()
    urgency = models.PositiveSmallIntegerField(default=0)  # protected environments first
    key = models.ForeignKey(Key, null=True, blank=True, **_UNCHECKED)
    version = models.ForeignKey(KeyVersion, null=True, blank=True, **_UNCHECKED)  # the one that leaked
    token = models.ForeignKey(ConsumerToken, null=True, blank=True, **_UNCHECKED)
    why = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=16, default=WAITING)
    due_at = models.DateTimeField()  # not before this time
    started_at = models.DateTimeField(null=True, blank=True)
    rotation = models.ForeignKey(Rotation, null=True, blank=True, **_UNCHECKED)
    code = models.CharField(max_length=32, blank=True)  # why it was refused, skipped or put off
    message = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["position"]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(state="waiting"), name="emergency_item_due"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["run", "position"], name="emergency_item_position"),
            models.UniqueConstraint(fields=["run", "key", "version"], name="emergency_item_once"),
            models.CheckConstraint(
                condition=Q(key__isnull=False, token__isnull=True) | Q(key__isnull=True, token__isnull=False),
                name="emergency_item_key_or_token",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["waiting", "started", "refused", "skipped"]),
                name="emergency_item_state",
            ),
        ]


class FindingQuerySet(models.QuerySet["Finding"]):
    def for_actor(self, actor: Actor) -> Self:
        """Keys that nobody owns are the business of those who see everything."""
        return self if actor.sees_everything else self.filter(key__service__team_id__in=actor.team_ids)

    def open(self) -> Self:
        return self.filter(gone_at=None)


class Finding(UUIDModel):
    """A difference between a provider's keys and ours. Written by ``services.drifting``."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="findings")
    key = models.ForeignKey(Key, null=True, blank=True, on_delete=models.CASCADE, related_name="findings")
    version = models.ForeignKey(KeyVersion, null=True, blank=True, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=16)  # missing | undead | unowned | unchecked
    provider_key_id = models.CharField(max_length=200, blank=True)
    label = models.CharField(max_length=200, blank=True)
    detail = models.CharField(max_length=500)
    found_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    gone_at = models.DateTimeField(null=True, blank=True)

    objects = FindingQuerySet.as_manager()

    class Meta:
        ordering = ["-found_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["provider", "kind", "version", "provider_key_id"],
                condition=Q(gone_at=None),
                name="finding_open_once",
            ),
            # NULLs differ from each other, so what has no version needs a constraint of its own.
            models.UniqueConstraint(
                fields=["provider", "kind", "provider_key_id"],
                condition=Q(gone_at=None, version=None),
                name="finding_unowned_once",
            ),
        ]


class Exposure(UUIDModel):
    """More people know a version than should; this sets a date. Written by ``services.exposure``."""

    key = models.ForeignKey(Key, on_delete=models.PROTECT, related_name="exposures")
    version = models.ForeignKey(KeyVersion, on_delete=models.PROTECT, related_name="exposures")
    cause = models.CharField(max_length=16)  # one of policy.EXPOSURES
    who = models.CharField(max_length=150, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    at = models.DateTimeField()
    sequence = models.BigIntegerField(null=True, blank=True, unique=True)  # the audit event that tells of it

    class Meta:
        ordering = ["at"]
        indexes = [models.Index(fields=["version", "cause"], name="exposure_version")]
        constraints = [
            # A person who left stays gone: one date for it, however often it is looked at.
            models.UniqueConstraint(
                fields=["version", "who"], condition=Q(cause="member_left"), name="exposure_left_once"
            )
        ]
