"""The values that the engine thinks in: stages, what is known, and what may be done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum

from rotation.policy import Policy


class Stage(StrEnum):
    REQUESTED = "requested"
    DEPLOY = "deploy"
    SHIFT = "shift"
    MONITOR = "monitor"
    REVOKE = "revoke"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


TERMINAL = frozenset({Stage.SUCCEEDED, Stage.ROLLED_BACK, Stage.CANCELLED})

# The only moves there are; a database trigger holds the same table.
STAGE_EDGES: frozenset[tuple[Stage, Stage]] = frozenset(
    {
        (Stage.REQUESTED, Stage.DEPLOY),
        (Stage.REQUESTED, Stage.CANCELLED),
        (Stage.DEPLOY, Stage.SHIFT),
        (Stage.DEPLOY, Stage.ROLLED_BACK),
        (Stage.DEPLOY, Stage.CANCELLED),
        (Stage.SHIFT, Stage.MONITOR),
        (Stage.SHIFT, Stage.ROLLED_BACK),
        (Stage.MONITOR, Stage.REVOKE),
        (Stage.MONITOR, Stage.ROLLED_BACK),
        (Stage.MONITOR, Stage.SUCCEEDED),
        (Stage.REVOKE, Stage.SUCCEEDED),
        (Stage.REVOKE, Stage.ROLLED_BACK),
    }
)


class Kind(StrEnum):
    """What an operation asks a driver to do."""

    ISSUE = "issue"
    RECONCILE = "reconcile"
    VERIFY = "verify"
    PROBE = "probe"
    DISABLE = "disable"
    ENABLE = "enable"
    REVOKE = "revoke"
    CONFIRM = "confirm"
    INSPECT = "inspect"  # ask the provider when it last saw the key


# Asked again and again while a rotation runs; they are no steps of it and leave no event.
ROUTINE = frozenset({Kind.PROBE, Kind.INSPECT})


class Side(StrEnum):
    INCOMING = "incoming"
    OUTGOING = "outgoing"


class OperationState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NEEDS_PERSON = "needs_person"


# Why an operation that is due was not carried out; its message tells people.
PROVIDER_BUSY = "provider_busy"
PROVIDER_DOWN = "provider_down"
RESTORED = "restored"  # the attention after which nothing happens by itself
HELD_BACK = frozenset({PROVIDER_BUSY, PROVIDER_DOWN})


IN_FLIGHT = frozenset({OperationState.PENDING, OperationState.RUNNING})


class Verb(StrEnum):
    APPROVE = "approve"
    PAUSE = "pause"
    RESUME = "resume"
    ADVANCE = "advance"
    EXTEND = "extend"
    ABORT = "abort"
    SUPPLY = "supply"
    CONFIRM_REVOKED = "confirm-revoked"
    FORCE_REVOKE = "force-revoke"
    EMERGENCY = "emergency"


@dataclass(frozen=True)
class OperationView:
    """The latest operation of one kind on one side. ``outcome`` is what the driver's answer became."""

    state: OperationState
    outcome: str = ""
    message: str = ""
    retry_at: datetime | None = None
    created_at: datetime | None = None
    finished_at: datetime | None = None
    tries: int = 0


# Outcomes that a key can be blamed for; a client error is the caller's own.
FAILURES = ("auth_invalid", "server_error", "timeout")


@dataclass(frozen=True)
class Counts:
    """Reported requests in the window, by outcome."""

    ok: int = 0
    auth_invalid: int = 0  # with the key itself; a scoped access token proves nothing about the key
    auth_missing: int = 0
    rate_limited: int = 0
    not_found_job: int = 0
    client_error: int = 0
    server_error: int = 0
    timeout: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))

    @property
    def total(self) -> int:
        return (
            self.ok
            + self.auth_invalid
            + self.auth_missing
            + self.rate_limited
            + self.not_found_job
            + self.client_error
            + self.server_error
            + self.timeout
        )

    @property
    def errors(self) -> int:
        """Requests that failed in a way the key can be blamed for."""
        return sum(int(getattr(self, name)) for name in FAILURES)


@dataclass(frozen=True)
class Evidence:
    """What is known of one version at this instant."""

    counts: Counts = field(default_factory=Counts)
    weighed: Counts | None = None  # the same with no instance outweighing the others; None: as reported
    auth_invalid_instances: int = 0
    refused_by_us: int = 0  # of auth_invalid: what Keyturn itself refused, as the issuer of the key
    failing_instances: int = 0
    auth_missing_instances: tuple[str, ...] = ()
    reporting_instances: tuple[str, ...] = ()
    probe: str = ""  # outcome of the latest probe: accepted, rejected, ... or empty
    probe_at: datetime | None = None

    @property
    def fair(self) -> Counts:
        """What rates and samples are taken from: no instance decides alone."""
        return self.counts if self.weighed is None else self.weighed


class Clause(StrEnum):
    """What has to be true, each by itself, before the outgoing version may be revoked."""

    UNUSED = "unused"  # not delivered, reported or verified within the quiet time
    MOVED = "moved"  # every instance that was active lately has been given the incoming version
    JOBS = "jobs"  # no open jobs under it
    TOKENS = "tokens"  # what was minted from it has run out
    PROVIDER = "provider"  # the provider itself did not see it used


@dataclass(frozen=True)
class Offender:
    """One reason why the outgoing version is not quiet yet."""

    who: str
    why: str
    last_seen: datetime | None = None


@dataclass(frozen=True)
class Shares:
    """Never one number: what is wanted, assigned, delivered and observed, in per cent (None: no data)."""

    target: int
    assigned: float | None = None
    delivered: float | None = None
    observed: float | None = None


@dataclass(frozen=True)
class Observations:
    """Everything read from the world for one decision."""

    incoming: Evidence = field(default_factory=Evidence)
    outgoing: Evidence = field(default_factory=Evidence)
    baseline: Counts = field(default_factory=Counts)  # of the outgoing version before the shift
    silent: tuple[str, ...] = ()
    instances: int = 0  # active in the window
    assigned: int = 0  # of those, how many fall to the incoming version at the present weight
    offenders: tuple[Offender, ...] = ()
    shares: Shares = field(default_factory=lambda: Shares(0))
    operations: Mapping[tuple[Kind, Side], OperationView] = field(default_factory=dict)
    approvals: Mapping[str, int] = field(default_factory=dict)  # people, per transition
    lapsed: Mapping[str, str] = field(default_factory=dict)  # why approvals of a transition do not count
    can_issue: bool = False
    can_disable: bool = False
    can_revoke: bool = False
    can_probe: bool = True
    can_inspect: bool = False  # the provider tells when a key was last used
    quota_full: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The rotation's own row, and what its versions are, as a value."""

    stage: Stage
    policy: Policy
    step: int
    weight: int
    created_at: datetime
    stage_entered_at: datetime
    step_entered_at: datetime
    deadline_at: datetime
    has_outgoing: bool = True
    outgoing_active: bool = True
    outgoing_disabled: bool = False
    outgoing_compromised: bool = False
    incoming_held: bool = False  # its secret is in our custody
    paused: bool = False
    attention: str = ""
    abort_asked: bool = False
    advance_asked: bool = False
    revoke_asked: bool = False
    revoke_forced: bool = False
    no_fallback: bool = False
    passes: int = 0
    failed_checks: int = 0
    monitored: timedelta = timedelta(0)

    @property
    def open(self) -> bool:
        return self.stage not in TERMINAL


# Actions -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wait:
    """Nothing to do. ``reason`` is what the console prints; ``until`` is the next time worth looking."""

    reason: str
    until: datetime
    code: str = ""


@dataclass(frozen=True)
class Call:
    """Record the intent to call the driver."""

    kind: Kind
    side: Side


@dataclass(frozen=True)
class SetWeight:
    step: int
    weight: int


@dataclass(frozen=True)
class Enter:
    stage: Stage
    reason: str


@dataclass(frozen=True)
class Rollback:
    reason: str


@dataclass(frozen=True)
class Attention:
    """Automation stops; a person must choose one of ``verbs``."""

    code: str
    reason: str
    verbs: tuple[Verb, ...]


Action = Wait | Call | SetWeight | Enter | Rollback | Attention
