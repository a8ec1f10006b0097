"""Single sign-on against a real provider in another process, and the roles that its groups give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from django.test import Client
from structlog.testing import capture_logs

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.domain import OrganisationRole, Role
from keyvault.models import AuditEvent, Membership, Team, User
from keyvault.project.group_roles import Given, given_by, groups_in, parse_rules
from keyvault.services import people, sso_roles
from tests.conftest import Tell
from tests.integration.console import House, build, client_of
from tests.integration.identity_provider import CLIENT, SECRET, WRONG_CLAIMS, WRONG_OTHERWISE
from tests.integration.processes import DEADLINE

NONE, AUDITOR, ADMIN = OrganisationRole.NONE, OrganisationRole.AUDITOR, OrganisationRole.ADMIN
TABLE = {
    "media-leads": "media:lead",
    "media-all": "media:viewer",
    "cn=both,dc=example": ["media:operator", "shop:viewer"],
    "audit": "auditor",
    "platform": "admin",
}
CALLBACK = "http://testserver/accounts/sso/sso/callback/"


# The rules ----------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize(
    ("groups", "organisation", "teams"),
    [
        ([], NONE, {}),
        (["nobody-knows"], NONE, {}),
        (["media-all"], NONE, {"media": Role.VIEWER}),
        (["media-leads", "media-all"], NONE, {"media": Role.LEAD}),
        (["media-all", "media-leads"], NONE, {"media": Role.LEAD}),
        (["cn=both,dc=example", "media-all"], NONE, {"media": Role.OPERATOR, "shop": Role.VIEWER}),
        (["audit"], AUDITOR, {}),
        (["platform", "audit"], ADMIN, {}),
        (["audit", "media-leads"], AUDITOR, {"media": Role.LEAD}),
        (["MEDIA-LEADS", "media-leads "], NONE, {}),
    ],
)
def test_groups_give_roles(groups: list[str], organisation: OrganisationRole, teams: dict[str, Role]) -> None:
    given = given_by(parse_rules(TABLE), groups)
    assert given == Given(organisation, teams)
    assert bool(given) is (organisation is not NONE or bool(teams))


@pytest.mark.once
@pytest.mark.parametrize(
    "wrong",
    [
        [],
        "x",
        {"g": ""},
        {"g": "owner"},
        {"g": "media:owner"},
        {"g": ":lead"},
        {"g": ["admin", ""]},
        {"g": None},
    ],
)
def test_a_table_that_is_wrong_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="KEYTURN_OIDC_ROLES"):
        parse_rules(wrong)


@pytest.mark.once
@pytest.mark.parametrize(
    ("claims", "name", "groups"),
    [
        ({"groups": ["a", "b"]}, "groups", {"a", "b"}),
        ({"groups": "a"}, "groups", {"a"}),
        ({"groups": ["a", 7, None, {"x": 1}]}, "groups", {"a"}),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", {"a"}),
        ({"https://example.org/groups": ["a"]}, "https://example.org/groups", {"a"}),
        ({"groups": {"a": 1}}, "groups", set()),
        ({"realm_access": ["a"]}, "realm_access.roles", set()),
        ({}, "groups", set()),
    ],
)
def test_groups_are_found_in_the_claims(claims: dict[str, Any], name: str, groups: set[str]) -> None:
    assert groups_in(claims, name) == groups


# What is done with them ---------------------------------------------------------------------------


@pytest.fixture
def house(db: None) -> House:
    return build()


def roles(username: str) -> dict[str, tuple[str, bool]]:
    rows = Membership.objects.filter(user__username=username).select_related("team")
    return {row.team.slug: (row.role, row.from_sso) for row in rows}


def give(username: str, organisation: OrganisationRole = NONE, **teams: Role) -> User:
    user = User.objects.get(username=username)
    sso_roles.apply(user, organisation=organisation, teams=teams, now=clock.now())
    return User.objects.get(username=username)


def test_what_the_groups_gave_they_take_away_and_nothing_else(house: House) -> None:
    people.create_person("nora", "a long enough password", role=NONE)
    give("nora", AUDITOR, media=Role.VIEWER, shop=Role.OPERATOR, unknown=Role.LEAD)
    assert roles("nora") == {"media": ("viewer", True), "shop": ("operator", True)}
    assert give("nora", ADMIN, media=Role.LEAD).is_superuser
    assert roles("nora") == {"media": ("lead", True)}
    events = AuditEvent.objects.count()
    give("nora", ADMIN, media=Role.LEAD)
    assert AuditEvent.objects.count() == events
    nora = give("nora")
    assert (roles("nora"), nora.organisation_role, nora.is_superuser) == ({}, "", False)
    told = AuditEvent.objects.filter(actor="single-sign-on").order_by("sequence")
    assert [event.name.removeprefix("team:member:") for event in told] == [
        "set", "set", "user:role:set", "set", "removed", "user:role:set", "removed", "user:role:set",
    ]  # fmt: skip
    assert {event.reason for event in told} == {"groups at the identity provider"}


def test_what_was_given_by_hand_stays_by_hand(house: House) -> None:
    give("vito", AUDITOR, media=Role.LEAD)
    assert roles("vito")["media"] == ("viewer", False)
    give("vito")
    assert roles("vito")["media"] == ("viewer", False)
    assert give("ada").organisation_role == "admin"
    give("stranger", media=Role.VIEWER)
    team = Team.objects.get(slug="media")
    people.set_member(SYSTEM, team, username="stranger", role=Role.OPERATOR, now=clock.now())
    give("stranger")
    assert roles("stranger")["media"] == ("operator", False)


# The protocol -------------------------------------------------------------------------------------


class Provider:
    def __init__(self, port: int, people: Path) -> None:
        self.issuer, self.people = f"http://127.0.0.1:{port}", people

    def says(self, **groups: list[str] | str) -> None:
        self.people.write_text(json.dumps(groups), encoding="utf-8")

    def sign_in(self, username: str, client: Client, query: str = "") -> Any:
        """From the button on our page to the answer of our callback."""
        start = client.get(f"/accounts/sso/sso/{query}")
        assert start.status_code == 302, start.content
        assert start["Location"].startswith(self.issuer)
        back = httpx.get(start["Location"], headers={"X-Person": username}, trust_env=False, timeout=DEADLINE)
        location = back.headers["Location"]
        assert location.startswith(CALLBACK), back.text
        return client.get(location.removeprefix("http://testserver"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    people = tmp_path_factory.mktemp("provider") / "people.json"
    people.write_text("{}", encoding="utf-8")
    program = [sys.executable, "-m", "tests.integration.identity_provider", CALLBACK, str(people)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Provider(int(process.stdout.readline()), people)
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE)  # closes the pipe too


@pytest.fixture
def provider(running: Provider, settings: Any) -> Provider:
    running.says()
    app: dict[str, Any] = {"provider_id": "sso", "name": "the company", "client_id": CLIENT, "secret": SECRET}
    app["settings"] = {"server_url": running.issuer}
    settings.KEYTURN_OIDC_ISSUER = running.issuer
    connect = {"OAUTH_PKCE_ENABLED": True, "SCOPE": ["openid", "profile", "email"], "APPS": [app]}
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": connect}
    settings.KEYTURN_OIDC_ROLES = parse_rules(TABLE)
    return running


def test_people_of_the_provider_come_in_with_the_roles_of_their_groups(
    house: House, provider: Provider
) -> None:
    assert "Sign in with the company" in Client().get("/accounts/login/").content.decode()
    stranger = Client()
    assert provider.sign_in("nora", stranger).status_code == 403
    assert not User.objects.filter(username="nora").exists()

    provider.says(nora=["media-leads"], lena=["platform"])
    nora = Client()
    assert provider.sign_in("nora", nora, "?next=/matrix/")["Location"] == "/matrix/"
    assert roles("nora") == {"media": ("lead", True)}
    assert nora.get("/").status_code == 200
    assert not User.objects.get(username="nora").has_usable_password()
    assert [e.name for e in AuditEvent.objects.filter(actor="single-sign-on").order_by("sequence")] == [
        "user:created",
        "team:member:set",
    ]
    # A name that somebody has here is not theirs because the provider uses it too.
    provider.sign_in("lena", Client())
    assert User.objects.get(username="lena").organisation_role == ""
    assert User.objects.filter(organisation_role="admin", organisation_role_from_sso=True).count() == 1

    provider.says(nora=["media-all"])
    again = Client()
    provider.sign_in("nora", again)
    assert roles("nora") == {"media": ("viewer", True)}
    provider.says(nora=[])
    provider.sign_in("nora", again)
    assert roles("nora") == {}

    # A person who is there already connects the account, and keeps what was given by hand.
    provider.says(vito=["media-leads"])
    vito = client_of("vito")
    assert provider.sign_in("vito", vito, "?process=connect&next=/profile/")["Location"] == "/profile/"
    assert "connected" in vito.get("/profile/").content.decode()
    provider.sign_in("vito", Client())
    assert roles("vito") == {"media": ("viewer", False)}

    User.objects.filter(username="nora").update(is_active=False)
    assert provider.sign_in("nora", Client())["Location"] == "/accounts/inactive/"
    tampered = Client()
    tampered.get("/accounts/sso/sso/")
    assert "did not work" in tampered.get(f"{CALLBACK}?code=x&state=made-up").content.decode()


@pytest.mark.once
def test_what_the_provider_says_is_believed_only_when_it_is_signed_fresh_and_for_us(
    house: House, provider: Provider, settings: Any, tell: Tell
) -> None:
    refused = {}
    for wrong in (*WRONG_CLAIMS, *WRONG_OTHERWISE):
        provider.says(nora=["media-leads"], wrong=wrong if wrong != "document" else "")
        browser = Client()
        start = browser.get("/accounts/sso/sso/")
        back = httpx.get(start["Location"], headers={"X-Person": "nora"}, trust_env=False, timeout=DEADLINE)
        provider.says(nora=["media-leads"], wrong=wrong)
        with capture_logs() as told:
            page = browser.get(back.headers["Location"].removeprefix("http://testserver"))
        assert "did not work" in page.content.decode(), wrong
        assert "_auth_user_id" not in browser.session, wrong
        refused[wrong] = next(line["code"] for line in told if line["event"] == "sso_refused")
    assert refused == {
        "issuer": "id_token_InvalidIssuerError",
        "nonce": "nonce_differs",
        "no nonce": "nonce_differs",
        "audience": "id_token_InvalidAudienceError",
        "several without a party": "party_differs",
        "party": "party_differs",
        "expired": "id_token_ExpiredSignatureError",
        "from the future": "id_token_ImmatureSignatureError",
        "no subject": "subject_unusable",
        "signature": "id_token_InvalidSignatureError",
        "unsigned": "algorithm_refused",
        "shared secret": "algorithm_refused",
        "document": "issuer_differs",
        "user info": "subject_differs",
    }
    assert not User.objects.filter(username="nora").exists()
    tell("refused", {"kinds": len(refused)})

    # The same words come in where nothing is wrong; an issuer that is spelled otherwise is another one.
    provider.says(nora=["media-leads"])
    assert provider.sign_in("nora", Client()).status_code == 302
    settings.KEYTURN_OIDC_ISSUER = f"{provider.issuer}/"
    page = Client().get("/accounts/sso/sso/")
    assert (page.status_code, "did not work" in page.content.decode()) == (503, True)


@pytest.mark.once
def test_a_link_adds_nothing_to_the_question(house: House, provider: Provider) -> None:
    extra = (
        "scope=offline_access&auth_params=nonce%3Dx%26redirect_uri%3Dhttps%3A%2F%2Fevil.example%26state%3Dx"
    )
    asked = [parse_qs(urlsplit(Client().get(f"/accounts/sso/sso/?{extra}")["Location"]).query) for _ in "12"]
    for question in asked:
        assert question["redirect_uri"] == [CALLBACK]
        assert set(question["scope"][0].split()) == {"openid", "profile", "email"}
        assert len(question["nonce"][0]) == 32
    assert asked[0]["nonce"] != asked[1]["nonce"]
