"""No secret is ever in a notice; and what the documentation says about signatures works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvault.actors import SYSTEM
from keyvault.crypto.tokens import TokenKind, mint
from keyvault.keystore import open_version
from keyvault.models import AuditEvent, Environment, KeyVersion
from rotation import operations
from rotation.models import Operation
from rotation.notice_rows import Notice
from rotation.services import adding, channels, emergencies, starting, verbs
from tests.integration.telling import Telling, give_mail, person, telling

pytestmark = pytest.mark.django_db

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "notifications.md"
TYPED = "pasted-by-mistake-Kq82nVx1"


@pytest.fixture
def t(settings: Any) -> Iterator[Telling]:
    with telling(settings) as built:
        yield built


def work(t: Telling) -> None:
    """Every operation that is due, and the engine after each."""
    while operation := Operation.objects.filter(state="pending", retry_at__lte=t.now).first():
        operations.perform(operation.id, t.now, ring=lambda _: None)


def test_no_notice_holds_a_secret_nor_what_people_typed(t: Telling) -> None:
    give_mail(otto="otto@example.org", lena="lena@example.org", ada="ada@example.org")
    issued = mint(TokenKind.ISSUED, "staging")
    staging = Environment.objects.get(slug="staging")
    key = adding.add_key(SYSTEM, t.house.service, staging, secret=issued, now=t.now).key
    t.channel("hook")
    t.channel("room", "chat")
    t.channel("post", "mail")
    t.channel("security", "mail", level="security", own=False)
    rotation = starting.start(
        person("otto"), key, reason=TYPED, trigger="api", now=t.now, ring=lambda _: None
    )
    work(t)
    t.tick()
    verbs.abort(person("lena"), rotation.id, reason=TYPED, now=t.now, ring=lambda _: None)
    work(t)
    t.tick()
    emergencies.emergency(person("lena"), key, mode="replace", reason=TYPED, now=t.now, ring=lambda _: None)
    work(t)
    t.tick()
    kinds = set(Notice.objects.values_list("kind", flat=True))
    assert kinds >= {"rotation.started", "rotation.rolled_back", "rotation.emergency"}
    assert not Notice.objects.exclude(state="sent").exists()
    versions = KeyVersion.objects.filter(ciphertext__isnull=False).select_related(
        "key__service", "key__environment"
    )
    secrets = {TYPED, "T0Secret7391", *(open_version(version).expose() for version in versions)}
    secrets |= {secret.expose() for secret in t.secrets.values()}
    assert len(secrets) >= 6
    sent = "\n".join(posted.body.decode() + str(posted.headers) for posted in t.web.posted)
    kept = "\n".join(str(row) for row in Notice.objects.values())
    told = "\n".join(str(event.details) for event in AuditEvent.objects.filter(name__startswith="channel:"))
    for place, text in {"sent": sent, "mail": t.mail.everything, "rows": kept, "audit": told}.items():
        assert text
        assert [secret for secret in secrets if secret in text] == [], place


def documented() -> Callable[[str, dict[str, str], bytes, float], bool]:
    [block] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    found: Callable[[str, dict[str, str], bytes, float], bool] = names["verify"]
    return found


def test_the_documented_way_to_verify_works(t: Telling) -> None:
    verify, now = documented(), t.now.timestamp()
    channel = t.channel("hook")
    old = t.secrets["hook"].expose()
    made = channels.rotate_secret(SYSTEM, channel, grace=channels.GRACE, now=t.now)
    assert made.secret is not None
    t.house.start()
    t.send()
    [posted] = t.web.posted
    for secret in (old, made.secret.expose()):
        assert verify(secret, posted.headers, posted.body, now)
        assert not verify(secret, posted.headers, posted.body + b" ", now)
        assert not verify(secret, posted.headers, posted.body, now + 301)
        assert not verify(secret, {**posted.headers, "webhook-id": "msg_other"}, posted.body, now)
    assert not verify("whsec_AAAA", posted.headers, posted.body, now)


def test_every_type_of_notice_is_documented() -> None:
    from rotation.notices.kinds import NoticeKind

    text = DOCUMENT.read_text("utf-8")
    assert [kind.value for kind in NoticeKind if f"`{kind.value}`" not in text] == ["keyturn.test"]
