"""Django's admin: our tables only, for superusers only, nothing to change and nothing secret to see."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin
from django.db.models import BinaryField
from django.test import Client, RequestFactory

from keyvault.admin import ReadOnlyAdmin
from keyvault.models import User
from tests.browser.furniture import PASSWORD, person
from tests.integration.console import SECRET, build, client_of, confirm_password

pytestmark = pytest.mark.once

# Words in the name of a column that would open, forge or recognise a secret.
SECRET_WORDS = ("secret", "password", "digest", "fingerprint", "cipher", "wrapped", "seed", "mac", "salt")
# A channel's hour of the day for its digest.
HARMLESS = ("digest_at",)
OURS = [model for label in ("keyvault", "rotation") for model in apps.get_app_config(label).get_models()]


def test_exactly_our_tables_are_shown_and_every_one_of_them_read_only() -> None:
    shown = admin.site._registry
    assert set(shown) == set(OURS)
    for view in shown.values():
        assert isinstance(view, ReadOnlyAdmin)
        # Nothing of what keeps it read-only is overridden.
        assert set(vars(type(view))) <= {
            "list_display",
            "list_select_related",
            "__module__",
            "__doc__",
            "media",
        }


@pytest.mark.parametrize("model", OURS, ids=lambda model: model._meta.label)
def test_no_column_of_a_secret_is_shown(model: type) -> None:
    view = admin.site._registry[model]
    request = RequestFactory().get("/")
    for name in {*view.get_fields(request), *view.get_list_display(request)}.difference(HARMLESS):
        assert not any(word in str(name).lower() for word in SECRET_WORDS), name
    fields = {field.name: field for field in model._meta.fields}  # type: ignore[attr-defined]
    assert not any(isinstance(fields.get(name), BinaryField) for name in view.get_fields(request))


@pytest.mark.django_db
def test_the_records_show_a_version_without_its_secret_and_take_nothing() -> None:
    house = build()
    ada, version = client_of("ada"), house.prod.current
    assert version is not None
    path = f"/admin/keyvault/keyversion/{version.id}/"
    text = ada.get(path + "change/").content.decode()
    assert str(version.key) in text
    for hidden in (SECRET, version.fingerprint, "ciphertext", 'name="_save"', "deletelink"):
        assert hidden not in text
    assert ada.post(path + "change/", {"state": "revoked"}).status_code == 403
    assert ada.post(path + "delete/", {"post": "yes"}).status_code == 403
    assert ada.get("/admin/keyvault/keyversion/add/").status_code == 403
    assert ada.post("/admin/keyvault/keyversion/", {"action": "delete_selected"}).status_code == 200
    version.refresh_from_db()
    assert version.state == "active"


@pytest.mark.django_db
def test_only_superusers_come_in_and_through_the_consoles_own_entrance() -> None:
    person("ada")
    client = Client()
    answer = client.get("/admin/keyvault/key/", follow=True)
    assert answer.redirect_chain[-1][0] == "/accounts/login/?next=/admin/keyvault/key/"
    User.objects.filter(username="ada").update(is_staff=True)
    client.force_login(User.objects.get(username="ada"))
    assert client.get("/admin/", follow=True).status_code == 403
    User.objects.filter(username="ada").update(is_staff=False, is_superuser=True)
    assert client.get("/admin/").status_code == 200
    assert client.get("/admin/login/?next=/admin/keyvault/key/")["Location"] == "/admin/keyvault/key/"
    assert client.get("/admin/login/?next=https://elsewhere.example/")["Location"] == "/admin/"


@pytest.mark.django_db
def test_passwords_and_signing_out_belong_to_the_accounts() -> None:
    build()
    client = client_of("ada")
    confirm_password(client, "/admin/")
    assert client.get("/admin/password_change/")["Location"] == "/accounts/password/change/"
    answer = client.post("/admin/password_change/", {"old_password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/password/change/")
    answer = client.post("/admin/logout/")
    assert (answer.status_code, answer["Location"]) == (307, "/accounts/logout/")
    assert client.post("/accounts/logout/").status_code == 302
    assert client.get("/admin/", follow=True).redirect_chain[-1][0].startswith("/accounts/login/")
