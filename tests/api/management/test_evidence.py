"""/v1/rotations/{rotation}/evidence/"""

from __future__ import annotations

import uuid
from typing import Any

import jsonschema
import pytest

from keyvault.api import openapi
from keyvault.crypto.evidence import verify_evidence
from keyvault.crypto.signed import read_document
from keyvault.keystore import installation_id, keys
from keyvault.models import AuditEvent
from tests.api.management.world import World, problem, row, start, work
from tests.evidence import public_key_set


@pytest.fixture
def finished(world: World) -> str:
    """The path of a rotation that was rolled back in shift."""
    path = start(world, world.key(), policy="standard", reason="Quarterly")
    work()
    assert world.operator.post(f"{path}abort/", {"reason": "a rehearsal"}).status_code == 200
    return path


class TestEvidence200:
    def test_whoever_sees_the_rotation_gets_its_signed_evidence(self, world: World, finished: str) -> None:
        for person in (world.viewer, world.operator, world.lead, world.auditor, world.admin):
            answer = person.get(f"{finished}evidence/")
            assert answer.status_code == 200
            document = read_document(answer.content)
            assert verify_evidence(document, public_key_set()) == keys().service.signing_kid
            assert document["installation"] == installation_id()

    def test_it_tells_what_happened(self, world: World, finished: str) -> None:
        rotation = row(finished)
        document: dict[str, Any] = world.viewer.get(f"{finished}evidence/").json()
        told = document["rotation"]
        assert (told["id"], told["outcome"], told["reason"]) == (str(rotation.id), "rolled_back", "Quarterly")
        assert told["rolled_back_reason"] == "aborted by a person"
        assert told["outgoing"]["version"] == 1
        assert told["incoming"]["version"] == 2
        assert told["settled"] is False, "the incoming version is not revoked yet"
        assert document["plan"]["steps"][0]["weight"] == 5
        assert document["plan"]["policy"] == "standard"
        assert document["policy"] == rotation.policy
        assert [(step["weight"], step["shares"]["target"]) for step in document["steps"]] == [(5, 5)]
        assert {one["kind"] for one in document["operations"]} == {"issue", "verify"}
        assert document["proof"] is None
        names = [line["event"] for line in document["transitions"]]
        assert names[0] == "started"
        assert names[-3:] == ["rollback", "stage", "finished"]

    def test_it_gives_the_place_of_every_event_in_the_audit_chain(self, world: World, finished: str) -> None:
        chain = world.viewer.get(f"{finished}evidence/").json()["audit"]
        rows = AuditEvent.objects.filter(subject=row(finished).id).order_by("sequence")
        assert [(one["sequence"], one["event"], one["mac"]) for one in chain["events"]] == [
            (event.sequence, event.name, bytes(event.mac).hex()) for event in rows
        ]
        moves = [one["stage"] for one in chain["events"] if one["event"] == "rotation:stage"]
        assert moves == ["deploy", "shift", "rolled_back"]
        first, last = chain["events"][0], chain["events"][-1]
        assert chain["first"] == {"sequence": first["sequence"], "mac": first["mac"]}
        assert chain["last"] == {"sequence": last["sequence"], "mac": last["mac"]}

    def test_two_exports_are_the_same_bytes(self, world: World, finished: str) -> None:
        first, second = (world.viewer.get(f"{finished}evidence/").content for _ in range(2))
        assert first == second

    def test_it_is_as_the_document_of_the_api_says(self, world: World, finished: str) -> None:
        cancelled = start(world, world.key("prod"))
        world.lead.post(f"{cancelled}abort/", {"reason": "not now"})
        for path in (finished, cancelled):
            document = world.viewer.get(f"{path}evidence/").json()
            schema = {
                "$ref": "#/components/schemas/Evidence",
                "components": openapi.document()["components"],
            }
            jsonschema.Draft202012Validator(schema).validate(document)

    def test_reading_it_leaves_no_trace(self, world: World, finished: str) -> None:
        before = AuditEvent.objects.count()
        world.viewer.get(f"{finished}evidence/")
        assert AuditEvent.objects.count() == before


class TestEvidence400:
    def test_it_takes_no_parameters(self, world: World, finished: str) -> None:
        answer = world.viewer.get(f"{finished}evidence/?format=pdf")
        assert problem(answer)["code"] == "validation_error"


class TestEvidence401:
    def test_without_a_token(self, world: World, finished: str) -> None:
        answer = world.viewer.get(f"{finished}evidence/", X_API_Key="")
        assert answer.status_code == 401


class TestEvidence404:
    def test_a_stranger_gets_what_one_gets_for_nothing(self, world: World, finished: str) -> None:
        for person, path in (
            (world.stranger, finished),
            (world.viewer, f"/v1/rotations/{uuid.uuid4()}/"),
        ):
            assert problem(person.get(f"{path}evidence/"))["code"] == "not_found"


class TestEvidence405:
    def test_it_is_only_read(self, world: World, finished: str) -> None:
        for method in ("POST", "PATCH", "DELETE"):
            assert world.lead.call(method, f"{finished}evidence/", {}).status_code == 405


class TestEvidence409:
    def test_an_open_rotation_has_none_yet(self, world: World) -> None:
        path = start(world, world.key())
        refused = problem(world.viewer.get(f"{path}evidence/"))
        assert refused["code"] == "invalid_transition"
        assert refused["state"] == row(path).stage
        assert "abort" in refused["verbs"]
