"""Audit events as people read them, and which of them a person may read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet

from keyvault.actors import Actor
from keyvault.models import AuditEvent
from keyvault.services import sealing

# name -> sentence; {…} are details of the event. An event that is not listed shows its name.
_SENTENCES: Mapping[str, str] = {
    "team:created": "created the team {team}",
    "team:member:set": "made {user} {role} of the team",
    "team:member:removed": "removed {user} from the team",
    "user:created": "added {user}",
    "user:role:set": "gave {user} the role {role} in the organisation",
    "user:activated": "let {user} in again",
    "user:deactivated": "shut {user} out",
    "user:profile:changed": "changed the profile of {user}: {fields}",
    "user:second-factor:added": "added a second factor for {user}: {kind}",
    "user:second-factor:removed": "removed a second factor of {user}: {kind}",
    "user:second-factor:reset": "took all second factors from {user}",
    "user:sessions:ended": "ended {sessions} sessions of {user}",
    "user:link:created": "made a set-up link for {user}",
    "user:link:used": "set a password with a set-up link",
    "user:link:withdrawn": "withdrew the set-up link of {user}",
    "user:token:created": "created a token for {user}",
    "user:token:revoked": "revoked the token {hint} of {user}",
    "provider:created": "added the provider {provider}",
    "provider:changed": "changed the provider {provider}",
    "provider:tested": "tried the provider {provider}",
    "service:created": "added the service {service}",
    "service:changed": "changed the service {service}",
    "consumer:created": "added the consumer {consumer}",
    "consumer:token:created": "created the token {hint} for {consumer}",
    "consumer:token:revoked": "revoked the token {hint} of {consumer}",
    "consumer:token:rotated": "replaced the token {replaced_hint} of {consumer}",
    "consumer:access-token:minted": "minted an access token for {consumer}",
    "grant:created": "granted {consumer} {verbs}",
    "grant:changed": "changed the grant of {consumer} to {verbs}",
    "grant:removed": "took the grant from {consumer}",
    "key:created": "created the key",
    "key:changed": "changed the key",
    "key:revealed": "revealed v{version}",
    "key:weight:set": "gave v{version} to {weight} % of the instances",
    "key:promoted": "promoted v{version} to current",
    "key:rolled-back": "went back to v{version}",
    "key:previous:retired": "stopped delivering v{version}",
    "key:version:requested": "asked for v{version}",
    "key:version:imported": "imported v{version}",
    "key:version:issued": "issued v{version}",
    "key:version:expiry": "noted when v{version} expires",
    "key:version:offered": "offered v{version} as pending",
    "key:version:disabled": "disabled v{version}",
    "key:version:enabled": "enabled v{version} again",
    "key:version:revoked": "revoked v{version}",
    "key:version:destroyed": "destroyed v{version}",
    "key:version:compromised": "marked v{version} as compromised",
    "policy:created": "created the policy {policy}",
    "policy:changed": "changed the policy {policy}",
    "policy:removed": "removed the policy {policy}",
    "policy:assigned": "put the key under the policy {policy}",
    "schedule:brought-forward": "brought the next rotation forward to {next_rotation_at}: {trigger}",
    "schedule:held": "did not start the key although it is due: {code}",
    "rotation:started": "started a rotation under {policy}",
    "rotation:stage": "moved the rotation from {was} to {stage}",
    "rotation:weight": "set the weight to {weight} %",
    "rotation:paused": "paused the rotation",
    "rotation:resumed": "resumed the rotation",
    "rotation:advanced": "moved the rotation on by hand",
    "rotation:attention": "asked for a person: {code}",
    "rotation:attention:cleared": "took care of: {code}",
    "rotation:approval:wanted": "waits for an approval of the {transition}",
    "rotation:reminded": "reminded the owners of {consumer}",
    "rotation:late": "told that the rotation is late",
    "rotation:stands": "told that the rotation stands still: {code}",
    "rotation:escalated": "escalated to {level}: {code}",
    "rotation:approved": "approved the {transition}",
    "rotation:declined": "declined the {transition}",
    "rotation:glass:broken": "approved the {transition} alone, as a break-glass",
    "rotation:glass:reviewed": "reviewed the break-glass of {who} for the {transition}",
    "rotation:glass:overdue": "told that the break-glass of {who} has not been reviewed in time",
    "rotation:extended": "gave the rotation time until {deadline}",
    "rotation:abort:asked": "asked to abort the rotation",
    "rotation:rollback": "rolled v{version} back",
    "rotation:supplied": "supplied v{version}",
    "rotation:revoke:confirmed": "confirmed that v{version} is revoked",
    "rotation:revoke:forced": "forced the revoke of v{version}",
    "rotation:gap": "began to end v{version}: there is no key until the next one works",
    "rotation:gap:over": "ended the gap with v{version}, after {seconds} s",
    "rotation:operation": "called the provider: {operation} ({outcome})",
    "rotation:finished": "finished the rotation: {stage}",
    "user:password:set": "set the password of {user}",
    "user:signed-in": "signed in by {how}",
    "user:signed-out": "signed out: {why}",
    "user:sign-in:failed": "saw {count} wrong attempts to be {user} ({what})",
    "user:sign-in:limited": "stopped looking at attempts to be {user} ({what}), {count} times",
    "sign-on:refused": "did not believe the provider of single sign-on: {code}",
    "user:email:set": "set the mail address of {user}",
    "channel:created": "created the channel {channel} ({kind})",
    "channel:changed": "changed the channel {channel}",
    "channel:removed": "removed the channel {channel}",
    "channel:secret:rotated": "replaced the signing secret of the channel {channel}",
    "channel:tested": "sent a test to the channel {channel}",
    "demo-data:added": "added the demo data",
    "demo-data:removed": "removed the demo data",
    "emergency:started": "started an emergency of {items} ({mode})",
    "emergency:stopped": "stopped an emergency with {waiting} still waiting",
    "emergency:resumed": "resumed an emergency",
    "emergency:finished": "finished an emergency",
    "leak:reported": "reported a leak",
    "drift:found": "found a difference at {provider}: {kind}",
    "drift:gone": "no longer finds a difference at {provider}: {kind}",
    "database:restored": "found the database restored from a backup, and stopped {rotations} rotations",
    "database:reconciled": "reconciled the restored database: {applied} ended again, {held} keys held",
    "backup:made": "made a backup of everything up to event {sequence}",
    "keyring:escrowed": "put the keyring in escrow",
    "consumer:token:replayed": "used a token of {consumer} that no longer works ({hint})",
    "consumer:token:crowded": "refused {instance}: {limit} others use the token {hint} of {consumer}",
    "leak:scanned": "reported {what} {hint}, found in the open: {outcome}",
    "deliveries:sealed": "sealed {count} deliveries, {first} to {last}, into the audit chain",
    "deliveries:forgotten": "forgot the deliveries up to {last}, which are older than is kept",
    "audit:exported": "exported audit events as {form}",
    "kek:added": "added the KEK {kid} to {environment} ({provider})",
    "kek:promoted": "made {kid} the primary KEK of {environment}",
    "kek:rewrapped": "rewrapped {rows} rows of {environment} under {kid}",
    "kek:retired": "retired the KEK {kid} of {environment}",
}


# Steps of a bigger thing that is told too: in the audit they are found, in short lists they are noise.
_SMALL = (
    "key:weight:set",
    "key:version:requested",
    "key:version:offered",
    "key:previous:retired",
    "rotation:operation",
    "policy:assigned",
    "user:signed-in",
    "user:signed-out",
)


def without_seals(events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
    """Without what comes by the second. Said in the words of the index that makes it quick."""
    return events.exclude(name=sealing.EVENT)


def worth_telling(events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
    return without_seals(events).exclude(name__in=_SMALL)


class _Details(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return "–"


def describe(event: AuditEvent) -> str:
    """One sentence without its subject, who is the actor."""
    details = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value).replace("_", " ")
        for name, value in event.details.items()
    }
    return _SENTENCES.get(event.name, event.name).format_map(_Details(details))


def events_for(actor: Actor) -> QuerySet[AuditEvent]:
    """The events of the actor's teams; those who see everything also get the organisation's own."""
    if actor.sees_everything:
        return AuditEvent.objects.all()
    return AuditEvent.objects.filter(team_id__in=actor.team_ids)
