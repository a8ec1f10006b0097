"""What a secret scanner reports"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.test import Client

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.scanners import parse_scanner_keys
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.models import AuditEvent, ConsumerToken, Environment, KeyVersion, UserToken
from keyvault.services import consumers
from rotation.models import EmergencyRun
from rotation.notice_rows import Notice
from rotation.services import channels
from tests.api.management.world import World, new_secret, problem

PATH = "/v1/token-scanning/report/"
KEY = ec.generate_private_key(ec.SECP256R1())
URL = "https://github.com/octo/hello/blob/main/config.py?x=1#L3"
PLACE = "github.com/octo/hello/blob/main/config.py"


def pem(key: Any) -> str:
    raw: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return raw.decode()


@pytest.fixture(autouse=True)
def known(settings: Any) -> None:
    settings.KEYTURN_SCANNING_KEYS = parse_scanner_keys(json.dumps({"scanner-1": pem(KEY)}))
    settings.KEYTURN_SCANNING_REVOKES = True


def send(body: bytes, signature: bytes | None = None, **headers: str) -> Any:
    signed = signature if signature is not None else KEY.sign(body, ec.ECDSA(SHA256()))
    given = {
        "Github-Public-Key-Identifier": "scanner-1",
        "Github-Public-Key-Signature": base64.b64encode(signed).decode(),
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return Client().generic("POST", PATH, body, content_type="application/json", headers=given)


def report(*secrets: str, url: str = URL) -> Any:
    found = [{"token": text, "type": "keyturn", "url": url, "source": "content"} for text in secrets]
    return send(json.dumps(found).encode())


def labels(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [one["label"].removesuffix("_positive") for one in answer.json()]


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, problem(answer)["code"]


def consumer_token(world: World) -> tuple[ConsumerToken, str]:
    dev = Environment.objects.get(slug="dev")
    row, secret = consumers.create_token(SYSTEM, world.consumer(), dev, expires_at=None, now=world.now)
    return row, secret.expose()


def events() -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(name="leak:scanned").order_by("sequence"))


class TestReport200:
    def test_a_consumer_token_is_revoked_and_its_team_told(self, world: World) -> None:
        address = Secret("https://hooks.example.org/x")
        channels.create_channel(
            SYSTEM, slug="room", team=world.imaging, kind="chat", url=address, fields={}, now=world.now
        )
        row, text = consumer_token(world)
        answer = report(text, mint(TokenKind.CONSUMER, "dev").expose())
        assert answer.json() == [
            {
                "token_hash": hashlib.sha256(text.encode()).hexdigest(),
                "token_type": "keyturn",
                "label": "true_positive",
            },
            {**answer.json()[1], "label": "false_positive"},
        ]
        row.refresh_from_db()
        assert row.revoked_at is not None
        [event] = events()
        assert (event.team_id, event.subject) == (world.imaging.id, str(row.id))
        assert event.details == {
            "scanner": "scanner-1",
            "what": "consumer token",
            "hint": row.hint,
            "outcome": "revoked",
            "place": PLACE,
        }
        notice = Notice.objects.get(kind="token.leaked")
        assert (notice.facts["code"], notice.facts["place"]) == ("revoked", PLACE)
        assert text not in answer.content.decode() + str(event.__dict__) + str(notice.facts)

    def test_it_may_come_again_and_changes_nothing_more(self, world: World) -> None:
        _, text = consumer_token(world)
        assert [labels(report(text)) for _ in range(3)] == [["true"]] * 3
        assert len(events()) == AuditEvent.objects.filter(name="consumer:token:revoked").count() == 1

    def test_a_user_token_is_revoked(self, world: World) -> None:
        assert labels(report(world.lead.token)) == ["true"]
        assert UserToken.objects.get(user=world.lead.user).revoked_at is not None
        assert world.lead.get("/v1/teams/").status_code == 401
        assert events()[0].details["what"] == "user token"

    def test_tokens_live_on_where_the_installation_is_set_so(self, world: World, settings: Any) -> None:
        settings.KEYTURN_SCANNING_REVOKES = False
        row, text = consumer_token(world)
        assert labels(report(text)) == ["true"]
        row.refresh_from_db()
        assert row.revoked_at is None
        assert events()[0].details["outcome"] == "kept"

    def test_a_dead_token_is_still_one_of_ours(self, world: World) -> None:
        row, text = consumer_token(world)
        consumers.revoke_token(SYSTEM, row, now=world.now)
        assert labels(report(text)) == ["true"]
        assert events()[0].details["outcome"] == "dead"

    def test_a_secret_of_a_provider_takes_the_way_of_every_leak(self, world: World) -> None:
        secret = new_secret()
        key = world.key("prod", secret=secret)
        assert labels(report(secret, new_secret())) == ["true", "false"]
        assert KeyVersion.objects.get(key=key).compromised_at is not None
        assert EmergencyRun.objects.get().state == "proposed"
        assert labels(report(secret)) == ["true"]
        assert EmergencyRun.objects.count() == 1
        told = AuditEvent.objects.filter(name="leak:reported")
        assert [event.reason for event in told] == [f"a scanner found it at {PLACE}"]
        KeyVersion.objects.filter(key=key).update(state="revoked", revoked_at=world.now)
        assert labels(report(secret)) == ["true"]

    def test_nothing_found_nothing_told(self, world: World) -> None:
        assert labels(report()) == []

    @pytest.mark.parametrize(
        "url",
        [
            "javascript:alert(1)",
            "ftp://example.org/x",
            "https://[::1",
            "https://example.org/\n",
            "https://example.org/\u202e",
            None,
        ],
    )
    def test_an_address_that_is_none_is_not_kept(self, world: World, url: Any) -> None:
        _, text = consumer_token(world)
        assert labels(report(text, url=url)) in (["true"], [])
        assert "javascript" not in str(events()[0].details)
        assert events()[0].details["place"] in ("", "example.org/")

    def test_a_secret_in_the_address_is_not_kept(self, world: World) -> None:
        _, text = consumer_token(world)
        report(text, url=f"https://user:{new_secret()}@example.org/raw/{text}?token={text}")
        assert events()[0].details["place"] == "example.org"


class TestReport400:
    @pytest.mark.parametrize(
        "body",
        [
            b"{}",
            b'"x"',
            b"null",
            b"[1]",
            b'[{"token": "x"}]',
            b'[{"token": 1, "type": "x"}]',
            b'[{"type": "x"}]',
        ],
    )
    def test_another_shape(self, world: World, body: bytes) -> None:
        assert refused(send(body)) == (400, "validation_error")

    def test_no_json(self, world: World) -> None:
        assert refused(send(b"[{]")) == (400, "malformed_json")

    def test_more_than_one_report_may_hold(self, world: World) -> None:
        body = json.dumps([{"token": "x", "type": "y"}] * 501).encode()
        assert refused(send(body)) == (400, "validation_error")


class TestReport401:
    def test_nobody(self, world: World) -> None:
        answer = Client().post(PATH, "[]", content_type="application/json")
        assert refused(answer) == (401, "missing_api_key")

    def test_a_person(self, world: World) -> None:
        assert refused(world.admin.post(PATH, [])) == (401, "missing_api_key")

    def test_what_was_not_signed_by_a_known_scanner(self, world: World) -> None:
        row, text = consumer_token(world)
        body = json.dumps([{"token": text, "type": "keyturn"}]).encode()
        good = KEY.sign(body, ec.ECDSA(SHA256()))
        other = ec.generate_private_key(ec.SECP256R1()).sign(body, ec.ECDSA(SHA256()))
        assert refused(send(body, other)) == (401, "invalid_api_key")
        assert refused(send(body + b" ", good)) == (401, "invalid_api_key")
        assert refused(send(body, good[:-1])) == (401, "invalid_api_key")
        assert refused(send(body, good, Github_Public_Key_Identifier="scanner-2")) == (401, "invalid_api_key")
        for text in ("not base64", "=" * 500, "%%%"):
            assert refused(send(body, Github_Public_Key_Signature=text)) == (401, "invalid_api_key")
        row.refresh_from_db()
        assert row.revoked_at is None
        assert send(body, good).status_code == 200


class TestReport404:
    def test_where_no_scanner_is_known(self, world: World, settings: Any) -> None:
        settings.KEYTURN_SCANNING_KEYS = {}
        _, text = consumer_token(world)
        assert refused(report(text)) == (404, "not_found")
        assert events() == []


class TestReport413:
    def test_a_body_that_is_too_large(self, world: World) -> None:
        assert refused(send(b"[" + b" " * 70_000 + b"]")) == (413, "payload_too_large")


class TestReport429:
    def test_each_scanner_is_counted(
        self, world: World, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clock, "now", lambda: world.now)  # within one minute
        settings.KEYTURN_API_RATE = "3/min"
        settings.KEYTURN_SCANNING_KEYS = parse_scanner_keys(json.dumps({"eager": pem(KEY)}))
        answers = [send(b"[]", Github_Public_Key_Identifier="eager") for _ in range(7)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert refused(answers[-1]) == (429, "rate_limited")
        assert answers[0]["RateLimit-Limit"] == "3"


class TestKeys:
    def test_the_document_that_github_publishes(self) -> None:
        listed = {"public_keys": [{"key_identifier": "a", "key": pem(KEY), "is_current": True}]}
        assert set(parse_scanner_keys(json.dumps(listed))) == {"a"}
        assert parse_scanner_keys(" ") == {}

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            '{"a": 1}',
            '{"a": "no key"}',
            json.dumps({"a": pem(ec.generate_private_key(ec.SECP384R1()))}),
        ],
        ids=["cut off", "a list", "a number", "no key", "another curve"],  # the last one is new every time
    )
    def test_anything_else_stops_the_start(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"scanner"):
            parse_scanner_keys(text)
