"""Whatever people and programs call things, it is shown as text: nothing of it runs, and nothing bursts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyvault import clock
from keyvault.actors import SYSTEM
from keyvault.domain import Role
from keyvault.models import Delivery, Key, LastDelivery, Provider, Team
from keyvault.services import catalogue, consumers, people
from rotation.models import Rotation
from rotation.services import starting, verbs
from tests.browser.conftest import Visit
from tests.browser.furniture import Scene, plain_key
from tests.browser.looking import LOOKS, look, too_wide

HOSTILE = (
    "<script>window.pwned=1</script>",
    '"><img src=x onerror=window.pwned=1>',
    "'><svg/onload=window.pwned=1>",
    "</title><script>window.pwned=1</script>",
    "--><script>window.pwned=1</script><!--",
    "</textarea><script>window.pwned=1</script>",
    "<style>*{display:none}</style>",
    "<a href=//elsewhere.example>click</a>",
    "<iframe src=/></iframe>",
    "<base href=//elsewhere.example>",
    "<form action=//elsewhere.example><button>x",
    "javascript:window.pwned=1",
    "{{7*7}}",
    "{% debug %}",
    "${7*7}",
    "&lt;b&gt; &amp;amp;",
    "\\u003cscript\\u003e",
    "]]><x/>",
    "null",
    "undefined",
    "[object Object]",
    "Robert'); DROP TABLE keyvault_key;--",
    "../../etc/passwd",
    "%00%0d%0aSet-Cookie: a=b",
    '=HYPERLINK("//elsewhere.example")',
    "@SUM(1+1)",
    "\u202egnp.exe",
    "zero\u200bwidth\u2060joined",
    "🔑🔒 ключ 鍵 مفتاح",
    "W" * 110,
)
SERVICE = "hostile"


@pytest.fixture
def called(house: dict[str, Scene]) -> Rotation:
    """A key around which everything that can be named freely is named so."""
    now = clock.now()
    for n, name in enumerate(HOSTILE):
        team = people.create_team(SYSTEM, slug=f"hostile-{n}", name=name, now=now)
        people.set_member(SYSTEM, team, username="lena", role=Role.LEAD, now=now)
    team = Team.objects.get(slug="hostile-0")
    provider = Provider.objects.get(slug="internal")
    service = catalogue.create_service(
        SYSTEM, slug=SERVICE, team=team, provider=provider, description=HOSTILE[0], now=now
    )
    key = plain_key(service, "dev", "made-up-hostile-b7Xq2Lm9Zk", now=now - timedelta(days=1))
    consumer = consumers.create_consumer(SYSTEM, slug=SERVICE, team=team, now=now)
    token, _ = consumers.create_token(SYSTEM, consumer, key.environment, expires_at=None, now=now)
    key = Key.objects.select_related("current", "service").get(pk=key.pk)
    assert key.current is not None
    for name in HOSTILE:
        Delivery.objects.create(
            at=now, key=key, version=key.current, consumer=consumer, token=token, instance=name,
            label="current", credential="consumer_token", status=200, request_id="hostile",
        )  # fmt: skip
        LastDelivery.objects.create(
            key=key, version=key.current, consumer=consumer, instance=name, last_at=now
        )
    rotation = starting.start(SYSTEM, key, reason=HOSTILE[0], now=now, ring=lambda _: None)
    for n, name in enumerate(HOSTILE):
        verb = verbs.resume if n % 2 else verbs.pause
        verb(SYSTEM, rotation.id, reason=name, now=now, ring=lambda _: None)
    return rotation


def test_hostile_names_are_text_wherever_they_are_shown(called: Rotation, visit: Visit) -> None:
    visitor = visit("lena")
    page = visitor.page
    page.on("dialog", lambda dialog: visitor.complaints.append(f"dialog: {dialog.message}"))
    missing, wide = [], []
    whole = (f"/rotations/{called.id}/", f"/keys/{SERVICE}/dev/", f"/consumers/{SERVICE}/", "/teams/")
    for path in (*whole, "/audit/", "/", "/matrix/", "/keys/", "/services/new/", "/search/?q=hostile"):
        visitor.open(path)
        shown = page.evaluate("document.body.textContent")
        if path in whole:
            missing += [f"{path}: {name!r}" for name in HOSTILE if name not in shown]
        for scheme, width in LOOKS:
            look(page, scheme, width)
            wide += [f"{path} at {width} px: {found}" for found in too_wide(page)]
        assert page.evaluate("window.pwned") is None, path
        assert page.locator("iframe, base, main a[href*=elsewhere], form[action*=elsewhere]").count() == 0
    assert not missing, "\n".join(missing)
    assert not wide, "\n".join(wide)
