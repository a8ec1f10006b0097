"""Adding, promoting and retiring KEKs: what is refused and why, what commands tell, who must know a kid."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keyvault.actors import SYSTEM
from keyvault.console.activity import describe
from keyvault.crypto.errors import IntegrityError
from keyvault.crypto.keyring import Keyring, KeyringError
from keyvault.exceptions import KeyturnError
from keyvault.keystore import keys, open_version
from keyvault.models import AuditEvent, Backup, KekCanary, KekHolder, KeyVersion, Service
from keyvault.project import installation
from keyvault.project.cli import main
from keyvault.project.holding import Reporter
from keyvault.services import kek_holders, keks, sealed_rows
from keyvault.services.rewrap import rewrap_environment, verify_environment
from tests.integration.furniture import NOW, Furniture, ask, fresh_kek, fresh_secret, furnish, without_guards
from tests.integration.processes import wait_for

pytestmark = pytest.mark.django_db

LATER = NOW + timedelta(minutes=5)


@pytest.fixture
def furniture(data_dir: Path, db: None) -> Furniture:
    return furnish()


def kek(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["kek", *arguments], catch_exceptions=False)


def told(*arguments: str) -> Any:
    """What the command prints as JSON, log lines left out."""
    done = CliRunner().invoke(main, ["kek", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def states() -> dict[str, tuple[str, int, str]]:
    """State, rows and health of the KEKs of prod, by kid."""
    found = keks.status(now=LATER)
    return {one.kid: (one.state, one.rows, one.health) for one in found if one.environment == "prod"}


def refused(verb: Any, *arguments: Any, now: Any = LATER) -> str:
    with pytest.raises(KeyturnError) as caught:
        verb(SYSTEM, *arguments, now=now)
    assert caught.value.code == "invalid_transition"
    return caught.value.message


def hold(title: str, *kids: str, primary: str = "", at: Any = LATER) -> KekHolder:
    """A process that says that it holds these kids of prod."""
    held = {"prod": {"primary": primary or kids[0], "kids": list(kids)}}
    return KekHolder.objects.create(title=title, held=held, at=at)


# The life of a KEK ---------------------------------------------------------------------------------


def test_a_kek_is_replaced_step_by_step(furniture: Furniture) -> None:
    furniture.key()
    old = keys().keks.primary("prod")
    assert states() == {old: ("primary", 1, "ok")}
    new = told("add", "prod")["kid"]
    assert states() == {old: ("primary", 1, "ok"), new: ("known", 0, "ok")}
    assert told("promote", "prod", new) == {"environment": "prod", "kid": new}
    assert states() == {new: ("primary", 0, "ok"), old: ("decrypt-only", 1, "ok")}
    (moved,) = told("rewrap", "prod")
    assert (moved["rows"], moved["kid"], moved["broken"]) == (1, new, [])
    assert told("verify", "prod") == [{"environment": "prod", "rows": 1, "broken": []}]
    assert states() == {new: ("primary", 1, "ok"), old: ("decrypt-only", 0, "ok")}
    KekCanary.objects.filter(kid=new).update(promoted_at=NOW)  # a minute and more ago
    told("retire", "prod", old)
    assert states() == {new: ("primary", 1, "ok")}
    assert KekCanary.objects.get(kid=old).retired_at is not None
    events = AuditEvent.objects.filter(name__startswith="kek:").order_by("sequence")
    assert [event.name for event in events] == ["kek:added", "kek:promoted", "kek:rewrapped", "kek:retired"]
    assert [describe(event) for event in events] == [
        f"added the KEK {new} to prod (file)",
        f"made {new} the primary KEK of prod",
        f"rewrapped 1 rows of prod under {new}",
        f"retired the KEK {old} of prod",
    ]


def test_what_people_read(furniture: Furniture) -> None:
    furniture.key()
    lines = kek("status").output.splitlines()
    assert [line.split()[0] for line in lines] == ["dev", "staging", "prod", "system"]
    prod = next(line for line in lines if line.startswith("prod"))
    assert prod.split()[2:6] == ["file", "primary", "1", "row(s)"]
    assert prod.endswith("ok")
    assert "prod: 1 of 1 row(s) open" in kek("verify").output


def test_promoting_twice_changes_nothing(furniture: Furniture) -> None:
    kid = fresh_kek()
    count = AuditEvent.objects.count()
    keks.promote(SYSTEM, "prod", kid, now=LATER)
    assert AuditEvent.objects.count() == count


def test_a_kid_that_is_not_held_is_named(furniture: Furniture) -> None:
    dev = keys().keks.primary("dev")
    for verb in (keks.promote, keks.retire):
        with pytest.raises(KeyringError, match=f"no KEK {dev} under prod"):
            verb(SYSTEM, "prod", dev, now=NOW)
    assert "Error: The keyring has no KEK prod-nobody" in kek("promote", "prod", "prod-nobody").output


# Retiring ------------------------------------------------------------------------------------------


def test_a_kek_that_is_needed_is_not_retired(furniture: Furniture) -> None:
    furniture.key()
    old = keys().keks.primary("prod")
    assert "it is the primary of prod" in refused(keks.retire, "prod", old)
    new = fresh_kek()
    assert "1 row(s) need it" in refused(keks.retire, "prod", old)
    rewrap_environment(SYSTEM, "prod", now=NOW)
    assert "less than 60 s ago" in refused(keks.retire, "prod", old, now=NOW + timedelta(seconds=59))
    holder = hold("worker 7", old, new)
    assert "worker 7 still seals under it" in refused(keks.retire, "prod", old)
    holder.delete()
    backup = Backup.objects.create(
        made_at=NOW, expires_at=LATER + timedelta(seconds=1), kids=[old], sequence=1
    )
    assert "a backup that may still be put back needs it" in refused(keks.retire, "prod", old)
    assert not AuditEvent.objects.filter(name="kek:retired").exists()
    Backup.objects.filter(pk=backup.pk).update(expires_at=LATER)
    keks.retire(SYSTEM, "prod", old, now=LATER)
    assert keys().keks.describe()["prod"].kids == (new,)


def test_every_kind_of_row_is_looked_after() -> None:
    """No table of sealed rows is forgotten: whatever has the three columns is in the list."""
    from django.apps import apps

    sealed = {
        model
        for model in apps.get_models()
        for field in model._meta.get_fields()
        if field.name in ("wrapped_dek", "admin_wrapped_dek") and model is not KekCanary
    }
    listed = {table.rows.model for name in ("prod", "system") for table in sealed_rows.tables(name)}
    assert listed == sealed


def test_retiring_goes_on_after_a_crash(furniture: Furniture, monkeypatch: pytest.MonkeyPatch) -> None:
    old = keys().keks.primary("prod")
    fresh_kek()

    def crash(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Keyring, "retire", crash)
        with pytest.raises(SystemExit):
            keks.retire(SYSTEM, "prod", old, now=LATER)
    assert old in keys().keks.describe()["prod"].kids
    keks.retire(SYSTEM, "prod", old, now=LATER)
    assert old not in keys().keks.describe()["prod"].kids
    assert AuditEvent.objects.filter(name="kek:retired").count() == 1


# Who must know a kid -------------------------------------------------------------------------------


def test_a_kid_that_a_live_process_lacks_is_not_promoted(furniture: Furniture) -> None:
    old = keys().keks.primary("prod")
    new = keks.add(SYSTEM, "prod", now=NOW)
    hold("web 1 on a", old, new)
    lacking = hold("web 2 on b", old)
    hold("web 3 on c", old, at=LATER - timedelta(seconds=61))  # not heard of for a minute
    KekHolder.objects.create(
        title="web 4 of dev", held={"dev": {"primary": "dev-1", "kids": ["dev-1"]}}, at=LATER
    )
    assert refused(keks.promote, "prod", new).startswith(f"{new} is not known to: web 2 on b.")
    assert keys().keks.primary("prod") == old
    done = kek("promote", "prod", new, "--wait", "0")
    assert (done.exit_code, keys().keks.primary("prod")) == (0, new), "by the real clock, all have gone"
    lacking.delete()


@pytest.mark.django_db(transaction=True)
def test_a_process_tells_what_it_holds(data_dir: Path, transactional_db: None) -> None:
    furnish()
    reporter = Reporter("web")
    reporter.start()
    try:
        wait_for(KekHolder.objects.exists, "the first report")
        row = KekHolder.objects.get()
        assert row.held["prod"]["kids"] == [keys().keks.primary("prod")]
        assert row.title.startswith("web ")
        kid = Keyring.from_file(data_dir / "keyring.json").add("prod")
        wait_for(lambda: kid in KekHolder.objects.get().held["prod"]["kids"], "the next one")
    finally:
        reporter.stop()
    assert not KekHolder.objects.exists()


def test_processes_that_were_killed_are_forgotten(furniture: Furniture) -> None:
    hold("web 1", "prod-1", at=NOW - timedelta(minutes=20))
    mine = uuid.uuid4()
    kek_holders.report(mine, "web 2", now=NOW)
    kek_holders.report(mine, "web 2", now=NOW)
    assert [row.title for row in KekHolder.objects.all()] == ["web 2"]
    kek_holders.leave(mine)
    assert kek_holders.live(NOW) == []


# Verifying, status ---------------------------------------------------------------------------------


def test_verifying_opens_every_row_and_names_the_broken(furniture: Furniture) -> None:
    versions = [furniture.key().current]
    other = furnish()
    versions.append(other.key().current)
    swapped = [version for version in versions if version is not None]
    assert verify_environment("prod").broken == ()
    first, second = swapped
    with without_guards():
        KeyVersion.objects.filter(pk=first.pk).update(ciphertext=second.ciphertext)
        KeyVersion.objects.filter(pk=second.pk).update(kek_kid="prod-gone")
    result = verify_environment("prod")
    assert result.rows == 2
    assert {(one.id, one.why) for one in result.broken} == {
        (str(first.pk), "integrity"),
        (str(second.pk), "integrity"),  # its signature covers the kid
    }


def test_a_kek_that_rows_need_and_nobody_has_is_shown(furniture: Furniture) -> None:
    furniture.key()
    old = keys().keks.primary("prod")
    new = fresh_kek()
    keys().keks.retire("prod", old)  # by hand, against the rules
    assert states() == {new: ("primary", 0, "ok"), old: ("missing", 1, "not held here")}
    done = kek("status")
    assert done.exit_code == 1
    (line,) = (line for line in done.output.splitlines() if old in line)
    assert line.split()[2:5] == ["missing", "1", "row(s)"]
    assert line.endswith("not held here")


def test_a_kek_that_does_not_open_its_canary_is_named(furniture: Furniture, data_dir: Path) -> None:
    kid = keys().keks.primary("prod")
    assert kid in keks.check_canaries(now=NOW)
    canary = KekCanary.objects.get(kid=kid)
    KekCanary.objects.filter(kid=kid).update(ciphertext=bytes(canary.ciphertext)[:-1] + b"x")
    with pytest.raises(IntegrityError, match=f"The KEK {kid} of prod does not open its canary"):
        installation.prepare()
    assert states()[kid][2] == "does not open its canary"
    kid_2 = keks.add(SYSTEM, "prod", now=NOW)
    keks.promote(SYSTEM, "prod", kid_2, now=NOW)
    with pytest.raises(IntegrityError, match=kid):
        keks.promote(SYSTEM, "prod", kid, now=NOW)


# A process that holds only dev ---------------------------------------------------------------------


@pytest.fixture
def only_dev(data_dir: Path, settings: Any) -> Callable[[], None]:
    """Called, it leaves this process the KEKs of dev only, in its environment."""

    def narrow() -> None:
        document = json.loads((data_dir / "keyring.json").read_text())
        document["environments"] = {"dev": document["environments"]["dev"]}
        settings.KEYTURN_KEYRING_JSON = json.dumps(document)
        settings.KEYTURN_KEYRING = data_dir / "nothing-here.json"

    return narrow


@pytest.mark.django_db(transaction=True)
def test_a_process_with_the_keks_of_dev_serves_dev_and_cannot_open_prod(
    only_dev: Any, transactional_db: None
) -> None:
    furniture = furnish()
    secret = fresh_secret()
    furniture.key("dev", secret)
    prod = furniture.key("prod")
    _, dev_token = furniture.reader("dev")
    _, prod_token = furniture.reader("prod")
    slug = Service.objects.get(pk=furniture.service.pk).slug
    assert ask(prod_token, slug).status == 200

    only_dev()
    installation.prepare()  # what a start does first
    answer = ask(dev_token, slug, "dev")
    assert (answer.status, answer.document["key"]) == (200, secret.expose())
    refusal = ask(prod_token, slug)
    assert (refusal.status, refusal.code) == (503, "key_service_unavailable")
    assert "prod-" not in refusal.text
    assert ask(dev_token, slug).status == 404, "and a token of dev is nobody in prod"
    assert prod.current is not None
    with pytest.raises(Exception, match="no KEK of the environment prod"):
        open_version(prod.current)
    assert {one.environment for one in keks.status(now=LATER)} == {"dev"}
    assert rewrap_environment(SYSTEM, "dev", now=LATER).broken == ()
