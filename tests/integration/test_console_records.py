"""Django's admin shows every table, and of no table what opens, forges or recognises a secret."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.contrib import admin

from tests.integration.console import build, client_of

pytestmark = pytest.mark.django_db

OURS = [model for label in ("keyvault", "rotation") for model in apps.get_app_config(label).get_models()]


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_every_table_is_there_and_its_list_opens(model: type) -> None:
    build().start()
    assert admin.site.is_registered(model)
    meta = model._meta  # type: ignore[attr-defined]
    page = client_of("ada").get(f"/admin/{meta.app_label}/{meta.model_name}/")
    assert page.status_code == 200


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_no_column_that_opens_or_recognises_a_secret_is_shown(model: type) -> None:
    shown = {str(name) for name in admin.site._registry[model].get_fields(None)}  # type: ignore[arg-type]
    shown |= {str(name) for name in admin.site._registry[model].list_display}
    hidden = {"ciphertext", "wrapped_dek", "mac", "digest", "token_digest", "password", "split_salt", "salt",
              "fingerprint", "admin_ciphertext", "admin_wrapped_dek"}  # fmt: skip
    assert not shown & hidden
