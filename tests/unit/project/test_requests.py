"""What every answer of the Django part has, and the shape of errors that no view made."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client, RequestFactory

from keyvault.errors import CODES, code_for_status, envelope
from keyvault.project import failures, health
from keyvault.project.wsgi import application

pytestmark = pytest.mark.django_db


def code(response: Any) -> str:
    return str(response.json()["error"]["code"])


def test_every_answer_has_an_id_and_is_not_cached(client: Client) -> None:
    response = client.get("/livez")
    assert response.status_code == 200
    assert len(response["X-Request-ID"]) >= 8
    assert response["Cache-Control"] == "no-store"
    assert client.get("/livez", headers={"X-Request-ID": "my-id-0001"})["X-Request-ID"] == "my-id-0001"
    assert client.get("/livez", headers={"X-Request-ID": "bad id"})["X-Request-ID"] != "bad id"


def test_the_content_policy_is_exactly_the_decided_one(client: Client) -> None:
    parts = {part.strip() for part in client.get("/livez")["Content-Security-Policy"].split(";")}
    assert parts == {
        "default-src 'self'",
        "img-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    }


def test_an_unknown_api_path_is_an_envelope(client: Client) -> None:
    response = client.get("/v1/nothing-here/")
    assert (response.status_code, code(response)) == (404, "not_found")
    assert response.json()["error"]["request_id"] == response["X-Request-ID"]


def test_an_api_path_without_its_slash_is_404_and_no_redirect(client: Client) -> None:
    assert client.post("/v1/teams", data=b"{}", content_type="application/json").status_code == 404


def test_a_foreign_host_is_an_envelope(client: Client) -> None:
    response = client.get("/v1/nothing-here/", headers={"Host": "evil.example"})
    assert (response.status_code, code(response)) == (400, "bad_host")


@pytest.mark.parametrize("path", ["/v1/a//b/", "/v1/../x/", "/v1/a%00b/"])
def test_an_ambiguous_api_path_is_refused(client: Client, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, code(response)) == (400, "malformed_path")


def test_a_large_body_is_413_for_programs_and_people(client: Client) -> None:
    body = b"x" * (64 * 1024 + 1)
    response = client.post("/v1/teams/", data=body, content_type="application/json")
    assert (response.status_code, code(response)) == (413, "payload_too_large")
    page = client.post("/accounts/login/", data=body, content_type="text/plain")
    assert page.status_code == 413
    assert page["Content-Type"].startswith("text/html")


def test_a_wrong_method_below_drf_is_an_envelope_with_allow(client: Client, settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.unit.project.plain_view_urls"
    response = client.post("/v1/plain/")
    assert (response.status_code, code(response)) == (405, "method_not_allowed")
    assert response["Allow"] == "GET"


@pytest.mark.parametrize(("path", "status"), [("crash", 500), ("outage", 503), ("forbidden", 403)])
def test_an_exception_below_drf_is_an_envelope(
    client: Client, settings: Any, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    settings.ROOT_URLCONF = "tests.unit.project.plain_view_urls"
    client.raise_request_exception = False
    caplog.set_level(logging.CRITICAL)
    response = client.get(f"/v1/{path}/")
    assert response.status_code == status
    assert response.json()["error"]["status"] == status
    page = client.get(f"/pages/{path}/")
    assert page.status_code == status
    assert page["Content-Type"].startswith("text/html")


def test_nobody_signs_up(client: Client) -> None:
    response = client.post(
        "/accounts/signup/", {"username": "eve", "password1": "x" * 20, "password2": "x" * 20}
    )
    assert response.status_code in (200, 403, 404)
    from keyvault.models import User

    assert not User.objects.filter(username="eve").exists()


def test_every_code_has_an_envelope_and_every_status_a_code() -> None:
    for name, (status, message) in CODES.items():
        error = envelope(name, None, None, "r-12345678")["error"]
        assert error == {"code": name, "message": message, "status": status, "request_id": "r-12345678"}
    for status in (400, 401, 403, 404, 405, 406, 409, 410, 412, 413, 415, 422, 429, 500, 503):
        assert CODES[code_for_status(status)][0] == status


def test_readiness_names_the_failing_check(client: Client, data_dir: object) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    checks = response.json()["checks"]
    assert checks["database"]["status"] == "ok"
    assert checks["key_service"]["status"] == "ok"
    assert checks["beat"] == {"status": "failed", "reason": "The scheduler has never run."}


def test_readiness_is_given_with_a_fresh_heartbeat(client: Client) -> None:
    from rotation.tasks import tick

    tick()
    response = client.get("/readyz")
    assert response.status_code == 200, response.content


def test_a_missing_keyring_is_not_ready(client: Client, settings: Any, tmp_path: Any) -> None:
    settings.KEYTURN_KEYRING = tmp_path / "nothing.json"
    assert client.get("/readyz").json()["checks"]["key_service"]["status"] == "failed"


def test_liveness_asks_no_database(django_assert_num_queries: Any, client: Client) -> None:
    with django_assert_num_queries(0):
        assert client.get("/livez").status_code == 200


def test_metrics_have_bounded_labels(client: Client) -> None:
    text = client.get("/metrics").content.decode()
    assert 'keyturn_rotations{stage="shift"} 0.0' in text
    assert "keyturn_beat_age_seconds -1.0" in text


def test_server_error_tells_an_outage_from_a_mistake() -> None:
    request = RequestFactory().get("/v1/x/")
    try:
        raise OperationalError("gone")
    except OperationalError:
        assert failures.server_error(request).status_code == 503
    assert failures.server_error(request).status_code == 500
    assert callable(application)
    assert health.heartbeat_age() is None
