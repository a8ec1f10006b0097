"""What the tests of notices share: a house with channels, and sending all that is due."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.crypto.secret import Secret
from keyvault.models import User
from rotation import engine
from rotation.models import Rotation
from rotation.notice_rows import Channel, Notice
from rotation.notices import delivering
from rotation.services import channels, notifying
from tests.integration.console import House, build
from tests.integration.receivers import MailServer, WebReceiver, mail_server, web_receiver

# A Monday in summer, so that zones differ from UTC.
NOW = datetime(2026, 7, 6, 9, 0, tzinfo=UTC)


@dataclass
class Telling:
    """A house whose notices go to receivers on this machine; the clock moves when told."""

    house: House
    web: WebReceiver
    mail: MailServer
    now: datetime = NOW
    secrets: dict[str, Secret] = field(default_factory=dict)

    def channel(
        self, slug: str, kind: str = "webhook", *, own: bool = True, url: str = "", **fields: Any
    ) -> Channel:
        """A channel of the team (``own``) or of the organisation."""
        address = Secret(url or self.web.url) if kind != "mail" else None
        made = channels.create_channel(
            SYSTEM,
            slug=slug,
            team=self.house.team if own else None,
            kind=kind,
            url=address,
            fields=fields,
            now=self.now,
        )
        if made.secret is not None:
            self.secrets[slug] = made.secret
        return made.channel

    def event(self, rotation: Rotation, name: str, *, actor: Actor = SYSTEM, **details: Any) -> None:
        """A line of the timeline, as the engine writes it."""
        reason = details.pop("reason", "because of a test")
        locked = engine.lock(rotation.id)
        engine.event(locked, name, reason=reason, now=self.now, actor=actor, **details)
        locked.save()

    def attention(self, rotation: Rotation, code: str = "quota_full") -> None:
        Rotation.objects.filter(pk=rotation.pk).update(
            attention=code, attention_reason="the provider allows no further key", attention_verbs=["resume"]
        )
        self.event(rotation, "attention", code=code)

    def send(self) -> int:
        """What workers do: send until nothing is due. Returns the tries."""
        return notifying.deliver_due(lambda: self.now)

    def tick(self, **later: float) -> list[uuid.UUID]:
        self.now += timedelta(**later)
        rung: list[uuid.UUID] = []
        notifying.tick(self.now, ring=rung.append)
        self.send()
        return rung

    def kinds(self, channel: Channel) -> list[str]:
        return list(channel.notices.values_list("kind", flat=True))

    def try_once(self, channel: Channel) -> bool:
        return delivering.step(channel.id, self.now)


def notice(channel: Channel) -> Notice:
    return Notice.objects.get(channel=channel)


def give_mail(**addresses: str) -> None:
    for username, address in addresses.items():
        User.objects.filter(username=username).update(email=address)


def person(username: str) -> Actor:
    return actor_for(User.objects.get(username=username))


@contextmanager
def telling(settings: Any) -> Iterator[Telling]:
    with web_receiver() as web, mail_server() as mail:
        settings.KEYTURN_EGRESS_ALLOW = frozenset({web.host_port, "127.0.0.1:9"})
        settings.KEYTURN_URL = "https://keys.example.org"
        # Django's test runner keeps mail in memory; here it goes out.
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", mail.port
        settings.DEFAULT_FROM_EMAIL = "keyturn@keys.example.org"
        yield Telling(build(NOW), web, mail)
