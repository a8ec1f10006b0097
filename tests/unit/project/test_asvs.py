"""``docs/asvs.csv``: which requirements of OWASP ASVS 5.0 are met, and that what it cites is there.

Below it stand the tests that the table cites and that belong to no part of the program: from what the
cryptography is made, what no line of ours calls, and that the documented limits are those in force.
"""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.hashers import identify_hasher, make_password
from django.test import Client

from keyvault.project import attempts
from keyvault.project.sessions import IDLE
from tests.conftest import Tell

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = ["requirement", "level", "about", "status", "test", "note"]
SHOWN, TOLD = ("met", "partly"), ("partly", "not met", "deployment", "not applicable")
REQUIREMENT = re.compile(r"V(\d{1,2})\.(\d{1,2})\.(\d{1,2})")
IN_ALL = 345  # requirements of the standard


# The table ----------------------------------------------------------------------------------------


@cache
def lines() -> list[dict[str, str]]:
    with (ROOT / "docs" / "asvs.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def place(line: dict[str, str]) -> tuple[int, ...]:
    found = REQUIREMENT.fullmatch(line["requirement"])
    assert found, line
    return tuple(int(number) for number in found.groups())


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds) and "test_" in node.name)


def test_every_requirement_has_one_line_in_order(tell: Tell) -> None:
    places = [place(line) for line in lines()]
    assert places == sorted(set(places))
    assert len(places) == IN_ALL
    for line in lines():
        assert line["level"] in ("1", "2", "3"), line
        assert line["about"].strip(), line
        assert line["status"] in {*SHOWN, *TOLD}, line
        assert None not in line, line
    counted = Counter((line["status"], line["level"]) for line in lines())
    for status in ("met", *TOLD):
        by_level = {f"level {level}": counted[status, level] for level in "123"}
        tell(status, {"in all": sum(by_level.values()), **by_level})


def test_what_is_claimed_is_shown_and_what_is_not_is_said() -> None:
    for line in lines():
        assert bool(line["test"]) is (line["status"] in SHOWN), line
        assert line["note"] or line["status"] not in TOLD, line


def test_every_test_that_is_named_exists() -> None:
    named = [test for line in lines() for test in line["test"].split()]
    assert named
    for test in named:
        path, _, name = test.partition("::")
        assert path.startswith("tests/"), test
        assert Path(path).name.startswith("test_"), test
        assert (ROOT / path).is_file(), test
        assert (name in names_in(path)) if name else names_in(path), test


def test_every_page_that_is_named_exists() -> None:
    named = {page for line in lines() for page in re.findall(r"\bdocs/[a-z-]+\.md\b", line["note"])}
    assert named
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []


# What the table cites -----------------------------------------------------------------------------

# From where cryptography comes, and what of it: AES-256-GCM, HKDF and HMAC with SHA-256, Ed25519, X25519,
# and ECDSA to read what scanners signed. ID tokens of single sign-on are read by PyJWT, with the algorithms
# of keyvault/project/id_tokens.py. Anything else has to be looked at, and added here.
PRIMITIVES = {
    "cryptography": {
        "AESGCM", "Ed25519PrivateKey", "Ed25519PublicKey", "HKDF", "InvalidSignature", "InvalidTag", "SHA256",
        "UnsupportedAlgorithm", "X25519PrivateKey", "X25519PublicKey", "ec", "hashes", "load_pem_public_key",
    },
    "hashlib": {"blake2b", "sha256"},
    "hashes": {"SHA256"},
    "ec": {"ECDSA", "EllipticCurvePublicKey", "SECP256R1"},
    "jwt": {"PyJWK", "PyJWS", "PyJWTError", "decode", "get_unverified_header"},
}  # fmt: skip
OTHER_CRYPTOGRAPHY = {"Crypto", "Cryptodome", "nacl", "OpenSSL", "ecdsa", "rsa", "passlib"}
# Chance that is no secret: spreading of times, and the order in which providers are asked.
MAY_USE_RANDOM = {
    "keyvault/client.py", "keyvault/project/server.py", "rotation/breaker.py", "rotation/calling.py",
    "rotation/drift.py", "rotation/drivers/base.py", "rotation/notices/pacing.py",
}  # fmt: skip
LOADERS = {"dill", "lxml", "marshal", "pickle", "shelve", "xml", "yaml"}
CALLS = {"__import__", "compile", "eval", "exec", "mark_safe", "os.popen", "os.system", "string.Template"}


@cache
def ours() -> dict[str, ast.Module]:
    """Every module of ours that runs, by its path; the simulated providers are for demo and tests."""
    files = sorted(path for app in ("keyvault", "rotation") for path in (ROOT / app).rglob("*.py"))
    named = {path.relative_to(ROOT).as_posix(): path for path in files}
    return {
        name: ast.parse(path.read_text(encoding="utf-8"))
        for name, path in named.items()
        if not name.startswith(("rotation/simulators/", "keyvault/project/demo/"))
    }


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(top-level package, name); the name is "" for an import of the whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module.partition(".")[0], alias.name) for alias in node.names)


def used(tree: ast.Module, module: str) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
    }


def test_cryptography_comes_from_known_primitives(tell: Tell) -> None:
    found: dict[str, set[str]] = {package: set() for package in PRIMITIVES}
    for name, tree in ours().items():
        for package, what in imports(tree):
            assert package not in OTHER_CRYPTOGRAPHY, name
            if package in PRIMITIVES:
                found[package] |= {what} - {""}
            assert package != "random" or name in MAY_USE_RANDOM, f"{name}: take secrets"
        modules = {what for _, what in imports(tree)}
        for module in ("hashlib", *({"hashes", "ec"} & modules)):
            found[module] |= used(tree, module)
    assert found == PRIMITIVES
    tell("primitives", {package: len(names) for package, names in found.items()})


def test_nothing_runs_text_or_loads_objects() -> None:
    for name, tree in ours().items():
        assert {package for package, _ in imports(tree)} & LOADERS == set(), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in CALLS, f"{name}:{node.lineno}"
                assert "shell" not in {word.arg for word in node.keywords}, f"{name}:{node.lineno}"


def test_our_script_writes_text_and_keeps_nothing() -> None:
    script = (ROOT / "keyvault/console/static/keyturn/keyturn.js").read_text(encoding="utf-8")
    code = re.sub(r"^\s*//.*$", "", script, flags=re.MULTILINE)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval", "Function(", "postMessage",
                 "localStorage", "sessionStorage", "indexedDB", "document.write", "__proto__"):  # fmt: skip
        assert word not in code, word
    assert code.lstrip().startswith('"use strict";')


def test_the_documented_limits_are_those_in_force(settings: Any) -> None:
    page = " ".join((ROOT / "docs/accounts.md").read_text(encoding="utf-8").split())
    minimum = next(
        validator["OPTIONS"]["min_length"]
        for validator in settings.AUTH_PASSWORD_VALIDATORS
        if validator["NAME"].endswith("MinimumLengthValidator")
    )
    for words in (
        f"at least {minimum} characters",
        f"| longest | {settings.SESSION_COOKIE_AGE // 3600} hours",
        f"| idle | {IDLE // 60} minutes",
    ):
        assert words in page, words
    assert settings.ACCOUNT_REAUTHENTICATION_TIMEOUT == 300
    assert "Five minutes after confirming" in page
    for who, rate in (
        ("a person, in one network (/24, or /64 of IPv6)", attempts.PER_NETWORK),
        ("a person, in a browser in which this person has signed in before", attempts.PER_DEVICE),
        ("a person, from everywhere, in browsers that are not known", attempts.PER_PERSON),
    ):
        most, minutes = re.fullmatch(r"(\d+)/(\d+)m/key", rate).groups()  # type: ignore[union-attr]
        assert f"| {who} | {most} in {minutes} minutes" in page, who
    assert attempts.PER_ADDRESS == "10/m/ip"
    assert "| everybody, from one address | 10 a minute" in page


# What is dangerous and used, and where; docs/threat-model.md says the same.
USED_ONCE = {
    "ctypes": {"keyvault/project/guard.py"},
    "mmap": {"keyvault/limits/cells_file.py"},
    "subprocess": {"keyvault/project/supervisor.py"},
}


def test_what_is_dangerous_stands_where_the_page_says() -> None:
    page = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    for module, places in USED_ONCE.items():
        found = {name for name, tree in ours().items() if module in {package for package, _ in imports(tree)}}
        assert found == places, module
        assert all(f"`{place}`" in page for place in places), module
    for package in ("marshal", "pickle", "eval", "exec", "compile", "mark_safe"):
        assert f"`{package}`" in page, package


def test_risky_libraries_are_named_and_there() -> None:
    page = (
        (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("## Libraries")[2].partition("\n## ")[0]
    )
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("| ") and "Risk" not in line]
    named = {word for row in rows for word in re.findall(r"[a-z0-9][a-z0-9-]+", row.partition(":")[0])}
    listed = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert {name for name in named - {"with"} if f"| {name} |" not in listed} == set()
    assert len(named) > 10
    assert all(f"within {days} days" in page for days in (7, 30, 90))


def test_the_levels_of_data_name_what_is_sealed_and_kept() -> None:
    page = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    table = page.partition("## What there is")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line][
        2:
    ]
    assert [row[0] for row in rows] == ["secret", "verifier", "evidence", "personal", "internal", "public"]
    assert all(
        all(row[:5]) for row in rows
    )  # what, at rest, on the way, who; public data is kept by whoever likes
    assert all(row[5] for row in rows[:-1])


def test_passwords_are_hashed_slowly(settings: Any) -> None:
    assert settings.PASSWORD_HASHERS == ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    told = make_password("a password of this test")
    hasher = identify_hasher(told)
    assert told.startswith("argon2$argon2id$")
    found = hasher.decode(told)
    # Not less than OWASP asks for: 19 MiB of memory and two passes.
    assert found["memory_cost"] >= 19 * 1024
    assert found["time_cost"] >= 2


@pytest.mark.django_db
def test_a_form_from_elsewhere_is_refused() -> None:
    browser = Client(enforce_csrf_checks=True)
    sent = {"login": "lena", "password": "a guess"}
    assert browser.post("/accounts/login/", sent).status_code == 403
    sent["csrfmiddlewaretoken"] = re.findall(
        r'name="csrfmiddlewaretoken" value="(\w+)"', browser.get("/accounts/login/").content.decode()
    )[0]
    assert browser.post("/accounts/login/", sent).status_code == 200  # a wrong password, and no forgery
    assert (
        browser.post("/accounts/login/", sent, headers={"Origin": "https://evil.example"}).status_code == 403
    )


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/livez", "/accounts/login/", "/v1/nothing-here/"])
def test_browsers_are_told_what_they_may(path: str) -> None:
    answer = Client(headers={"Origin": "https://evil.example"}).get(path)
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Cross-Origin-Opener-Policy"] == "same-origin"
    assert [name for name in answer.headers if name.lower().startswith("access-control-")] == []
