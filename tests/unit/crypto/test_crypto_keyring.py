from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from keyvault.crypto.errors import IntegrityError, KeyServiceUnavailable
from keyvault.crypto.keyring import Keyring, KeyringError, load_keys
from keyvault.crypto.keyring_document import new_document
from tests.integration.processes import wait_for

ENVIRONMENTS = ("dev", "staging", "prod", "system")
Document = dict[str, Any]


def document() -> Document:
    loaded: Document = json.loads(new_document(ENVIRONMENTS).to_json())
    return loaded


def first_kek(content: Document, environment: str) -> tuple[str, str]:
    kid: str
    key: str
    kid, key = next(iter(content["environments"][environment]["keks"].items()))
    return kid, key


def keys_in(content: Document) -> set[str]:
    return set(re.findall(r"[A-Za-z0-9+/]{43}=", json.dumps(content)))


def test_a_created_file_is_private_complete_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    created = Keyring.create_file(path, ENVIRONMENTS)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keyring.json"]
    keys = load_keys(path=path, text=None)
    assert keys.keks.describe() == created.describe()
    assert tuple(keys.keks.describe()) == ENVIRONMENTS
    service = keys.service
    values = {service.pepper, service.row_mac, service.audit, service.fingerprint, service.etag}
    assert {len(value) for value in values} == {32}
    assert len(values) == 5
    assert service.signing_kid.startswith("sign-")
    assert service.signing.sign(b"x") == created.service.signing.sign(b"x")
    assert len(keys_in(json.loads(path.read_text()))) == len(ENVIRONMENTS) + 6
    keys.keks.health()


@pytest.mark.parametrize("umask", [0, 0o277])
def test_the_mode_of_the_file_does_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Keyring.create_file(tmp_path / "k", ["dev"]).add("dev")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", [b"", b"anything"])
def test_an_existing_file_is_never_overwritten(tmp_path: Path, there: bytes) -> None:
    path = tmp_path / "keyring.json"
    path.write_bytes(there)
    with pytest.raises(KeyringError, match="never overwritten"):
        Keyring.create_file(path, ENVIRONMENTS)
    assert path.read_bytes() == there
    assert os.listdir(tmp_path) == ["keyring.json"]


def test_a_dangling_link_is_not_followed_when_creating(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyringError, match="never overwritten"):
        Keyring.create_file(path, ENVIRONMENTS)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keyring.json"
    Keyring.create_file(path, ["dev"])
    path.chmod(mode)
    assert tuple(Keyring.from_file(path).describe()) == ("dev",)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o700, 0o601, 0o610])
def test_a_file_open_to_others_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key ring.json"
    Keyring.create_file(path, ["dev"])
    path.chmod(mode)
    with pytest.raises(KeyringError) as caught:
        Keyring.from_file(path)
    assert f"chmod 600 '{path}'" in str(caught.value)
    assert f"{mode:04o}" in str(caught.value)


def test_other_things_at_the_path_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b" " * (1024 * 1024 + 1))
    for name in ("binary", "large"):
        (tmp_path / name).chmod(0o600)
    expected = {
        "pipe": "not a regular file",
        "folder": "not a regular file",
        "binary": "not UTF-8",
        "large": "larger than 1 MiB",
        "absent": "no keyring at",
    }
    for name, message in expected.items():
        with pytest.raises(KeyringError, match=message):
            Keyring.from_file(tmp_path / name)


def test_text_and_base64_of_it_load_alike() -> None:
    text = new_document(ENVIRONMENTS).to_json()
    wrapped = base64.encodebytes(text.encode()).decode()
    assert "\n" in wrapped.strip()
    plain, coded = load_keys(path=None, text=text), load_keys(path=None, text=wrapped)
    assert plain.keks.describe() == coded.keks.describe()
    assert plain.service.pepper == coded.service.pepper


@pytest.mark.parametrize("text", ["", "   ", "nonsense!", "é", "AAAA", "//79", "null", "[]", '"x"', "\ud800"])
def test_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(KeyringError):
        load_keys(path=None, text=text)


def test_the_keyring_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="not both"):
        load_keys(path=None, text=None)
    with pytest.raises(KeyringError, match="not both"):
        load_keys(path=tmp_path / "k", text=new_document(["dev"]).to_json())


def test_a_document_with_some_environments_serves_only_those() -> None:
    content = document()
    del content["environments"]["prod"]
    keks = load_keys(path=None, text=json.dumps(content)).keks
    keks.health()
    assert "prod" not in keks.describe()
    wrapped = keks.wrap("dev", keks.primary("dev"), bytes(32), b"")
    assert keks.unwrap("dev", keks.primary("dev"), wrapped, b"") == bytes(32)
    for call in (
        lambda: keks.primary("prod"),
        lambda: keks.wrap("prod", "prod-1", bytes(32), b""),
        lambda: keks.unwrap("prod", "prod-1", wrapped, b""),
    ):
        with pytest.raises(KeyServiceUnavailable, match="prod"):
            call()


def test_a_kid_answers_only_for_its_environment() -> None:
    keks = Keyring(new_document(["dev", "prod"]))
    wrapped = keks.wrap("prod", keks.primary("prod"), bytes(32), b"aad")
    with pytest.raises(IntegrityError):
        keks.unwrap("dev", keks.primary("prod"), wrapped, b"aad")
    with pytest.raises(IntegrityError):
        keks.wrap("dev", keks.primary("prod"), bytes(32), b"aad")
    with pytest.raises(IntegrityError):
        keks.unwrap("prod", keks.primary("prod"), wrapped, b"other")


def put(*path: str, value: object) -> Callable[[Document], None]:
    def change(content: Document) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[Document], None]:
    def change(content: Document) -> None:
        for name in path[:-1]:
            content = content[name]
        del content[path[-1]]

    return change


def same_kid_twice(content: Document) -> None:
    kid, _ = first_kek(content, "dev")
    key = base64.b64encode(os.urandom(32)).decode()
    content["environments"]["prod"] = {"primary": kid, "keks": {kid: key}}


def same_key_twice(content: Document) -> None:
    _, key = first_kek(content, "dev")
    content["environments"]["prod"]["keks"]["prod-2"] = key


def same_key_in_one_environment(content: Document) -> None:
    _, key = first_kek(content, "dev")
    content["environments"]["dev"]["keks"]["dev-2"] = key


def kek_in_service(*path: str) -> Callable[[Document], None]:
    return lambda content: put("service", *path, value=first_kek(content, "prod")[1])(content)


def pepper_is_row_mac(content: Document) -> None:
    content["service"]["pepper"] = content["service"]["row_mac"]


def wrong_key(value: object) -> Callable[[Document], None]:
    return put("environments", "dev", "keks", "dev-2", value=value)


KEY = base64.b64encode(bytes(range(32))).decode()
REFUSALS: dict[str, tuple[Callable[[Document], None], str]] = {
    "one kid in two environments": (same_kid_twice, r"kid dev-\w+ stands under both dev and prod"),
    "one key in two environments": (same_key_twice, r"prod-2 and environments.dev.keks.dev-\w+ are the same"),
    "one key under two kids": (same_key_in_one_environment, "are the same key"),
    "pepper is a KEK": (kek_in_service("pepper"), "service.pepper and environments.prod.* are the same key"),
    "audit is a KEK": (kek_in_service("audit"), "service.audit and .* are the same key"),
    "signing key is a KEK": (kek_in_service("signing", "key"), "service.signing.key and .* are the same key"),
    "pepper is row_mac": (pepper_is_row_mac, "are the same key"),
    "no environments": (put("environments", value={}), "holds no environment"),
    "environments is a list": (put("environments", value=[]), "JSON object"),
    "environment is text": (put("environments", "dev", value="x"), "environments.dev: a JSON object"),
    "environment name": (put("environments", "Prod", value={}), "names are lower-case"),
    "environment without primary": (drop("environments", "dev", "primary"), "dev: primary missing"),
    "primary not held": (put("environments", "dev", "primary", value="dev-9"), "not among its KEKs"),
    "primary is a number": (put("environments", "dev", "primary", value=1), "names are lower-case"),
    "no keks": (put("environments", "dev", "keks", value={}), "not among its KEKs"),
    "keks is a list": (put("environments", "dev", "keks", value=[]), "keks: a JSON object"),
    "kid name": (put("environments", "dev", "keks", "DEV_1", value=KEY), "names are lower-case"),
    "key is a number": (wrong_key(7), "32 bytes in base64"),
    "key is null": (wrong_key(None), "32 bytes in base64"),
    "key is short": (wrong_key(KEY[4:]), "32 bytes in base64"),
    "key is long": (wrong_key("AAAA" + KEY), "32 bytes in base64"),
    "key without padding": (wrong_key(KEY.rstrip("=")), "32 bytes in base64"),
    "key with a loose bit": (wrong_key(KEY[:-2] + "9="), "32 bytes in base64"),
    "key with a line break": (wrong_key(KEY + "\n"), "32 bytes in base64"),
    "key with letters outside": (wrong_key("é" * 44), "32 bytes in base64"),
    "key of zeros": (wrong_key(base64.b64encode(bytes(32)).decode()), "does not look random"),
    "key of a word": (wrong_key(base64.b64encode(b"password" * 4).decode()), "does not look random"),
    "format": (put("format", value="other"), '"format" must be'),
    "version": (put("version", value=2), '"version" must be'),
    "version is true": (put("version", value=True), '"version" must be'),
    "unknown member": (put("keks", value={}), "only environments, format, service, version"),
    "no service": (drop("service"), "service missing"),
    "no pepper": (drop("service", "pepper"), "service: pepper missing"),
    "unknown service key": (put("service", "salt", value=KEY), "service: only"),
    "signing is text": (put("service", "signing", value=KEY), "service.signing: a JSON object"),
    "signing without kid": (drop("service", "signing", "kid"), "service.signing: kid missing"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_document_that_is_not_safe_is_refused_without_quoting_a_key(name: str) -> None:
    change, message = REFUSALS[name]
    content = document()
    change(content)
    with pytest.raises(KeyringError, match=message) as caught:
        load_keys(path=None, text=json.dumps(content))
    assert not any(key in str(caught.value) for key in keys_in(content))
    assert caught.value.__context__ is None


def test_the_untouched_document_of_that_table_loads() -> None:
    assert load_keys(path=None, text=json.dumps(document())).keks.describe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "a", "format": "b"}', "twice"),
        ('{"format": NaN}', "not JSON"),
        ('{"format": ', "not valid JSON"),
        ("{" + "[" * 100_000, "not valid JSON"),
        ('{"a": ' + "[" * 100_000, "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
        ("{" + " " * (1024 * 1024) + "}", "larger than 1 MiB"),
    ],
    ids=lambda text: text[:20],
)
def test_json_that_is_not_one_clear_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(KeyringError, match=message) as caught:
        load_keys(path=None, text=text)
    assert caught.value.__context__ is None


def test_a_kid_written_twice_is_seen_although_json_would_keep_the_last() -> None:
    content = json.dumps(document())
    doubled = content.replace('"keks": {', f'"keks": {{"dev-x": "{KEY}", "dev-x": "{KEY}", ', 1)
    with pytest.raises(KeyringError, match="twice"):
        load_keys(path=None, text=doubled)


def test_a_kek_is_added_promoted_and_retired_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    keks = Keyring.create_file(path, ["dev", "prod"])
    service = keks.service.pepper
    old = keks.primary("prod")
    wrapped = keks.wrap("prod", old, bytes(32), b"")

    new = keks.add("prod")
    for ring in (keks, Keyring.from_file(path)):
        assert ring.primary("prod") == old
        assert set(ring.describe()["prod"].kids) == {old, new}
    keks.promote("prod", new)
    for ring in (keks, Keyring.from_file(path)):
        assert ring.primary("prod") == new
        assert ring.unwrap("prod", old, wrapped, b"") == bytes(32)
    with pytest.raises(KeyringError, match="primary"):
        keks.retire("prod", new)
    keks.retire("prod", old)
    for ring in (keks, Keyring.from_file(path)):
        assert ring.describe()["prod"].kids == (new,)
        assert ring.service.pepper == service
        with pytest.raises(KeyServiceUnavailable, match=old):
            ring.unwrap("prod", old, wrapped, b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["keyring.json"]


def test_adding_to_a_new_environment_makes_it_usable(tmp_path: Path) -> None:
    keks = Keyring.create_file(tmp_path / "k", ["dev"])
    kid = keks.add("staging")
    assert Keyring.from_file(tmp_path / "k").primary("staging") == kid


@pytest.mark.parametrize("name", ["", "Prod", "a_b", "a" * 64, "a" * 60, "../x", "a\n"])
def test_a_name_that_could_not_be_read_back_is_never_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "k"
    keks = Keyring.create_file(path, ["dev"])
    before = path.read_bytes()
    with pytest.raises(KeyringError, match="names are lower-case"):
        keks.add(name)
    assert path.read_bytes() == before
    with pytest.raises(KeyringError, match="names are lower-case"):
        Keyring.create_file(tmp_path / "other", [name])
    assert not (tmp_path / "other").exists()


def test_promoting_or_retiring_what_is_not_there_is_refused(tmp_path: Path) -> None:
    keks = Keyring.create_file(tmp_path / "k", ["dev", "prod"])
    for change in (keks.promote, keks.retire):
        for environment, kid in (("prod", keks.primary("dev")), ("prod", "prod-x"), ("none", "x")):
            with pytest.raises(KeyringError, match="has no KEK"):
                change(environment, kid)


def test_a_keyring_from_the_environment_cannot_be_changed() -> None:
    keks = Keyring.from_env(new_document(["dev"]).to_json())
    with pytest.raises(KeyringError, match="from the environment"):
        keks.add("dev")


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "k"
    Keyring.create_file(path, ["dev"])
    rings = [Keyring.from_file(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        kids = [kid for ring in rings for kid in pool.map(lambda _, ring=ring: ring.add("dev"), range(4))]
        more = list(pool.map(lambda ring: ring.add("dev"), rings))
    held = Keyring.from_file(path).describe()["dev"].kids
    assert {*kids, *more} < set(held)
    assert len(held) == 1 + len(kids) + len(more)


def test_creators_at_the_same_time_make_one_keyring(tmp_path: Path) -> None:
    path = tmp_path / "k"

    def create(_: int) -> str | None:
        try:
            return Keyring.create_file(path, ["dev"]).primary("dev")
        except KeyringError:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [kid for kid in pool.map(create, range(8)) if kid]
    assert made == [Keyring.from_file(path).primary("dev")]


def test_kill_minus_nine_while_writing_leaves_a_keyring_that_opens(tmp_path: Path) -> None:
    path = tmp_path / "k"
    keks = Keyring.create_file(path, ["dev"])
    kid = keks.primary("dev")
    wrapped = keks.wrap("dev", kid, bytes(32), b"")
    program = (
        "import sys; from pathlib import Path; from keyvault.crypto.keyring import Keyring\n"
        "while True: Keyring.from_file(Path(sys.argv[1])).add('dev')"
    )
    for _ in range(3):
        before = path.stat().st_mtime_ns
        child = subprocess.Popen([sys.executable, "-c", program, str(path)])
        try:
            wait_for(lambda before=before: path.stat().st_mtime_ns != before, "the child writes")  # type: ignore[misc]
        finally:
            child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        survivor = Keyring.from_file(path)
        survivor.health()
        assert survivor.unwrap("dev", kid, wrapped, b"") == bytes(32)
        assert survivor.add("dev") in Keyring.from_file(path).describe()["dev"].kids
    assert os.listdir(tmp_path) == ["k"]


def test_the_keyring_and_the_service_keys_do_not_print_or_leave(tmp_path: Path) -> None:
    content = document()
    keys = load_keys(path=None, text=json.dumps(content))
    shown = f"{keys!r} {keys.keks!r} {keys.service!r} {keys.keks._document!r} {keys.keks.describe()!r}"
    for key in keys_in(content):
        raw = base64.b64decode(key)
        for spelling in (key, raw.hex(), repr(raw)[2:-1]):
            assert spelling not in shown
    for leave in (pickle.dumps, copy.deepcopy):
        for value in (keys.keks, keys.service, keys):
            with pytest.raises(TypeError):
                leave(value)
    for value in (keys.keks, keys.service):
        with pytest.raises(TypeError):
            copy.copy(value)
