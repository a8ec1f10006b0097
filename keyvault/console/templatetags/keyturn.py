"""What the templates need to say times, states and events in one way."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django import template
from django.http import HttpRequest
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from keyvault import clock
from keyvault.console.activity import describe
from keyvault.console.health import Beat, HealthLine, health_lines, is_late, last_beat
from keyvault.domain import State
from keyvault.models import AuditEvent, Environment, KeyVersion

register = template.Library()

_TONES = {
    State.ACTIVE: "good",
    State.DISABLED: "warn",
    State.REVOKED: "",
    State.DESTROYED: "",
    State.REQUESTED: "info",
}


@register.simple_tag
def icon(name: str) -> SafeString:
    """One of ``icons.svg``; it only repeats what the words beside it say."""
    href = f"{static('keyturn/icons.svg')}#{name}"
    return format_html('<svg class="icon" aria-hidden="true"><use href="{}"></use></svg>', href)


def _time(at: datetime | Literal[""] | None, kind: str, missing: str) -> SafeString:
    # A template hands on the empty text for what a missing object does not have.
    if not at:
        return format_html('<span class="soft">{}</span>', missing)
    at = at.astimezone(UTC)
    return format_html(
        '<time datetime="{}" data-time="{}" title="{} UTC">{}</time>',
        at.isoformat(),
        kind,
        f"{at:%Y-%m-%d %H:%M:%S}",
        f"{at.astimezone(timezone.get_current_timezone()):%Y-%m-%d %H:%M:%S %Z}",
    )


@register.filter
def ago(at: datetime | None, missing: str = "never") -> SafeString:
    """A moment as distance from now ("3 min ago"); with its date until the script has run."""
    return _time(at, "ago", missing)


@register.filter
def age(at: datetime | None) -> SafeString:
    """How old something of that moment is ("40 d")."""
    return _time(at, "age", "–")


@register.filter
def moment(at: datetime | None, missing: str = "never") -> SafeString:
    """A moment with its date, in the reader's time zone."""
    return _time(at, "full", missing)


@register.simple_tag
def updated() -> SafeString:
    """When this page was made; the script moves it on with every answer to its polling."""
    return format_html('<p class="soft small" data-updated>Updated {}</p>', _time(clock.now(), "ago", ""))


@register.simple_tag
def zone() -> SafeString:
    """For the script: in which time zone the page tells times, if that is known."""
    name = timezone.get_current_timezone_name()
    return SafeString("") if name == "UTC" else format_html(' data-zone="{}"', name)


@register.filter
def span(length: timedelta | float | None) -> str:
    """A duration in the two units that matter: ``1 d 4 h``, ``12 min``, ``30 s``. Numbers are seconds."""
    if length is None:
        return "–"
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    parts = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            parts.append(f"{seconds // size} {unit}")
            seconds %= size
    return " ".join(parts[:2]) or "0 s"


@register.filter
def percent(value: float | None) -> str:
    """A share in per cent, or a dash where nothing is known."""
    return "–" if value is None else f"{value:g} %"


@register.simple_tag
def badge(text: str, tone: str = "") -> SafeString:
    """A state in words; the colour only repeats it."""
    return format_html('<span class="badge {}">{}</span>', tone, text)


@register.simple_tag
def state_badge(version: KeyVersion) -> SafeString:
    """The state of a version, and that it is compromised or withheld where it is."""
    shown = format_html('<span class="badge {}">{}</span>', _TONES[State(version.state)], version.state)
    if version.withheld_at is not None and version.state == State.ACTIVE:
        shown = format_html('{} <span class="badge warn">withheld</span>', shown)
    if version.compromised_at is not None:
        shown = format_html('{} <span class="badge bad">compromised</span>', shown)
    return shown


@register.simple_tag
def env_tag(environment: Environment) -> SafeString:
    """The environment's tag; a protected one says so to screen readers too."""
    if not environment.protected:
        return format_html('<span class="env">{}</span>', environment.slug)
    return format_html(
        '<span class="env protected" title="Protected environment">{}<span class="visually-hidden">'
        " (protected)</span></span>",
        environment.slug,
    )


@register.simple_tag(takes_context=True)
def here(context: template.Context, prefix: str) -> SafeString | str:
    """``aria-current`` for the menu entry that the page belongs to."""
    request: HttpRequest = context["request"]
    current = request.path == "/" if prefix == "/" else request.path.startswith(prefix)
    return format_html('aria-current="{}"', "page" if request.path == prefix else "true") if current else ""


def _beat(context: template.Context) -> Beat:
    """Asked for once a page."""
    request: HttpRequest = context["request"]
    if not hasattr(request, "keyturn_beat"):
        request.keyturn_beat = last_beat()  # type: ignore[attr-defined]
    found: Beat = request.keyturn_beat  # type: ignore[attr-defined]
    return found


@register.inclusion_tag("partials/health.html", takes_context=True)
def health_strip(context: template.Context) -> dict[str, Iterable[HealthLine]]:
    return {"lines": health_lines(clock.now(), _beat(context))}


@register.inclusion_tag("partials/late.html", takes_context=True)
def late_banner(context: template.Context) -> dict[str, Any]:
    """On every page: that the scheduler does not run, because then nothing goes on by itself, and that a
    restored database is in quarantine."""
    beat = _beat(context)
    return {"late": is_late(clock.now(), beat.at), "beat": beat, "at": beat.at}


@register.filter
def sentence(event: AuditEvent) -> str:
    """What an audit event says, for people."""
    return describe(event)
