"""POST /v1/auth/access-token/, and what an access token may do afterwards."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta

import jwt
import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.crypto.access_tokens import mint_access_token
from keyvault.keystore import installation_id, keys
from keyvault.models import AuditEvent, Grant
from keyvault.services import consumers
from tests.api.delivery.world import World
from tests.api.wire import Reply

PATH = "/v1/auth/access-token/"
ISSUER = "http://127.0.0.1:8000"
Make = Callable[..., World]


def mint(world: World, **body: object) -> Reply:
    return world.send("POST", PATH, body=json.dumps(body).encode())


def use(world: World, token: str, path: str = "") -> Reply:
    return world.server.send("GET", path or world.path, ("Authorization", f"AccessToken {token}"))


def forge(world: World, **changes: object) -> str:
    """A token signed by the right key, with some things changed."""
    given: dict[str, object] = {
        "issuer": ISSUER,
        "audience": f"keyturn:{installation_id()}",
        "parent": str(world.token_row.id),
        "environment": "prod",
        "paths": ["*"],
        "now": clock.now(),
        "expires_in": 60,
        **changes,
    }
    return mint_access_token(keys().service, **given).expose()  # type: ignore[arg-type]


class Test201:
    def test_the_shape_of_the_contract(self, world: World) -> None:
        before = clock.now()
        reply = mint(world, paths=[world.path], expires_in=600)
        assert reply.status == 201
        told = reply.json
        assert set(told) == {"access_token", "token_type", "expires_in", "expires_at"}
        assert (told["token_type"], told["expires_in"]) == ("AccessToken", 600)
        expires = datetime.fromisoformat(told["expires_at"])
        life, second = timedelta(seconds=600), timedelta(seconds=1)
        assert before + life - second <= expires <= clock.now() + life + second
        claims = jwt.decode(told["access_token"], options={"verify_signature": False})
        assert claims["exp"] == int(expires.timestamp())

    def test_defaults_are_every_path_for_a_minute(self, world: World) -> None:
        told = mint(world).json
        assert told["expires_in"] == 60
        assert use(world, told["access_token"]).json["key"] == world.secret

    def test_a_delivery_by_access_token_is_recorded_as_such(self, world: World) -> None:
        use(world, mint(world, paths=[world.path]).json["access_token"])
        (row,) = world.deliveries()
        assert (row.credential, row.token_id) == ("access_token", world.token_row.id)

    def test_minting_is_audited_without_the_token(self, world: World) -> None:
        told = mint(world, paths=[world.path], expires_in=5).json
        event = AuditEvent.objects.get(name="consumer:access-token:minted", actor=world.consumer.slug)
        assert event.details == {"consumer": world.consumer.slug, "paths": [world.path], "expires_in": 5}
        assert told["access_token"] not in json.dumps(event.details)

    @pytest.mark.parametrize("glob", ["*", "/v1/keys/*", "/v1/keys/*/prod/", "/v1/keys/service-*/prod/"])
    def test_globs_that_cover_the_key(self, world: World, glob: str) -> None:
        assert use(world, mint(world, paths=[glob]).json["access_token"]).status == 200

    def test_a_gateway_checks_it_with_the_published_key(self, world: World) -> None:
        token = mint(world).json["access_token"]
        (found,) = world.server.send("GET", "/v1/.well-known/jwks.json").json["keys"]
        claims = jwt.decode(
            token,
            jwt.PyJWK(found).key,
            algorithms=["EdDSA"],
            issuer=ISSUER,
            audience=f"keyturn:{installation_id()}",
        )
        assert claims["sub"] == str(world.token_row.id)
        assert jwt.get_unverified_header(token)["kid"] == found["kid"]


class TestLimits:
    """An access token never does more than its parent does now."""

    def test_paths_do_not_widen_the_grants(self, make: Make) -> None:
        world, stranger = make(), make()
        token = mint(world, paths=["*"]).json["access_token"]
        assert use(world, token, stranger.path).code == "not_found"

    def test_a_grant_that_is_taken_away_is_gone_for_it_too(self, world: World) -> None:
        token = mint(world, paths=["*"]).json["access_token"]
        grant = Grant.objects.select_related("service", "environment", "consumer").get(
            consumer=world.consumer
        )
        consumers.remove_grant(SYSTEM, grant, now=clock.now())
        assert use(world, token).code == "not_found"

    def test_it_uses_up_the_rate_of_its_parent(self, make: Make) -> None:
        world = make(rate=4)
        token = mint(world, paths=["*"]).json["access_token"]
        codes = [use(world, token).status for _ in range(10)]
        assert codes.count(200) <= 8
        assert 429 in codes

    def test_an_address_list_of_the_parent_applies(self, world: World) -> None:
        row, _ = world.new_token(cidrs=["10.0.0.0/8"])
        assert use(world, forge(world, parent=str(row.id))).code == "invalid_access_token"


class Test401:
    def test_no_credential(self, world: World) -> None:
        assert world.server.send("POST", PATH, body=b"{}").code == "missing_api_key"

    def test_outside_its_paths(self, world: World) -> None:
        token = mint(world, paths=["/v1/keys/other/*"]).json["access_token"]
        reply = use(world, token)
        assert (reply.status, reply.code) == (401, "path_not_allowed")

    def test_the_watch_path_is_another_path(self, world: World) -> None:
        token = mint(world, paths=[world.path]).json["access_token"]
        assert use(world, token, f"{world.path}watch/").code == "path_not_allowed"

    def test_expired(self, world: World) -> None:
        token = forge(world, now=clock.now() - timedelta(seconds=61))
        reply = use(world, token)
        assert (reply.status, reply.code) == (401, "access_token_expired")

    def test_a_revoked_parent(self, world: World) -> None:
        token = mint(world).json["access_token"]
        consumers.revoke_token(SYSTEM, world.token_row, now=clock.now())
        reply = use(world, token)
        assert (reply.status, reply.code) == (401, "invalid_access_token")

    @pytest.mark.parametrize(
        "changes",
        [
            {"issuer": "http://elsewhere.example"},
            {"audience": "keyturn:00000000-0000-4000-8000-000000000000"},
            {"environment": "dev"},
            {"parent": str(uuid.uuid4())},
        ],
        ids=["issuer", "audience", "environment", "parent"],
    )
    def test_signed_by_us_for_somebody_else(self, world: World, changes: dict[str, object]) -> None:
        assert use(world, forge(world)).status == 200
        assert use(world, forge(world, **changes)).code == "invalid_access_token"

    def test_issued_in_the_future(self, world: World) -> None:
        assert (
            use(world, forge(world, now=clock.now() + timedelta(seconds=60))).code == "invalid_access_token"
        )

    @pytest.mark.parametrize("change", ["{}=", "{}==", "{}.x", "{}\tx", '"{}"', "x{}", "{}A"])
    def test_another_spelling(self, world: World, change: str) -> None:
        token = mint(world).json["access_token"]
        assert use(world, change.format(token)).code == "invalid_access_token"

    @pytest.mark.parametrize(
        "header",
        [
            {"alg": "none"},
            {"alg": "HS256"},
            {"alg": "RS256"},
            {"kid": "../../etc/passwd"},
            {"jwk": {}},
            {"crit": ["b64"]},
            {"typ": "JWT"},
        ],
        ids=lambda header: next(iter(header)) + "-" + str(next(iter(header.values())))[:6],
    )
    def test_another_header(self, world: World, header: dict[str, object]) -> None:
        token = mint(world).json["access_token"]
        first, rest = token.split(".", 1)
        true = json.loads(jwt.utils.base64url_decode(first))
        changed = jwt.utils.base64url_encode(json.dumps({**true, **header}).encode()).decode()
        assert use(world, f"{changed}.{rest}").code == "invalid_access_token"

    def test_a_consumer_token_under_the_wrong_scheme(self, world: World) -> None:
        assert use(world, world.token).code == "invalid_access_token"

    def test_an_access_token_under_the_wrong_scheme(self, world: World) -> None:
        token = mint(world).json["access_token"]
        reply = world.server.send("GET", world.path, ("Authorization", f"Bearer {token}"))
        assert reply.code == "invalid_api_key"


class Test403:
    def test_an_access_token_cannot_mint(self, world: World) -> None:
        for paths in (["*"], [world.path]):
            token = mint(world, paths=paths).json["access_token"]
            reply = world.server.send("POST", PATH, ("Authorization", f"AccessToken {token}"), body=b"{}")
            assert (reply.status, reply.code) == (403, "access_token_not_allowed")


class Test405:
    def test_other_methods(self, world: World) -> None:
        reply = world.send("GET", PATH)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


class Test429:
    def test_minting_counts(self, make: Make) -> None:
        world = make(rate=2)
        assert 429 in [mint(world).status for _ in range(6)]
