"""Sending: mail by Django's SMTP, chat and webhooks by the one way out. Every failure becomes a value."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMessage, get_connection

from keyvault.crypto.envelope import IntegrityError
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.secret import Secret
from rotation import egress
from rotation.drivers.probe import retry_after
from rotation.notice_rows import Channel, Notice
from rotation.notices.kinds import Facts, NoticeKind
from rotation.notices.signing import signature_headers
from rotation.notices.targets import open_target, signing_now
from rotation.notices.texts import Text, digest_of, text_of

# Answers to one notice that trying again cannot mend.
_HOPELESS = frozenset({400, 413, 422})
_GONE = 410
_TEXT_LIMIT = 3500  # characters of one chat message


@dataclass(frozen=True)
class Sent:
    """What became of a try. ``retry_after`` in seconds; ``message`` is ours and safe to show.

    ``off``: the other side wants nothing any more. ``refused``: not this one. ``again``: later.
    """

    outcome: Literal["sent", "again", "refused", "off"]
    message: str = ""
    retry_after: float | None = None


def send(channel: Channel, batch: Sequence[Notice], now: datetime) -> Sent:
    """Send one notice, or several as one message (not to webhooks), all to the same recipient."""
    try:
        if channel.kind == "mail":
            return _mail(channel, batch)
        return _chat(channel, batch) if channel.kind == "chat" else _webhook(channel, batch[0], now)
    except egress.EgressRefused as error:
        return Sent("refused", f"not allowed: {error.message}")
    except egress.EgressError as error:
        return Sent("again", error.message)
    except (IntegrityError, KeyServiceUnavailable, KeyringError):
        return Sent("again", "the address of this channel cannot be opened now")


def words(batch: Sequence[Notice], *, digest_title: str = "Keyturn") -> Text:
    """The text of one notice, or the digest of several."""
    texts = [_text(notice) for notice in batch]
    if len(texts) == 1:
        return texts[0]
    return digest_of(texts, title=f"{digest_title}: {len(texts)} notices")


def _text(notice: Notice) -> Text:
    return text_of(NoticeKind(notice.kind), Facts.from_json(notice.facts), base_url=settings.KEYTURN_URL)


# Mail ----------------------------------------------------------------------------------------------


def _mail(channel: Channel, batch: Sequence[Notice]) -> Sent:
    if not settings.EMAIL_HOST:
        return Sent("again", "mail is not set up: EMAIL_URL is empty")
    text, first = words(batch), batch[0]
    host = urlsplit(settings.KEYTURN_URL).hostname
    message = EmailMessage(
        subject=text.subject,
        body=text.plain,
        to=[first.recipient],
        # The same at every try, so that a mail box can tell a repetition; and nobody's absence answers.
        headers={"Message-ID": f"<{first.id}@{host}>", "Auto-Submitted": "auto-generated"},
    )
    try:
        with get_connection() as connection:
            connection.send_messages([message])
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        return _smtp(max(codes, default=0), "the mail server refuses this recipient")
    except smtplib.SMTPDataError as error:
        return _smtp(error.smtp_code, "the mail server refuses this message")
    except smtplib.SMTPResponseException as error:
        return Sent("again", f"the mail server refuses us ({error.smtp_code})")
    except (smtplib.SMTPException, OSError) as error:
        return Sent("again", f"the mail server does not answer ({type(error).__name__})")
    return Sent("sent")


def _smtp(code: int, said: str) -> Sent:
    return Sent("refused" if code >= 500 else "again", f"{said} ({code})")


# Chat and webhooks ---------------------------------------------------------------------------------


def _chat(channel: Channel, batch: Sequence[Notice]) -> Sent:
    text = words(batch)
    return _post(open_target(channel).url, _json({"text": _plain(f"*{text.subject}*\n{text.plain}")}), {})


def _plain(text: str) -> str:
    """Names come from consumers: none of them may call the whole room or paint a link."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped if len(escaped) <= _TEXT_LIMIT else f"{escaped[:_TEXT_LIMIT]}…"


def _webhook(channel: Channel, notice: Notice, now: datetime) -> Sent:
    target, text = open_target(channel), _text(notice)
    event = {
        "type": notice.kind,
        "timestamp": notice.facts["at"],
        "data": {
            **notice.facts,
            "sequence": notice.sequence,
            "subject": text.subject,
            "advice": text.advice,
            "url": text.url,
        },
    }
    body = _json(event)
    headers = signature_headers(
        signing_now(channel, target, now),
        event_id=f"msg_{notice.id.hex}",
        timestamp=int(now.timestamp()),
        body=body,
    )
    return _post(target.url, body, headers)


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _post(url: Secret, body: bytes, headers: dict[str, str]) -> Sent:
    answer = egress.request(
        "POST",
        url.expose(),
        headers={"Content-Type": "application/json", **headers},
        content=body,
        allow_hosts=frozenset(settings.KEYTURN_EGRESS_ALLOW),
    )
    if 200 <= answer.status < 300:
        return Sent("sent")
    said = f"the other side answers {answer.status}"
    if answer.status == _GONE:
        return Sent("off", f"{said}: it is gone, so the channel was switched off")
    if answer.status in _HOPELESS:
        return Sent("refused", said)
    return Sent("again", said, retry_after(answer.headers))
