"""The control plane: what a test or the demo in another process may see and do. Never counted.

GET    /_control/state                          slug, keys, counters, faults
GET    /_control/keys | counters | faults | admin
POST   /_control/faults    {fault: value, ...}  see faults.Faults; DELETE clears all
POST   /_control/honours   {"key"}              {"honoured": bool}, the ground truth
POST   /_control/dashboard/keys {"name"}        {"id", "key"}: a person on the account page
GET    /_control/dashboard/keys/{id}            {"id", "key"}: copied again, where the page can
POST   /_control/dashboard/keys/{id}/revoke     also disable and enable
"""

import re
from dataclasses import asdict

from keyvault.crypto.secret import Secret
from rotation.simulators.base import Simulator
from rotation.simulators.faults import FaultError
from rotation.simulators.management import PREFIX as MANAGE
from rotation.simulators.management import manage
from rotation.simulators.truth import NoPlan, NoSuchKey, QuotaFull
from rotation.simulators.wire import Answer, Request, Response, json_response

PREFIX = "/_control/"

_ONE = re.compile(r"\Adashboard/keys/(key_[0-9a-f]+)(?:/(revoke|disable|enable))?\Z")


def respond(simulator: Simulator, request: Request) -> Answer:
    """Answer any request: control plane, management API, or the provider's own."""
    if request.path.startswith(PREFIX):
        return control(simulator, request)
    if simulator.has_management and (request.path == MANAGE or request.path.startswith(f"{MANAGE}/")):
        return manage(simulator, request)
    return simulator.serve(request)


def control(simulator: Simulator, request: Request) -> Response:
    """Answer one request to the control plane."""
    what = request.path.removeprefix(PREFIX)
    if what.startswith("dashboard/"):
        return _dashboard(simulator, request, what)
    if request.method == "GET":
        return _look(simulator, what)
    if request.method == "DELETE" and what == "faults":
        simulator.clear_faults()
        return json_response(200, simulator.faults())
    data = request.json()
    if request.method == "POST" and what == "faults" and data is not None:
        try:
            simulator.set_fault(**data)
        except FaultError as error:
            return json_response(400, {"error": str(error)})
        return json_response(200, simulator.faults())
    if (
        request.method == "POST"
        and what == "honours"
        and data is not None
        and isinstance(data.get("key"), str)
    ):
        return json_response(200, {"honoured": simulator.honours(Secret(str(data["key"])))})
    return json_response(404, {"error": "not found"})


def _look(simulator: Simulator, what: str) -> Response:
    keys = [asdict(key) for key in simulator.truth.views()]
    views: dict[str, dict[str, object]] = {
        "keys": {"keys": keys},
        "counters": simulator.counters(),
        "faults": simulator.faults(),
    }
    views["state"] = {
        "slug": simulator.slug,
        **views["keys"],
        "counters": views["counters"],
        "faults": views["faults"],
    }
    if simulator.has_management:
        views["admin"] = {"admin_secret": simulator.admin_secret.expose()}
    return json_response(200, views[what]) if what in views else json_response(404, {"error": "not found"})


def _dashboard(simulator: Simulator, request: Request, what: str) -> Response:
    if request.method == "POST" and what == "dashboard/keys":
        data = request.json()
        name = data.get("name") if data else None
        if not isinstance(name, str):
            return json_response(400, {"error": "name is needed"})
        try:
            created = simulator.create_key(name)
        except QuotaFull:
            return json_response(409, {"error": "the account holds as many keys as it may"})
        except NoPlan:
            return json_response(403, {"error": "the plan has no API access"})
        return json_response(201, {"id": created.id, "key": created.value.expose()})
    match = _ONE.match(what)
    if match is None:
        return json_response(404, {"error": "not found"})
    key_id, verb = match[1], match[2]
    try:
        if request.method == "GET" and verb is None and simulator.can_copy_again:
            return json_response(200, {"id": key_id, "key": simulator.truth.get(key_id).secret.expose()})
        if request.method == "POST" and verb is not None:
            {"revoke": simulator.revoke, "disable": simulator.disable, "enable": simulator.enable}[verb](
                key_id
            )
            return json_response(200, {"id": key_id})
    except NoSuchKey:
        return json_response(404, {"error": "no such key"})
    return json_response(404, {"error": "not found"})
