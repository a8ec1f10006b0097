"""Rows of custody and delivery. Each table has one writer, in ``keyvault.services``."""

from keyvault.models.access import Consumer, ConsumerToken, Grant
from keyvault.models.activity import (
    AuditEvent,
    AuditHead,
    Delivery,
    Heartbeat,
    IdempotentReply,
    RateWindow,
    UsageBucket,
    UsageLine,
    UsageReport,
)
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
    "Consumer",
    "ConsumerToken",
    "Delivery",
    "Environment",
    "Grant",
    "Heartbeat",
    "IdempotentReply",
    "Installation",
    "KekCanary",
    "Key",
    "KeyVersion",
    "Membership",
    "Provider",
    "RateWindow",
    "Service",
    "Team",
    "UsageBucket",
    "UsageLine",
    "UsageReport",
    "User",
    "UserToken",
]
