"""Usage reports: a consumer tells how the versions it was given have worked."""

from __future__ import annotations

from keyvault import clock
from keyvault.delivery.admission import admitted
from keyvault.delivery.answer import Answer, as_json
from keyvault.delivery.authenticate import Caller
from keyvault.delivery.cache import View
from keyvault.delivery.grant import Permit, find_permit
from keyvault.delivery.keys import instance_of
from keyvault.delivery.plane import Plane
from keyvault.delivery.records import as_uuid
from keyvault.delivery.requests import Request, check_instance
from keyvault.exceptions import invalid, not_found
from keyvault.models import Consumer, Key
from keyvault.models.activity import OUTCOMES
from keyvault.services import usage
from keyvault.strict_json import integer, moment, parse_object, refuse_unknown

MAX_LINES = 50
MAX_COUNT = 2**31 - 1
MAX_SEQUENCE = 2**63 - 1

_FIELDS = frozenset({"instance", "sequence", "from", "to", "versions"})
_JOBS = ("jobs_opened", "jobs_closed")
_LINE_FIELDS = frozenset({"version", "credential", *OUTCOMES, *_JOBS})


async def accept(plane: Plane, request: Request) -> Answer:
    """Store one report; 202 also for one that is known already."""

    def check(view: View, caller: Caller) -> Permit:
        permit = find_permit(view, caller, request.route.service, request.route.environment)
        if permit is None:
            raise not_found()
        permit.demand("report")
        return permit

    return await admitted(plane, request, check, lambda permit: _accept(request, permit))


def _accept(request: Request, permit: Permit) -> Answer:
    report = parse_report(request.body, default_instance=instance_of(request, permit.caller.consumer))
    consumer = Consumer.objects.get(pk=as_uuid(permit.caller.token.consumer_id))
    key = Key.objects.get(pk=as_uuid(permit.key.id))
    new = usage.accept_report(consumer, key, report, now=clock.now())
    return as_json(202, {"accepted": True, "duplicate": not new})


def parse_report(body: bytes, *, default_instance: str) -> usage.ReportInput:
    """The report in a body. Raises ``malformed_json``, ``validation_error`` or ``unknown_field``."""
    told = parse_object(body)
    refuse_unknown(told, _FIELDS)
    missing = sorted({"sequence", "from", "to", "versions"} - told.keys())
    if missing:
        raise invalid(missing[0], "This field is needed.")
    return usage.ReportInput(
        instance=check_instance(told.get("instance", default_instance)),
        sequence=integer(told["sequence"], "sequence", low=0, high=MAX_SEQUENCE),
        from_at=moment(told["from"], "from"),
        to_at=moment(told["to"], "to"),
        lines=_lines(told["versions"]),
    )


def _lines(value: object) -> tuple[usage.LineInput, ...]:
    if not isinstance(value, list) or len(value) > MAX_LINES:
        raise invalid("versions", f"Must be a list of at most {MAX_LINES} lines.")
    lines = tuple(_line(line, f"Line {number}: ") for number, line in enumerate(value, start=1))
    if len({(line.version, line.credential) for line in lines}) != len(lines):
        raise invalid("versions", "A version and credential stand twice.")
    return lines


def _line(value: object, where: str) -> usage.LineInput:
    if not isinstance(value, dict):
        raise invalid("versions", f"{where}Must be an object.")
    refuse_unknown(value, _LINE_FIELDS, where=where.removesuffix(": "))
    credential = value.get("credential", "key")
    if credential not in usage.CREDENTIALS:
        raise invalid("versions", f"{where}credential must be key or access_token.")

    def count(name: str) -> int:
        return integer(value.get(name, 0), "versions", low=0, high=MAX_COUNT, what=f"{where}{name}: ")

    return usage.LineInput(
        version=integer(value.get("version"), "versions", low=1, high=MAX_COUNT, what=f"{where}version: "),
        credential=credential,
        counts={name: count(name) for name in OUTCOMES},
        jobs_opened=count("jobs_opened"),
        jobs_closed=count("jobs_closed"),
    )
