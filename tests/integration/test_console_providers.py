"""Providers in the console: the list, one of them, writing under the rules of the API, and trying one out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from keyvault.actors import SYSTEM, actor_for
from keyvault.exceptions import KeyturnError
from keyvault.keystore import open_admin_secret
from keyvault.models import AuditEvent, Environment, Provider, Service, Team, User
from keyvault.services import catalogue, keys
from rotation.breaker import FAILURES_TO_OPEN, note
from rotation.console.providerforms import ProviderForm
from rotation.drivers.base import ProbeOutcome, ProbeResult
from rotation.models import Finding
from rotation.services import probing
from rotation.services import providers as services
from rotation.simulators import RunningSimulator, start
from tests.integration.console import SECRET, House, build, client_of, fresh_client_of
from tests.integration.test_console_queries import queries

pytestmark = pytest.mark.django_db
ISSUE = {"method": "POST", "path": "/keys", "body": {"name": "{label}"}, "secret": "/key", "id": "/id"}
PROBE = {"method": "GET", "path": "/me", "accepted": [200], "rejected": [401]}
FORM: dict[str, Any] = {
    "slug": "maker",
    "name": "Maker",
    "base_url": "https://api.maker.example.com",
    "auth_header": "Authorization",
    "auth_scheme": "Token",
    "driver": "http",
    "driver_config": json.dumps({"issue": ISSUE}),
    "probe": json.dumps(PROBE),
    "errors_shape": "flat",
    "max_job_age": "1 h",
    "max_keys": "2",
    "derived_token_life": "0 s",
}
ADMIN = "made-up-admin-credential-7391"


@pytest.fixture
def house() -> House:
    return build()


@pytest.fixture(scope="module")
def removit() -> Iterator[RunningSimulator]:
    running = start("removit")
    yield running
    running.stop()


def text(answer: Any) -> str:
    return str(answer.content.decode())


def changed(client: Client, slug: str, **given: str) -> Any:
    """Change these fields of the form as it is shown."""
    page = client.get(f"/providers/{slug}/edit/")
    data = {**page.context["form"].initial, "seen": page.context["seen"], **given}
    return client.post(f"/providers/{slug}/edit/", {n: v for n, v in data.items() if v not in (None, False)})


# Looking --------------------------------------------------------------------------------------------


def test_everybody_sees_how_each_is_spoken_to(house: House) -> None:
    viewer = client_of("vito")
    listed = text(viewer.get("/providers/"))
    assert "RemoveBGVideo" in listed
    assert "no address yet" in listed
    assert "Add a provider" not in listed
    page = text(viewer.get("/providers/backgroundcut/"))
    assert "Authorization: Token …" in page
    assert "Change it" not in page
    assert viewer.get("/providers/none/").status_code == 404


def test_services_and_differences_are_those_of_ones_own_teams(house: House) -> None:
    internal = Provider.objects.get(slug="internal")
    Finding.objects.create(
        provider=internal, key=house.prod, version=house.prod.current, kind="missing",
        detail="nobody knows it there", found_at=house.now, seen_at=house.now,
    )  # fmt: skip
    page = text(client_of("lena").get("/providers/internal/"))
    assert "background-removal" in page
    assert "nobody knows it there" in page
    strangers = text(client_of("stranger").get("/providers/internal/"))
    assert "background-removal" not in strangers
    assert "nobody knows it there" not in strangers
    assert 'class="hot"' in text(client_of("lena").get("/providers/"))
    assert 'class="hot"' not in text(client_of("stranger").get("/providers/"))


def test_an_open_breaker_is_told_with_its_time(house: House) -> None:
    removit = Provider.objects.get(slug="removit")
    note(removit, house.now, reached=False)
    assert "1 calls unanswered" in text(client_of("lena").get("/providers/"))
    for _ in range(FAILURES_TO_OPEN):
        note(removit, house.now, reached=False)
    assert "left alone" in text(client_of("lena").get("/providers/"))
    assert "open: left alone until" in text(client_of("lena").get("/providers/removit/"))


def test_the_list_asks_as_often_for_many_as_for_few(house: House) -> None:
    client = client_of("lena")
    client.get("/providers/")
    few = queries(client, "/providers/")
    for n in range(6):
        row = Provider.objects.create(
            slug=f"more-{n}", name=f"More {n}", driver="manual", errors="flat", created_at=house.now
        )
        Service.objects.create(slug=f"s{n}", team=house.team, provider=row, created_at=house.now)
    assert queries(client, "/providers/") == few


# Writing --------------------------------------------------------------------------------------------


def test_a_new_one_is_what_the_api_would_make_and_its_credential_never_comes_back(house: House) -> None:
    ada = client_of("ada")
    answer = ada.post("/providers/new/", {**FORM, "admin_secret": ADMIN})
    assert answer["Location"] == "/providers/maker/"
    row = Provider.objects.get(slug="maker")
    assert (row.driver_config, row.probe, row.errors, row.max_keys) == ({"issue": ISSUE}, PROBE, "flat", 2)
    held = open_admin_secret(row)
    assert held is not None
    assert held.expose() == ADMIN
    pages = [ada.get("/providers/maker/"), ada.get("/providers/maker/edit/"), ada.get("/providers/")]
    pages.append(ada.post("/providers/new/", {**FORM, "admin_secret": ADMIN}))  # the name is taken
    assert pages[-1].status_code == 422
    for page in pages:
        assert ADMIN not in text(page)
    assert "set, and never shown" in text(pages[0])
    assert ADMIN not in json.dumps(list(AuditEvent.objects.values("details", "reason")))


def test_it_can_begin_with_a_preset(house: House) -> None:
    page = client_of("ada").get("/providers/new/?from=removit")
    assert page.context["form"].initial["auth_header"] == "X-API-Key"
    assert client_of("ada").get("/providers/new/?from=none").status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("slug", "No!", "Use lower-case letters"),
        ("name", "", "This field is required."),
        ("name", "a\nb", "without control characters"),
        ("base_url", "http://api.example.com", "https"),
        ("base_url", "https://127.0.0.1/", ""),
        ("base_url", "https://user:pw@api.example.com", ""),
        ("base_url", "", ""),
        ("base_url", "https://mixed.example.com", "not public"),
        ("base_url", "https://missing.example.com", "was not found"),
        ("auth_header", "Bad Header", "Use the name of a header."),
        ("auth_scheme", "two words", "Use one word"),
        ("probe", "GET /", "not valid JSON"),
        ("probe", json.dumps({**PROBE, "accepted": [401]}), "never prove a key"),
        ("probe", '{"method": "GET", "path": "/", "body": "\\u0000"}', "cannot be stored"),
        ("probe", '{"method": "GET", "path": "/", "body": "\\ud800"}', "cannot be stored"),
        ("probe", '{"method": NaN, "path": "/"}', "cannot be stored"),
        ("driver", "vault", "Select a valid choice."),
        ("driver_config", '{"issues": {}}', ""),
        ("driver_config", json.dumps({"issue": ISSUE, "admin_secret": "x"}), "its own field"),
        ("admin_secret", " padded-credential-7391", ""),
        ("admin_secret", "YOUR_API_KEY", ""),
        ("errors_shape", "deep", "Select a valid choice."),
        ("max_keys", "0", "greater than or equal to 1"),
        ("max_job_age", "soon", "Use an ISO 8601 duration"),
        ("derived_token_life", "31 d", "Use at most 30 days."),
        ("dashboard_url", "javascript:alert(1)", "begins with https://"),
    ],
)
def test_what_is_wrong_stands_at_its_field(house: House, field: str, value: str, words: str) -> None:
    answer = client_of("ada").post("/providers/new/", {**FORM, field: value})
    assert answer.status_code == 422
    assert any(words in error for error in answer.context["form"].errors[field])
    # What was typed is still there, but for credentials.
    typed = {**FORM, field: value}
    assert all(answer.context["form"][name].value() == typed[name] for name in typed if name in FORM)
    assert not Provider.objects.filter(slug="maker").exists()


@pytest.mark.parametrize("slug", ["backgroundcut", "backgrounderase", "internal", "removebgvideo", "removit"])
def test_the_form_of_a_preset_says_what_the_preset_says(house: House, slug: str) -> None:
    row = Provider.objects.get(slug=slug)
    form = ProviderForm({name: v for name, v in ProviderForm.values(row).items() if v not in (None, False)})
    assert form.is_valid(), form.errors
    for name, value in form.columns().items():
        assert value == getattr(row, name), name


def test_a_change_names_only_what_changed_and_keeps_the_credential(house: House) -> None:
    ada = client_of("ada")
    ada.post("/providers/new/", {**FORM, "admin_secret": ADMIN})
    assert changed(ada, "maker", auth_scheme="Bearer").status_code == 302
    row = Provider.objects.get(slug="maker")
    held = open_admin_secret(row)
    assert held is not None
    assert (row.auth_scheme, held.expose()) == ("Bearer", ADMIN)
    noted = AuditEvent.objects.get(name="provider:changed")
    assert noted.details == {"provider": "maker", "fields": ["auth_scheme"]}
    changed(ada, "maker")
    assert AuditEvent.objects.filter(name="provider:changed").count() == 1
    assert changed(ada, "maker", admin_secret="another-made-up-one-55").status_code == 302
    assert AuditEvent.objects.filter(name="provider:changed").latest("sequence").details["fields"] == [
        "admin_secret"
    ]


def test_who_saves_after_somebody_else_sees_what_it_says_now(house: House) -> None:
    ada = client_of("ada")
    ada.post("/providers/new/", FORM)
    row = Provider.objects.get(slug="maker")
    page = ada.get("/providers/maker/edit/")
    services.change_provider(
        SYSTEM, row, fields={"auth_header": "X-Meanwhile"}, admin_secret=None, now=house.now
    )
    answer = ada.post("/providers/maker/edit/", {**FORM, "auth_scheme": "Late", "seen": page.context["seen"]})
    assert answer.status_code == 409
    assert "X-Meanwhile" in text(answer)
    assert ada.post("/providers/maker/edit/", {**FORM, "auth_scheme": "Late"}).status_code == 409
    row.refresh_from_db()
    assert row.auth_scheme == "Token"


def test_the_password_comes_first_where_a_protected_environment_sends_keys_there(house: House) -> None:
    path = "/providers/internal/edit/"
    assert "/reauthenticate/" in client_of("ada").get(path)["Location"]
    assert "/reauthenticate/" in client_of("ada").post(path, FORM)["Location"]
    assert fresh_client_of("ada").get(path).status_code == 200
    assert client_of("ada").get("/providers/removit/edit/").status_code == 200


@pytest.mark.parametrize("username", ["vito", "otto", "lena", "stranger"])
def test_only_administrators_write(house: House, username: str) -> None:
    client = client_of(username)
    for path in ("/providers/new/", "/providers/removit/edit/"):
        assert client.get(path).status_code == 403
        assert client.post(path, FORM).status_code == 403
    assert not Provider.objects.filter(slug="maker").exists()


# Trying it out --------------------------------------------------------------------------------------


@pytest.fixture
def live(house: House, removit: RunningSimulator, settings: Any) -> Provider:
    """Removit as a simulator on this machine, with a key of the team that it honours."""
    settings.KEYTURN_EGRESS_ALLOW = frozenset({removit.host_port})
    row = Provider.objects.get(slug="removit")
    Provider.objects.filter(pk=row.pk).update(base_url=removit.base_url)
    service = catalogue.create_service(
        SYSTEM, slug="photos", team=house.team, provider=row, description="", now=house.now
    )
    key = keys.create_key(SYSTEM, service, Environment.objects.get(slug="dev"), now=house.now)
    made = removit.control.create_key("photos")
    keys.import_first(SYSTEM, key, made.value, provider_key_id=made.id, now=house.now)
    row.refresh_from_db()
    return row


def attempt(client: Client, key: object = "") -> Any:
    return client.post("/providers/removit/test/", {"key": str(key)})


def test_a_made_up_key_must_be_refused_and_a_real_one_honoured(live: Provider) -> None:
    otto, service = client_of("otto"), Service.objects.get(slug="photos")
    made_up = text(attempt(otto))
    assert "A key that nobody has is refused, as it must be." in made_up
    assert re.search(r"status 401, judged rejected, after \d+ ms", made_up)
    real = text(attempt(otto, service.keys.get().pk))
    assert "The provider honours this key." in real
    key = service.keys.get()
    noted = AuditEvent.objects.filter(name="provider:tested").order_by("sequence")
    assert [(one.actor, one.service, one.details["version"]) for one in noted] == [
        ("otto", "", None),
        ("otto", "photos", 1),
    ]
    assert key.current is not None
    assert SECRET not in real


def test_a_dead_key_and_a_dead_provider_are_told_apart(
    live: Provider, removit: RunningSimulator, settings: Any
) -> None:
    otto, key = client_of("otto"), Service.objects.get(slug="photos").keys.get()
    assert key.current is not None
    removit.control.revoke(key.current.provider_key_id)
    assert "The provider refuses this key." in text(attempt(otto, key.pk))
    settings.KEYTURN_EGRESS_ALLOW = frozenset({"127.0.0.1:9"})
    Provider.objects.update(base_url="http://127.0.0.1:9")  # nobody listens there
    assert "could not be reached" in text(attempt(otto, key.pk))


def test_what_is_no_proof_is_told_as_such(live: Provider) -> None:
    everything = ProbeResult(ProbeOutcome.ACCEPTED)
    assert probing.meaning(everything, real=False) == (
        "The probe accepts a key that nobody has, so it proves nothing. Probe another path.",
        "bad",
    )
    for outcome in ProbeOutcome:
        for real in (True, False):
            words, tone = probing.meaning(ProbeResult(outcome), real=real)
            assert words.endswith(".")
            assert (tone == "good") == ((outcome is ProbeOutcome.ACCEPTED) is real and outcome in (
                ProbeOutcome.ACCEPTED, ProbeOutcome.REJECTED
            ))  # fmt: skip


def test_it_is_limited_and_the_refusal_says_how_long_to_wait(
    live: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "PER_MINUTE", 0)
    answer = attempt(client_of("otto"))
    assert answer.status_code == 429
    assert "Wait " in text(answer)
    assert not AuditEvent.objects.filter(name="provider:tested").exists()


def test_who_operates_nothing_there_tries_nothing(live: Provider, house: House) -> None:
    foreign = Service.objects.get(slug="photos").keys.get().pk
    for username in ("vito", "stranger"):
        client = client_of(username)
        assert "Try it now" not in text(client.get("/providers/removit/"))
        assert attempt(client).status_code == 403
        assert attempt(client, foreign).status_code == 422
    elsewhere = house.prod.pk  # a key of another provider
    for strange in (elsewhere, "no-key", "00000000-0000-0000-0000-000000000000"):
        assert attempt(client_of("otto"), strange).status_code == 422
    assert client_of("otto").get("/providers/removit/test/").status_code == 405
    assert not AuditEvent.objects.filter(name="provider:tested").exists()


def test_who_operates_something_else_there_sends_nobody_elses_key(live: Provider, house: House) -> None:
    key = Service.objects.get(slug="photos").keys.select_related("service", "current").get()
    shop = Team.objects.get(slug="shop")
    catalogue.create_service(SYSTEM, slug="films", team=shop, provider=live, description="", now=house.now)
    stranger = actor_for(User.objects.get(username="stranger"))
    assert probing.may_test(stranger, live)
    with pytest.raises(KeyturnError) as refusal:
        probing.try_provider(stranger, live, key, now=house.now)
    assert refusal.value.code == "permission_denied"
    assert attempt(client_of("stranger"), key.pk).status_code == 422
    assert not AuditEvent.objects.filter(name="provider:tested").exists()


def test_one_without_a_probe_has_nothing_to_try(house: House) -> None:
    Provider.objects.filter(slug="removit").update(probe=None)
    ada = client_of("ada")
    assert "Try it now" not in text(ada.get("/providers/removit/"))
    assert ada.post("/providers/removit/test/", {"key": ""}).status_code == 409


def test_keys_that_we_issue_are_tried_without_a_call(house: House) -> None:
    page = client_of("lena").post("/providers/internal/test/", {"key": ""})
    assert "A key that nobody has is refused, as it must be." in text(page)


@pytest.mark.parametrize("path", ["/providers/", "/providers/removit/", "/providers/new/"])
def test_a_signed_out_person_is_sent_to_the_login(house: House, path: str) -> None:
    assert Client().get(path)["Location"].startswith("/accounts/login/?next=/")
