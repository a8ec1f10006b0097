"""Who may call the management API, and how each wrong credential is answered (B01-B10)"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from keyvault.crypto.tokens import TokenKind, mint
from keyvault.integrity import sign
from keyvault.models import User, UserToken
from tests.api.management.world import World, problem

PATH = "/v1/teams/"


def get(path: str = PATH, **headers: str) -> Any:
    return Client().get(path, headers={name.replace("_", "-"): text for name, text in headers.items()})


class TestAuthentication200:
    @pytest.mark.parametrize(
        ("header", "form"),
        [
            ("X-API-Key", "{}"),
            ("x-api-key", "{}"),
            ("X-Api-Key", "{}"),
            ("Authorization", "Bearer {}"),
            ("Authorization", "Token {}"),
            ("Authorization", "bearer {}"),
        ],
    )
    def test_every_documented_form(self, world: World, header: str, form: str) -> None:
        assert get(**{header: form.format(world.lead.token)}).status_code == 200

    def test_a_blank_header_beside_the_credential_is_no_second_one(self, world: World) -> None:
        assert get(X_API_Key=" ", Authorization=f"Bearer {world.lead.token}").status_code == 200
        assert get(X_API_Key=world.lead.token, Authorization="").status_code == 200

    def test_no_cookie_is_set(self, world: World) -> None:
        assert not get(X_API_Key=world.lead.token).cookies


class TestAuthentication400:
    def test_b07_two_credentials(self, world: World) -> None:
        token = world.lead.token
        for headers in (
            {"X_API_Key": token, "Authorization": f"Bearer {token}"},
            {"X_API_Key": f"{token}, {token}"},
            {"Authorization": f"Bearer {token}, Bearer {token}"},
        ):
            assert problem(get(**headers))["code"] == "ambiguous_credentials"

    @pytest.mark.parametrize("name", ["api_key", "API_KEY", "apikey", "x-api-key", "access_token", "token"])
    def test_b08_a_credential_in_the_url(self, world: World, name: str) -> None:
        answer = get(f"{PATH}?{name}=abc", X_API_Key=world.lead.token)
        assert problem(answer)["code"] == "credential_in_url"

    def test_b08_a_token_of_ours_under_any_name(self, world: World) -> None:
        answer = get(f"{PATH}?cursor={world.lead.token}")
        assert problem(answer)["code"] == "credential_in_url"
        assert world.lead.token not in answer.content.decode()


class TestAuthentication401:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X_API_Key": ""},
            {"X_API_Key": "   "},
            {"Authorization": ""},
            {"Authorization": "Bearer"},
            {"Authorization": "Token "},
            {"Authorization": "Bearer    "},
        ],
    )
    def test_b01_b02_nothing(self, world: World, headers: dict[str, str]) -> None:
        answer = get(**headers)
        assert problem(answer)["code"] == "missing_api_key"
        assert answer["WWW-Authenticate"].startswith("Bearer")

    def test_b03_unknown_revoked_expired_and_mistyped_look_the_same(self, world: World) -> None:
        token = world.lead.token
        mistyped = token[:-1] + ("a" if token[-1] != "a" else "b")
        bodies = [get(X_API_Key=mint(TokenKind.USER, None).expose()), get(X_API_Key=mistyped)]
        row = UserToken.objects.get(user=world.lead.user)
        row.revoked_at = world.now
        sign(row)
        row.save()
        bodies.append(get(X_API_Key=token))
        row.revoked_at, row.created_at = None, world.now - timedelta(hours=2)
        row.expires_at = world.now - timedelta(seconds=1)
        sign(row)
        row.save()
        bodies.append(get(X_API_Key=token))
        User.objects.filter(pk=world.viewer.user.pk).update(is_active=False)
        bodies.append(get(X_API_Key=world.viewer.token))
        bodies.append(get(X_API_Key=mint(TokenKind.ISSUED, "dev").expose()))
        assert {answer.status_code for answer in bodies} == {401}
        assert len({str({**problem(answer), "request_id": ""}) for answer in bodies}) == 1

    @pytest.mark.parametrize(
        ("form", "hint"),
        [
            ('"{}"', "quotation"),
            ("'{}'", "quotation"),
            ("{} x", "white space"),
            ("YOUR_API_KEY", "placeholder"),
        ],
    )
    def test_b04_b05_hints_without_repair(self, world: World, form: str, hint: str) -> None:
        error = problem(get(X_API_Key=form.format(world.lead.token)))
        assert error["code"] == "invalid_api_key"
        assert hint in error["message"]

    @pytest.mark.parametrize("text", ["é", "\xff\xfe", "ktu_é" + "a" * 48, "x" * 60_000])
    def test_b06_b10_odd_bytes(self, world: World, text: str) -> None:
        assert problem(get(X_API_Key=text))["code"] == "invalid_api_key"
        assert problem(get(Authorization=f"Bearer {text}"))["code"] == "invalid_api_key"

    @pytest.mark.parametrize("scheme", ["Basic", "Digest", "ApiKey"])
    def test_b09_another_scheme(self, world: World, scheme: str) -> None:
        answer = get(Authorization=f"{scheme} {world.lead.token}")
        assert problem(answer)["code"] == "invalid_api_key"

    def test_every_refusal_is_the_same_for_a_post(self, world: World) -> None:
        answer = Client().post(PATH, b"{", content_type="text/plain")
        assert problem(answer)["code"] == "missing_api_key"


class TestAuthentication403:
    def test_a_consumer_token_is_told_where_it_belongs(self, world: World) -> None:
        answer = get(X_API_Key=mint(TokenKind.CONSUMER, "prod").expose())
        error = problem(answer)
        assert error["code"] == "permission_denied"
        assert "user token" in error["message"]

    def test_an_access_token(self, world: World) -> None:
        answer = get(Authorization="AccessToken eyJhbGciOiJFZERTQSJ9.e30.AA")
        assert problem(answer)["code"] == "access_token_not_allowed"

    def test_roles_are_those_of_this_moment(self, world: World) -> None:
        body = {"slug": "web", "team": "imaging"}
        world.admin.post("/v1/teams/imaging/members/", {"user": "lead", "role": "viewer"})
        assert world.lead.post("/v1/consumers/", body).status_code == 403
