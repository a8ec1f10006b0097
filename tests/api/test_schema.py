"""The OpenAPI document and the page that shows it"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from django.conf import settings
from django.test import Client
from django.urls import get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema

from keyvault.api import openapi
from keyvault.errors import CODES
from tests.api.management.test_routes import PUBLIC, SIGNED, walk

DOCUMENT = openapi.document()
OPERATIONS = {f"{method} {path}": operation for path, method, operation in openapi.operations(DOCUMENT)}
MANAGEMENT = {
    name: item for name, item in OPERATIONS.items() if {"userToken": []} in item.get("security", [])
}


def resolve(item: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in item:
        found: Any = DOCUMENT
        for part in item["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        item = found
    return item


def test_it_is_valid_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    validate_schema(DOCUMENT)  # type: ignore[no-untyped-call]


def test_generating_it_warns_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]
    assert capsys.readouterr().err == ""
    assert not GENERATOR_STATS._warn_cache
    assert not GENERATOR_STATS._error_cache


def test_every_schema_in_it_is_a_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_management_route_is_in_it() -> None:
    expected = set()
    for route, view in walk(get_resolver()):
        if route in PUBLIC | SIGNED:
            continue
        path = "/" + re.sub(r"<\w+:(\w+)>", r"{\1}", route)
        expected |= {
            f"{method} {path}" for method in ("get", "post", "patch", "delete") if hasattr(view.cls, method)
        }
    assert set(MANAGEMENT) == expected


@pytest.mark.parametrize("path", ["/v1/keys/{service}/{environment}/", "/v1/auth/access-token/"])
def test_the_consumers_paths_are_in_it(path: str) -> None:
    assert path in DOCUMENT["paths"]


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", MANAGEMENT)
def test_an_operation_tells_what_it_takes_and_answers(name: str) -> None:
    method, _, path = name.partition(" ")
    operation = MANAGEMENT[name]
    assert operation["summary"]
    placed = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
    assert placed == set(re.findall(r"{(\w+)}", path))
    wanted = {"400", "401", "403", "406", "429", "503"}
    if placed:
        wanted.add("404")
    if method == "post":
        wanted |= {"409", "413", "415", "422"}
        assert "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}
    assert wanted <= set(operation["responses"])
    for status, answer in operation["responses"].items():
        if status >= "400":
            content = resolve(answer)["content"]["application/json"]["schema"]
            assert content["allOf"][0] == {"$ref": "#/components/schemas/Error"}


@pytest.mark.parametrize("name", [name for name, item in MANAGEMENT.items() if "requestBody" in item])
def test_a_body_takes_no_other_fields(name: str) -> None:
    content = MANAGEMENT[name]["requestBody"]["content"]
    assert list(content) == ["application/json"]
    assert resolve(content["application/json"]["schema"])["additionalProperties"] is False


def test_codes_are_listed_with_their_status() -> None:
    for status, answer in ((code[5:], item) for code, item in DOCUMENT["components"]["responses"].items()):
        if not status.isdecimal():
            continue  # the consumers' own
        codes = answer["content"]["application/json"]["schema"]["allOf"][1]["properties"]["error"]
        assert all(CODES[code][0] == int(status) for code in codes["properties"]["code"]["enum"])


class TestServed200:
    def test_the_document_needs_no_credential(self, db: None) -> None:
        answer = Client().get("/v1/schema/")
        assert answer.status_code == 200
        assert answer["Content-Type"] == "application/json"
        assert answer.json() == json.loads(json.dumps(DOCUMENT))

    def test_the_page_lists_every_operation(self, db: None) -> None:
        answer = Client().get("/v1/docs/")
        assert answer.status_code == 200
        text = answer.content.decode()
        for name, operation in OPERATIONS.items():
            if not name.startswith("head "):
                assert f'id="{operation["operationId"]}"' in text

    def test_the_page_works_under_the_content_policy(self, db: None) -> None:
        answer = Client().get("/v1/docs/")
        policy = answer["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        page = Page()
        page.feed(answer.content.decode())
        assert page.inline == []
        assert page.links
        assert all(link.startswith(str(settings.STATIC_URL)) for link in page.links)


class TestServed405:
    def test_both_are_read_only(self, db: None) -> None:
        for path in ("/v1/schema/", "/v1/docs/"):
            assert Client().post(path, {}, content_type="application/json").status_code == 405


class Page(HTMLParser):
    """Collects what a strict policy would block, and what the page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag in ("script", "style", "iframe") or "style" in names or any(n.startswith("on") for n in names):
            self.inline.append(tag)
        if tag == "link":
            self.links.append(str(names.get("href")))
