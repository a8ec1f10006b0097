"""Rows of custody and delivery. Each table has one writer, in ``keyvault.services``."""

from keyvault.models.access import Consumer, ConsumerToken, Grant
from keyvault.models.activity import (
    AuditEvent,
    AuditHead,
    Delivery,
    FoldMark,
    Heartbeat,
    IdempotentReply,
    LastDelivery,
    LastUse,
    OpenJobs,
    UsageBucket,
    UsageLine,
    UsageReport,
    Verification,
    VerificationBucket,
)
from keyvault.models.changes import Change, ChangeCounter
from keyvault.models.custody import (
    Environment,
    Installation,
    KekCanary,
    Key,
    KeyVersion,
    Provider,
    Service,
)
from keyvault.models.people import Membership, Team, User, UserToken

__all__ = [
    "AuditEvent",
    "AuditHead",
    "Change",
    "ChangeCounter",
    "Consumer",
    "ConsumerToken",
    "Delivery",
    "Environment",
    "FoldMark",
    "Grant",
    "Heartbeat",
    "IdempotentReply",
    "Installation",
    "KekCanary",
    "Key",
    "KeyVersion",
    "LastDelivery",
    "LastUse",
    "Membership",
    "OpenJobs",
    "Provider",
    "Service",
    "Team",
    "UsageBucket",
    "UsageLine",
    "UsageReport",
    "User",
    "UserToken",
    "Verification",
    "VerificationBucket",
]
