"""KEKs at remote providers: real servers, and what happens when one is down, slow or lies."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from keyvault.crypto.environment_keys import (
    AGAIN_AFTER,
    RETRY_AFTER,
    EnvironmentKeys,
)
from keyvault.crypto.errors import IntegrityError, KeyringError, KeyServiceUnavailable
from keyvault.crypto.keyring import Keyring
from keyvault.crypto.keyring_document import parse_document
from keyvault.crypto.remote import (
    PATIENCE,
    KekSettings,
    Place,
    ProviderSettings,
    RemoteKek,
    RemoteKind,
    WrappedKey,
    check_of,
    connect,
)
from tests.integration.kek_servers import Liar, OpenBao, SoftHsm
from tests.integration.processes import free_port

pytestmark = [
    pytest.mark.once,
    pytest.mark.xdist_group("keks"),
    pytest.mark.usefixtures("patient_providers"),
]

PROD, DEV = Place("prod", "prod-1"), Place("dev", "dev-1")
KEY = bytes(range(32))
STALE = 3600.0


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    return SoftHsm(tmp_path_factory.mktemp("hsm") / "softhsm")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def aws(url: str, patch: pytest.MonkeyPatch) -> None:
    """What an operator sets for AWS's library."""
    patch.setenv("AWS_ENDPOINT_URL_KMS", url)
    patch.setenv("AWS_REGION", "eu-central-1")
    patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def kms(moto: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """AWS's own client of this KMS, with a KEK for each environment."""
    import boto3

    aws(moto, monkeypatch)
    client = boto3.session.Session().client("kms")
    known = {alias["AliasName"] for alias in client.list_aliases()["Aliases"]}
    for name in {"alias/keyturn-dev", "alias/keyturn-prod"} - known:
        made = client.create_key(KeySpec="SYMMETRIC_DEFAULT")["KeyMetadata"]
        client.create_alias(AliasName=name, TargetKeyId=made["KeyId"])
    return client


@dataclass
class Provided:
    kind: RemoteKind
    settings: ProviderSettings

    def connect(self) -> RemoteKek:
        return connect(self.kind, self.settings)

    def name(self, environment: str) -> str:
        return KekSettings().key_of(environment, self.kind)


@pytest.fixture(params=["transit", "kms", "pkcs11"])
def provided(request: pytest.FixtureRequest) -> Provided:
    if request.param == "transit":
        server = cast(OpenBao, request.getfixturevalue("openbao"))
        return Provided("transit", server.by_token("dev", "prod"))
    if request.param == "kms":
        request.getfixturevalue("kms")
        return Provided("kms", ProviderSettings())
    hsm = cast(SoftHsm, request.getfixturevalue("softhsm"))
    return Provided("pkcs11", hsm.settings)


# Each provider -------------------------------------------------------------------------------------


def test_what_is_wrapped_opens_at_its_place_only(provided: Provided) -> None:
    remote, name = provided.connect(), provided.name("prod")
    wrapped = remote.wrap(name, KEY, PROD)
    assert base64.b64encode(KEY).decode() not in wrapped
    assert remote.wrap(name, KEY, PROD) != wrapped
    # Another process, or the same one much later.
    assert provided.connect().unwrap(name, wrapped, PROD) == KEY
    for place in (DEV, Place("prod", "prod-2"), Place("dev", "prod-1"), Place("", "")):
        with pytest.raises(KeyServiceUnavailable):
            remote.unwrap(name, wrapped, place)


def test_another_kek_and_changed_text_are_refused(provided: Provided) -> None:
    remote, name = provided.connect(), provided.name("prod")
    wrapped = remote.wrap(name, KEY, PROD)
    with pytest.raises(KeyServiceUnavailable):
        remote.unwrap(provided.name("dev"), wrapped, PROD)
    middle = len(wrapped) // 2
    other = "A" if wrapped[middle] != "A" else "B"
    for changed in (wrapped[:middle] + other + wrapped[middle + 1 :], wrapped[:-9], "", "é", "vault:v1:"):
        with pytest.raises(KeyServiceUnavailable):
            remote.unwrap(name, changed, PROD)
    with pytest.raises(KeyServiceUnavailable):
        remote.wrap("keyturn-nobody", KEY, PROD)


def test_a_keyring_works_with_it_and_holds_no_key_of_it(provided: Provided, tmp_path: Path) -> None:
    held = EnvironmentKeys(lambda kind: provided.connect(), stale=STALE, background=False)

    def make(environment: str, kid: str) -> WrappedKey:
        return held.make(provided.kind, provided.name(environment), Place(environment, kid))

    path = tmp_path / "keyring.json"
    Keyring.create_file(path, ["dev", "prod"], make)
    document = parse_document(path.read_text())
    assert document.to_json() == path.read_text()
    keyring = Keyring.from_file(path, held)
    kid = keyring.primary("prod")
    sealed = keyring.wrap("prod", kid, KEY, b"aad")
    assert Keyring.from_file(path, held).unwrap("prod", kid, sealed, b"aad") == KEY
    with pytest.raises(IntegrityError):
        keyring.unwrap("dev", kid, sealed, b"aad")
    with pytest.raises(IntegrityError):
        keyring.unwrap("dev", keyring.primary("dev"), sealed, b"aad")
    keyring.health()
    assert {(one.provider, one.key) for one in keyring.keks()} == {
        (provided.kind, provided.name("dev")),
        (provided.kind, provided.name("prod")),
    }
    # A kid that is moved to another environment in the document does not open there.
    moved = path.read_text().replace('"dev"', '"swap"').replace('"prod"', '"dev"').replace('"swap"', '"prod"')
    path.write_text(moved)
    other = EnvironmentKeys(lambda kind: provided.connect(), stale=STALE, background=False)
    with pytest.raises(KeyServiceUnavailable):
        Keyring.from_file(path, other).unwrap("dev", kid, sealed, b"aad")


def test_another_key_under_the_same_name_opens_nothing(softhsm: SoftHsm) -> None:
    softhsm.make_key("keyturn-lost")
    remote = connect("pkcs11", softhsm.settings)
    wrapped = remote.wrap("keyturn-lost", KEY, PROD)
    softhsm.destroy_key("keyturn-lost")
    with pytest.raises(KeyServiceUnavailable, match="NoSuchKey"):
        remote.unwrap("keyturn-lost", wrapped, PROD)
    softhsm.make_key("keyturn-lost")
    with pytest.raises(KeyServiceUnavailable):
        remote.unwrap("keyturn-lost", wrapped, PROD)


def test_kms_says_why_it_refuses(kms: Any) -> None:
    with pytest.raises(KeyServiceUnavailable, match="NotFoundException"):
        connect("kms", ProviderSettings()).wrap("alias/nobody", KEY, PROD)


# Transit: who we are -------------------------------------------------------------------------------


def test_a_role_signs_in_and_does_so_again_when_its_token_has_ended(openbao: OpenBao) -> None:
    remote = connect("transit", openbao.by_role("keyturn"))
    wrapped = remote.wrap("keyturn-prod", KEY, PROD)
    openbao.revoke_all_of("keyturn")
    assert remote.unwrap("keyturn-prod", wrapped, PROD) == KEY


def test_a_role_for_dev_cannot_open_prod(openbao: OpenBao) -> None:
    wrapped = connect("transit", openbao.by_role("keyturn")).wrap("keyturn-prod", KEY, PROD)
    remote = connect("transit", openbao.by_role("dev-only"))
    assert remote.unwrap("keyturn-dev", remote.wrap("keyturn-dev", KEY, DEV), DEV) == KEY
    with pytest.raises(KeyServiceUnavailable, match="403"):
        remote.unwrap("keyturn-prod", wrapped, PROD)


def test_a_token_file_is_read_again(openbao: OpenBao) -> None:
    settings = openbao.by_token("prod")
    file = Path(settings.transit_token_file)
    remote, good = connect("transit", settings), file.read_text()
    file.write_text("nobody\n")
    with pytest.raises(KeyServiceUnavailable, match="403"):
        remote.wrap("keyturn-prod", KEY, PROD)
    file.write_text(good)
    assert remote.wrap("keyturn-prod", KEY, PROD)
    file.write_text("")
    with pytest.raises(KeyringError, match="KEYTURN_TRANSIT_TOKEN_FILE"):
        remote.wrap("keyturn-prod", KEY, PROD)


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(openbao: OpenBao) -> None:
    settings = replace(openbao.by_token("prod"), transit_ca_file="")
    with pytest.raises(KeyServiceUnavailable, match="ConnectError"):
        connect("transit", settings).wrap("keyturn-prod", KEY, PROD)


# What is missing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "names"),
    [
        ("transit", ProviderSettings(), "KEYTURN_TRANSIT_URL"),
        ("transit", ProviderSettings(transit_url="http://openbao.example.org"), "https"),
        ("transit", ProviderSettings(transit_url="https://me:x@openbao.example.org"), "https"),
        (
            "transit",
            ProviderSettings(transit_url="https://openbao.example.org"),
            "KEYTURN_TRANSIT_TOKEN_FILE",
        ),
        (
            "transit",
            ProviderSettings(
                transit_url="https://openbao.example.org",
                transit_token_file="/nowhere",
                transit_ca_file="/nowhere.pem",
            ),
            "KEYTURN_TRANSIT_CA_FILE",
        ),
        ("pkcs11", ProviderSettings(), "KEYTURN_PKCS11_MODULE"),
        ("moon", ProviderSettings(), "transit, kms, pkcs11"),
    ],
)
def test_a_setting_that_is_missing_is_named(kind: str, settings: ProviderSettings, names: str) -> None:
    with pytest.raises(KeyringError, match=names):
        connect(kind, settings)


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [("kms", "boto3", "aws"), ("pkcs11", "pkcs11", "pkcs11")]
)
def test_a_library_that_is_missing_is_named(
    kind: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"keyvault.crypto.remote_{kind}", raising=False)
    with pytest.raises(KeyringError, match=rf"keyturn\[{extra}\]"):
        connect(kind, ProviderSettings())


def test_a_library_is_loaded_by_its_provider_only() -> None:
    program = "import sys, keyvault.crypto.keyring; print(sorted(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'keyvault.crypto.environment_keys'" in said.stdout
    for library in ("boto3", "pkcs11", "httpx"):
        assert f"'{library}'" not in said.stdout


def test_the_choice_of_a_provider() -> None:
    chosen = KekSettings.parse("transit, dev=file,qa=kms", "", 60, ProviderSettings())
    assert [chosen.provider_of(name) for name in ("prod", "dev", "qa")] == ["transit", "file", "kms"]
    assert chosen.key_of("prod", "transit") == "keyturn-prod"
    assert chosen.key_of("qa", "kms") == "alias/keyturn-qa"
    named = KekSettings.parse("kms", "arn:aws:kms:eu:1:alias/{environment}-x", 60, ProviderSettings())
    assert named.key_of("prod", "kms") == "arn:aws:kms:eu:1:alias/prod-x"
    with pytest.raises(ValueError, match="moon"):
        KekSettings.parse("dev=moon", "", 60, ProviderSettings())


# Answers that must not be believed -----------------------------------------------------------------


def told(answer: Callable[[str, Any], tuple[int, object]], tmp_path: Path) -> tuple[Liar, ProviderSettings]:
    token = tmp_path / "token"
    token.write_text("t")
    liar = Liar(answer)
    return liar, ProviderSettings(transit_url=liar.url, transit_token_file=str(token))


def plaintext(data: bytes) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {
        "data": {"plaintext": text, "ciphertext": "vault:v1:x"},
        "Plaintext": text,
        "CiphertextBlob": "eHg=",
    }


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"errors": ["internal"]}),
        (503, {"errors": ["Vault is sealed"]}),
        (429, {}),
        (302, {}),
        (307, {}),
        (200, b"<html>"),
        (200, b""),
        (200, b"[" * 5000),
        (200, []),
        (200, {"data": []}),
        (200, {"data": {"plaintext": 7}}),
        (200, {"data": {"plaintext": "not base64"}}),
        (200, b" " * 70_000),
    ],
    ids=lambda answer: f"{answer[0]}-{str(answer[1])[:12]}",
)
def test_an_odd_answer_is_no_answer(answer: tuple[int, object], tmp_path: Path) -> None:
    liar, settings = told(lambda path, body: answer, tmp_path)
    with liar:
        with pytest.raises(KeyServiceUnavailable):
            connect("transit", settings).unwrap("keyturn-prod", "vault:v1:x", PROD)
        assert liar.asked == ["/v1/transit/decrypt/keyturn-prod"]


@pytest.mark.parametrize("kind", ["transit", "kms"])
def test_another_plaintext_is_not_used(
    kind: RemoteKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"key": KEY}
    liar, settings = told(lambda path, body: (200, plaintext(answers["key"])), tmp_path)
    with liar:
        aws(liar.url, monkeypatch)
        clock = Clock()
        held = EnvironmentKeys(
            lambda wanted: connect(wanted, settings), stale=STALE, clock=clock, background=False
        )
        with pytest.raises(KeyServiceUnavailable, match="does not open what it wrapped"):
            held.make(kind, "keyturn-prod", PROD)
        wrapped = WrappedKey(kind, "keyturn-prod", "eHg=", check_of(KEY))
        sealed = held.for_writing(*PROD, wrapped).encrypt(b"n" * 12, b"data", b"")
        answers["key"] = bytes(reversed(KEY))
        clock.now += AGAIN_AFTER
        held.refresh()
        assert "another key" in held.states()[0].failure
        # Reading goes on with the right key, and nothing is written.
        assert held.for_reading(*PROD, wrapped).decrypt(b"n" * 12, sealed, b"") == b"data"
        with pytest.raises(KeyServiceUnavailable, match="another key"):
            held.for_writing(*PROD, wrapped)


def test_a_slow_provider_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyvault.crypto.remote_transit.PATIENCE", PATIENCE)
    over = threading.Event()

    def slowly(path: str, body: Any) -> tuple[int, object]:
        over.wait(30 * PATIENCE)
        return 200, plaintext(KEY)

    liar, settings = told(slowly, tmp_path)
    with liar:
        try:
            with pytest.raises(KeyServiceUnavailable, match="Timeout"):
                connect("transit", settings).unwrap("keyturn-prod", "vault:v1:x", PROD)
        finally:
            over.set()


# Down, and back ------------------------------------------------------------------------------------


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_real_server_goes_away_and_comes_back(openbao: OpenBao) -> None:
    settings, clock = openbao.by_token("prod"), Clock()
    held = EnvironmentKeys(lambda kind: connect(kind, settings), stale=STALE, clock=clock, background=False)
    wrapped = held.make("transit", "keyturn-prod", PROD)
    held.for_writing(*PROD, wrapped)
    openbao.kill()
    try:
        clock.now += AGAIN_AFTER
        held.refresh()
        assert "ConnectError" in held.states()[0].failure
        held.for_reading(*PROD, wrapped)
        with pytest.raises(KeyServiceUnavailable, match="ConnectError"):
            held.for_writing(*PROD, wrapped)
        clock.now += STALE
        with pytest.raises(KeyServiceUnavailable, match="ConnectError"):
            held.for_reading(*PROD, wrapped)
    finally:
        openbao.start()
    clock.now += RETRY_AFTER
    held.for_writing(*PROD, wrapped)


def test_a_kms_that_is_not_there_is_given_up(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = connect("kms", ProviderSettings()).wrap("alias/keyturn-prod", KEY, PROD)
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(KeyServiceUnavailable, match="EndpointConnectionError"):
        connect("kms", ProviderSettings()).unwrap("alias/keyturn-prod", wrapped, PROD)
