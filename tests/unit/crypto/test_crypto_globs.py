from __future__ import annotations

import time

import pytest

from keyvault.crypto.globs import GlobError, is_canonical_path, matches, parse_globs

ANY = "/v1/keys/a/prod/"


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("*", ANY, True),
        ("*", "/", True),
        ("*", "/v1//x", False),
        (ANY, ANY, True),
        (ANY, "/v1/keys/a/prod", False),
        ("/v1/keys/a/prod", ANY, False),
        (ANY, "/v1/keys/a/PROD/", False),
        (ANY, "/v1/keys/a/prod/watch/", False),
        ("/v1/keys/*", ANY, True),
        ("/v1/keys/*", "/v1/keys/a", True),
        ("/v1/keys/*", "/v1/keys/a/", True),
        ("/v1/keys/*", "/v1/keys/", False),
        ("/v1/keys/*", "/v1/keys", False),
        ("/v1/keys/*", "/v1/keysx/a", False),
        ("/v1/keys/*", "/v1/auth/a", False),
        ("/v1/*", ANY, True),
        ("/v1/*", "/v1/", False),
        ("/v1/*", "/v2/x", False),
        ("/v1/*", "/admin/", False),
        ("/v1/keys/*/prod/", ANY, True),
        ("/v1/keys/*/prod/", "/v1/keys/a/b/prod/", False),
        ("/v1/keys/*/prod/", "/v1/keys/a/dev/", False),
        ("/v1/keys/*/", "/v1/keys/a/", True),
        ("/v1/keys/*/", "/v1/keys/a", False),
        ("/v1/keys/*/", ANY, False),
        ("/v1/keys/*/*", ANY, True),
        ("/v1/keys/*/*", "/v1/keys/a/", False),
        ("/v1/keys/bg-*/prod/", "/v1/keys/bg-removal/prod/", True),
        ("/v1/keys/bg-*/prod/", "/v1/keys/bg-/prod/", True),
        ("/v1/keys/bg-*/prod/", "/v1/keys/bg/prod/", False),
        ("/v1/keys/*-eu/prod/", "/v1/keys/bg-eu/prod/", True),
        ("/v1/keys/a*a/x", "/v1/keys/a/x", False),
        ("/v1/keys/a*a/x", "/v1/keys/aa/x", True),
        ("/v1/keys/a*b*a/x", "/v1/keys/aba/x", True),
        ("/v1/keys/a*b*a/x", "/v1/keys/ab/x", False),
        ("/v1/keys/*ab*ab*/x", "/v1/keys/ab/x", False),
        ("/v1/keys/*ab*ab*/x", "/v1/keys/xabab/x", True),
        ("/v1/keys/a*b*ba/x", "/v1/keys/aba/x", False),
        ("/v1/keys/a*b*ba/x", "/v1/keys/abba/x", True),
        ("/v1/keys/x*", "/v1/keys/x", True),
        ("/v1/keys/x*", "/v1/keys/xyz", True),
        ("/v1/keys/x*", "/v1/keys/xyz/", False),
        ("/v1/keys/x*", "/v1/keys/", False),
        ("/v1/keys/a.b/x", "/v1/keys/aXb/x", False),
    ],
)
def test_a_glob_covers_what_the_grammar_says(glob: str, path: str, expected: bool) -> None:
    assert matches(parse_globs([glob]), path) is expected


def test_one_covering_glob_of_several_is_enough() -> None:
    globs = parse_globs(["/v1/auth/*", "/v1/keys/a/*"])
    assert matches(globs, ANY)
    assert not matches(globs, "/v1/keys/b/prod/")
    assert not matches((), ANY)


@pytest.mark.parametrize(
    "globs",
    [
        None, "*", {"a": 1}, 5, [], (), [["*"]], [1], [True], [None], [""], [b"*"], ["*", ""],
        ["**"], ["/"], ["/v1"], ["/v1/"], ["/v1/[a]*"], ["/v1/../*"], ["/v1/./x"], ["/v1/x/.."],
        ["/v1//x"], ["v1/keys/*"], ["/v1/%2e"], ["/v1/\x00"], ["/admin/*"], ["/*"], ["/v1*"],
        ["/v1/a**b"], ["/v1/**"], ["/v1/?"], ["/v1/{a,b}"], ["/v1/a\\b"], ["/v1/a b"], ["/v1/é"],
        ["/v1/x\n"], ["/v1/x;a=1"], ["/V1/x"], [" *"], ["/v1/\ud800"], ["*"] * 21,
        ["/v1/" + "a" * 197], ["/v1/" + "a" * 190] * 11,
    ],
    ids=lambda globs: ascii(globs)[:40],
)  # fmt: skip
def test_a_bad_list_is_refused_without_being_quoted(globs: object) -> None:
    with pytest.raises(GlobError) as caught:
        parse_globs(globs)
    assert str(caught.value).isascii()
    assert "aaaa" not in str(caught.value)


@pytest.mark.parametrize(
    "globs", [["*"] * 20, ["/v1/" + "a" * 196], ["/v1/" + "a" * 190] * 10, ("/v1/a",), ["/v1/a_b.c~d-e"]]
)
def test_a_list_at_the_limits_is_taken(globs: list[str]) -> None:
    assert [glob.text for glob in parse_globs(globs)] == list(globs)


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", True), (ANY, True), ("/v1/keys", True), ("/a.b/..c/c../...", True), ("/v1/~x_*-", True),
        ("", False), ("v1", False), ("*", False), ("//", False), ("/v1//x", False), ("/v1/x//", False),
        ("/.", False), ("/..", False), ("/./x", False), ("/../x", False), ("/v1/.", False),
        ("/v1/../x", False), ("/v1/a%2Fb/", False), ("/%2e%2e/", False), ("/a%00b", False),
        ("/prod%0a/", False), ("/prod;x=1/", False), ("/a\\b", False), ("/a\n", False), ("/a\0", False),
        ("/a?b", False), ("/a#b", False), ("/a b", False), ("/é", False), ("/\uff50rod", False),
        ("/a:b", False), ("/a+b", True), ("/a@b", True), ("http://h/a", False),
    ],
)  # fmt: skip
def test_a_canonical_path_has_one_spelling(path: str, canonical: bool) -> None:
    assert is_canonical_path(path) is canonical
    assert is_canonical_path(path.encode()) is canonical


def test_bytes_that_are_no_text_are_not_canonical() -> None:
    assert not is_canonical_path(b"/\xff\xfe")
    assert not is_canonical_path("/\ud800")


def test_the_worst_glob_is_matched_in_no_time() -> None:
    globs = parse_globs(["/v1/" + "a*" * 97 + "b"])
    path = "/v1/" + "a" * 60_000
    started = time.process_time()
    assert not matches(globs, path)
    assert not matches(globs, path + "c")
    assert time.process_time() - started < 0.5
