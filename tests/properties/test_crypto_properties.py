"""Properties of the crypto room over generated input."""

from __future__ import annotations

import re
import string
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from keyvault.crypto.access_tokens import (
    AccessClaims,
    InvalidAccessToken,
    mint_access_token,
    verify_access_token,
)
from keyvault.crypto.envelope import (
    Context,
    IntegrityError,
    KeyServiceUnavailable,
    Sealed,
    open_sealed,
    rewrap,
    seal,
)
from keyvault.crypto.globs import GlobError, is_canonical_path, matches, parse_globs
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.keyring import Keyring, KeyringError, load_keys
from keyvault.crypto.keyring_document import new_document
from keyvault.crypto.mac import lp, row_mac
from keyvault.crypto.secret import Secret
from keyvault.crypto.tokens import TokenKind, looks_like_ours, mint, parse

KEYRING = Keyring(new_document(["dev", "staging", "prod", "system"]))
HERE = Context("instance-1", "key-version", "service-1", "environment-1", "key-1", "version-1")
PLAIN = "sk-canary-8d1f"
SEALED = seal(Secret(PLAIN), HERE, environment="prod", keks=KEYRING)

ROWS = [
    (
        environment,
        Context("i", purpose, f"s{number % 2}", environment, f"k{number % 3}", f"v{number}"),
    )
    for number, (environment, purpose) in enumerate(
        (environment, purpose)
        for environment in ("dev", "staging", "prod", "system")
        for purpose in ("key-version", "provider-admin", "webhook")
        for _ in range(2)
    )
]
SEALED_ROWS = [
    seal(Secret(f"secret {number}"), context, environment=environment, keks=KEYRING)
    for number, (environment, context) in enumerate(ROWS)
]


def with_column(sealed: Sealed, column: str, data: bytes) -> Sealed:
    if column == "ciphertext":
        return replace(sealed, ciphertext=data)
    return replace(sealed, wrapped_dek=data)


def flipped(data: bytes, bit: int) -> bytes:
    return (int.from_bytes(data, "big") ^ (1 << bit)).to_bytes(len(data), "big")


@settings(max_examples=100)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    names=st.lists(st.text("ab/:", max_size=4), min_size=6, max_size=6),
)
def test_every_secret_opens_in_its_context_and_after_a_rewrap(text: str, names: list[str]) -> None:
    context = Context("i" + names[0], "p" + names[1], *names[2:])
    sealed = seal(Secret(text), context, environment="dev", keks=KEYRING)
    assert open_sealed(sealed, context, environment="dev", keks=KEYRING) == Secret(text)
    moved = rewrap(sealed, context, environment="dev", keks=KEYRING)
    assert moved.ciphertext == sealed.ciphertext
    assert open_sealed(moved, context, environment="dev", keks=KEYRING) == Secret(text)


@pytest.mark.parametrize("column", ["ciphertext", "wrapped_dek"])
def test_no_bit_of_a_column_can_be_flipped(column: str) -> None:
    data: bytes = getattr(SEALED, column)
    for bit in range(len(data) * 8):
        bad = with_column(SEALED, column, flipped(data, bit))
        with pytest.raises(IntegrityError):
            open_sealed(bad, HERE, environment="prod", keks=KEYRING)


def test_no_bit_of_the_kid_can_be_flipped() -> None:
    for bit in range(len(SEALED.kid) * 7):
        position, shift = divmod(bit, 7)
        letter = chr(ord(SEALED.kid[position]) ^ (1 << shift))
        bad = replace(SEALED, kid=SEALED.kid[:position] + letter + SEALED.kid[position + 1 :])
        # A kid of the right form that nobody holds may be a KEK that is not here.
        with pytest.raises((IntegrityError, KeyServiceUnavailable)):
            open_sealed(bad, HERE, environment="prod", keks=KEYRING)


@pytest.mark.parametrize("name", [field.name for field in fields(Context)])
def test_no_bit_of_the_context_can_be_flipped(name: str) -> None:
    text: str = getattr(HERE, name)
    for position in range(len(text)):
        for shift in range(7):
            letter = chr(ord(text[position]) ^ (1 << shift))
            other = replace(HERE, **{name: text[:position] + letter + text[position + 1 :]})
            with pytest.raises(IntegrityError):
                open_sealed(SEALED, other, environment="prod", keks=KEYRING)


@pytest.mark.parametrize(
    "columns",
    [["ciphertext"], ["wrapped_dek"], ["wrapped_dek", "kid"], ["ciphertext", "wrapped_dek", "kid"]],
    ids="+".join,
)
def test_no_column_of_a_row_opens_in_another_row(columns: list[str]) -> None:
    refused = 0
    for home, (environment, context) in enumerate(ROWS):
        for foreign in range(len(ROWS)):
            if foreign == home:
                continue
            moved = {column: getattr(SEALED_ROWS[foreign], column) for column in columns}
            with pytest.raises(IntegrityError):
                open_sealed(
                    replace(SEALED_ROWS[home], **moved), context, environment=environment, keks=KEYRING
                )
            refused += 1
    assert refused == len(ROWS) * (len(ROWS) - 1)


@settings(max_examples=400)
@given(
    ciphertext=st.one_of(
        st.binary(max_size=300), st.binary(max_size=300).map(lambda data: b"KV\x01\x01" + data)
    ),
    wrapped=st.binary(max_size=120),
    kid=st.one_of(st.text(max_size=70), st.just(SEALED.kid), st.sampled_from(["dev-1", "prod-1"])),
)
def test_bytes_that_are_not_ours_only_ever_fail_the_integrity_check(
    ciphertext: bytes, wrapped: bytes, kid: str
) -> None:
    held = {kid for description in KEYRING.describe().values() for kid in description.kids}
    assume(kid in held or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", kid))
    for operation in (open_sealed, rewrap):
        with pytest.raises(IntegrityError):
            operation(Sealed(ciphertext, wrapped, kid), HERE, environment="prod", keks=KEYRING)


@settings(max_examples=400)
@given(
    start=st.integers(0, len(SEALED.ciphertext)),
    length=st.integers(0, 40),
    insert=st.binary(max_size=40),
    column=st.sampled_from(["ciphertext", "wrapped_dek"]),
)
def test_splicing_a_column_only_ever_fails_the_integrity_check(
    start: int, length: int, insert: bytes, column: str
) -> None:
    data: bytes = getattr(SEALED, column)
    spliced = data[:start] + insert + data[start + length :]
    assume(spliced != data)
    with pytest.raises(IntegrityError):
        open_sealed(with_column(SEALED, column, spliced), HERE, environment="prod", keks=KEYRING)


@given(st.lists(st.one_of(st.binary(max_size=6), st.text("ab", max_size=6)), max_size=6))
def test_length_prefixes_can_be_read_back(parts: list[bytes | str]) -> None:
    data, read = lp(*parts), []
    while data:
        size = int.from_bytes(data[:4], "big")
        read.append(data[4 : 4 + size])
        data = data[4 + size :]
    assert read == [part.encode() if isinstance(part, str) else part for part in parts]


mac_field = st.one_of(
    st.none(), st.integers(), st.text("ns1-", max_size=3), st.binary(max_size=3),
    st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip


@given(st.lists(mac_field, max_size=4), st.lists(mac_field, max_size=4))
def test_two_rows_share_a_mac_only_if_they_are_equal(
    one: list[str | int | bytes | datetime | None], other: list[str | int | bytes | datetime | None]
) -> None:
    same = [(type(value), value) for value in one] == [(type(value), value) for value in other]
    assert (row_mac(b"k" * 32, "t", *one) == row_mac(b"k" * 32, "t", *other)) is same


document_text = new_document(["dev", "prod"]).to_json()


@settings(max_examples=300)
@given(st.integers(0, len(document_text) - 1), st.integers(0, 40), st.text(max_size=5))
def test_a_damaged_keyring_is_refused_or_holds_what_it_says(start: int, length: int, insert: str) -> None:
    damaged = document_text[:start] + insert + document_text[start + length :]
    try:
        keys = load_keys(path=None, text=damaged)
        keys.keks.health()
        message = ""
    except KeyringError as refused:
        message = str(refused)
    assert not any(key in message for key in re.findall(r"[A-Za-z0-9+/]{43}=", document_text))


# --- globs -----------------------------------------------------------------------------------


def oracle(glob: str, path: str) -> bool:
    """The grammar as a regular expression; fine for the short texts of a test."""
    if glob == "*":
        return True
    below = glob.endswith("/*")
    fixed = glob[:-2] if below else glob
    segments = []
    for segment in fixed.split("/"):
        pattern = "".join("[^/]*" if letter == "*" else re.escape(letter) for letter in segment)
        # A segment that is written with a star still names something.
        segments.append(f"(?=[^/]){pattern}" if "*" in segment else pattern)
    return re.fullmatch("/".join(segments) + ("/[^/].*" if below else ""), path) is not None


glob_segment = st.text("ab*", min_size=1, max_size=7).filter(lambda text: "**" not in text)
path_segment = st.text("ab", min_size=1, max_size=5)
slash = st.sampled_from(["", "/"])
glob_text = st.one_of(
    st.just("*"),
    st.builds(
        lambda parts, end: "/v1/" + "/".join(parts) + end,
        st.lists(glob_segment, min_size=1, max_size=4),
        slash,
    ),
)
path_text = st.builds(
    lambda parts, end: "/v1/" + "/".join(parts) + (end if parts else ""),
    st.lists(path_segment, max_size=4),
    slash,
)


@settings(max_examples=1500)
@given(glob=glob_text, path=path_text)
@example(glob="/v1/*", path="/v1/")
@example(glob="/v1/*/", path="/v1/a/")
@example(glob="/v1/a*a", path="/v1/a")
@example(glob="/v1/a*", path="/v1/a/b")
@example(glob="/v1/a*b*ba", path="/v1/aba")
def test_globs_agree_with_the_oracle(glob: str, path: str) -> None:
    assert matches(parse_globs([glob]), path) is oracle(glob, path)


@given(segments=st.lists(path_segment, min_size=1, max_size=4), end=slash, data=st.data())
def test_a_glob_made_from_a_path_covers_it(segments: list[str], end: str, data: st.DataObject) -> None:
    starred = []
    for segment in segments:
        start = data.draw(st.integers(0, len(segment)))
        stop = data.draw(st.integers(start, len(segment)))
        starred.append(segment[:start] + "*" + segment[stop:])
    glob, path = "/v1/" + "/".join(starred) + end, "/v1/" + "/".join(segments) + end
    assert matches(parse_globs([glob]), path)
    assert oracle(glob, path)


@given(glob=glob_text, path=st.text(max_size=30).map(lambda text: "/v1/" + text))
def test_only_canonical_paths_are_ever_covered(glob: str, path: str) -> None:
    if matches(parse_globs([glob]), path):
        assert is_canonical_path(path)
        assert not {"", ".", ".."} & set(path.strip("/").split("/")) or path == "/v1/"


@given(
    st.one_of(
        st.text(max_size=20), st.lists(st.one_of(st.text(max_size=20), st.integers(), st.none()), max_size=25)
    )
)
def test_the_glob_parser_takes_it_or_raises_its_own_error(globs: object) -> None:
    try:
        parsed = parse_globs(globs)
    except GlobError:
        return
    assert [glob.text for glob in parsed] == globs


# --- tokens ----------------------------------------------------------------------------------

TOKEN = mint(TokenKind.CONSUMER, "prod").expose()
token_like = st.one_of(
    st.text(max_size=80),
    st.from_regex(r"kt[cku]_([a-z0-9-]{1,8}_)?[0-9A-Za-z]{40,52}", fullmatch=True),
    st.builds(
        lambda at, text: TOKEN[:at] + text + TOKEN[at + len(text) :],
        st.integers(0, len(TOKEN)),
        st.text(max_size=3),
    ),
)


@settings(max_examples=500)
@given(st.one_of(token_like, st.none(), st.integers(), st.binary(max_size=60), st.lists(st.text())))
def test_parsing_a_token_never_raises_and_only_takes_the_original(text: object) -> None:
    parsed = parse(text)
    assert (parsed is not None) == (text == TOKEN)


@given(
    kind=st.sampled_from(TokenKind),
    environment=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
    around=st.sampled_from(["", " ", '"', "/", "="]),
)
def test_every_minted_token_parses_and_is_recognised(kind: TokenKind, environment: str, around: str) -> None:
    named = None if kind is TokenKind.USER else environment
    text = mint(kind, named).expose()
    parsed = parse(text)
    assert parsed is not None
    assert (parsed.kind, parsed.environment) == (kind, named)
    assert looks_like_ours(f"{around}{text}{around}")
    assert parse(around + text) is None or not around


# --- intake ----------------------------------------------------------------------------------


@settings(max_examples=500)
@given(
    st.one_of(st.text(max_size=40), st.binary(max_size=9), st.none(), st.text(string.printable, max_size=40))
)
def test_intake_takes_printable_ascii_unchanged_or_refuses(text: object) -> None:
    try:
        secret = check_secret(text)
    except SecretRefused:
        return
    assert isinstance(text, str)
    assert secret.expose() == text
    assert text
    assert all("!" <= letter <= "~" and letter not in "\"'`" for letter in text)


# --- access tokens ---------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ACCESS = mint_access_token(
    KEYRING.service,
    issuer="https://keys.example",
    audience="keyturn:1",
    parent="3fa85f64-5717-4562-b3fc-2c963f66afa6",
    environment="prod",
    paths=["*"],
    now=NOW,
    expires_in=60,
).expose()


def verify(text: str) -> AccessClaims:
    return verify_access_token(
        KEYRING.service, text, issuer="https://keys.example", audience="keyturn:1", now=NOW
    )


def accepted(text: str) -> bool:
    try:
        verify(text)
    except InvalidAccessToken:
        return False
    return True


def test_no_character_of_an_access_token_can_be_another() -> None:
    alphabet = string.ascii_letters + string.digits + "-_=.+/ \n"
    survivors = {
        changed
        for position in range(len(ACCESS))
        for letter in alphabet[position % 3 :: 3] + alphabet[-8:]
        if accepted(changed := ACCESS[:position] + letter + ACCESS[position + 1 :])
    }
    assert survivors <= {ACCESS}


@settings(max_examples=600)
@given(
    at=st.integers(0, len(ACCESS)),
    cut=st.integers(0, 5),
    insert=st.one_of(st.text(max_size=4), st.text("=.-_AQgw", max_size=4)),
)
@example(at=len(ACCESS), cut=0, insert="=")
@example(at=len(ACCESS), cut=0, insert="==")
@example(at=len(ACCESS), cut=0, insert="\n")
@example(at=0, cut=0, insert="")
def test_the_accepted_set_of_an_access_token_is_the_original(at: int, cut: int, insert: str) -> None:
    changed = ACCESS[:at] + insert + ACCESS[at + cut :]
    assert accepted(changed) is (changed == ACCESS)


@settings(max_examples=200)
@given(st.lists(st.text("AQgw-_0aZ", min_size=1, max_size=90), min_size=1, max_size=4).map(".".join))
def test_made_up_access_tokens_only_ever_raise_the_one_error(text: str) -> None:
    assert not accepted(text)
