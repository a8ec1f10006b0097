"""What browsers and strangers meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.views.debug import get_default_exception_reporter_filter

_YEAR: Final = 31_536_000
_SHORTEST: Final = 8
_SECRETS: Final = ("SECRET_KEY", "KEYTURN_KEYRING_JSON", "EMAIL_HOST_PASSWORD")


def debug_is_off(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    if not settings.DEBUG:
        return []
    return [
        Error(
            "DEBUG is on: error pages show code, settings and requests to everybody.",
            hint="Leave KEYTURN_DEBUG out of the environment.",
            id="keyvault.E001",
        )
    ]


def browsers_are_protected(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """https, cookies that only this host gets, and a policy without inline code."""
    return [Error(text, hint=hint, id="keyvault.E007") for sound, text, hint in _browser_rules() if not sound]


def _browser_rules() -> Iterator[tuple[bool, str, str]]:
    https = "Set KEYTURN_URL to the https address; everything else follows from it."
    built_in = "This is decided in keyvault/project/settings.py: take the change back."
    yield settings.KEYTURN_URL.startswith("https://"), "KEYTURN_URL is not https.", https
    yield (
        settings.SECURE_HSTS_SECONDS >= _YEAR,
        "Browsers are told to stay on https for less than a year.",
        https,
    )
    for name in ("SESSION", "CSRF"):
        cookie = str(getattr(settings, f"{name}_COOKIE_NAME"))
        yield cookie.startswith("__Host-"), f"The cookie {cookie} may come from another host.", https
        yield getattr(settings, f"{name}_COOKIE_SECURE"), f"The cookie {cookie} travels without TLS.", https
        yield getattr(settings, f"{name}_COOKIE_HTTPONLY"), f"Scripts can read the cookie {cookie}.", built_in
        same = getattr(settings, f"{name}_COOKIE_SAMESITE") in ("Lax", "Strict")
        yield same, f"Other sites make browsers send the cookie {cookie}.", built_in
    yield settings.SECURE_CONTENT_TYPE_NOSNIFF, "Browsers may guess the type of an answer.", built_in
    yield settings.X_FRAME_OPTIONS == "DENY", "Other sites may show our pages in a frame.", built_in
    policy = str(settings.CONTENT_SECURITY_POLICY)
    yield (
        "unsafe" not in policy and "default-src" in policy,
        "The content policy lets inline code run.",
        built_in,
    )
    trusted = settings.SECURE_PROXY_SSL_HEADER is None
    yield trusted, "SECURE_PROXY_SSL_HEADER believes every caller.", "Use KEYTURN_TRUSTED_PROXIES instead."


def hosts_are_named(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    wide = [host for host in settings.ALLOWED_HOSTS if "*" in host or host.startswith(".")]
    if not wide:
        return []
    return [
        Error(
            "ALLOWED_HOSTS takes names that nobody listed.",
            hint="Name each host that is answered, or leave it out: then it is that of KEYTURN_URL.",
            id="keyvault.E008",
        )
    ]


def leads_have_a_second_factor(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    if settings.KEYTURN_REQUIRE_MFA:
        return []
    return [
        Warning(
            "Leads and administrators may sign in without a second factor.",
            hint="Set KEYTURN_REQUIRE_MFA=true. A stolen password is enough to reveal keys until then.",
            id="keyvault.W019",
        )
    ]


def reports_hide_secrets(app_configs: object, **kwargs: Any) -> list[CheckMessage]:
    """Every setting, as an error report shows it, looked through for the secrets that are in force."""
    shown = get_default_exception_reporter_filter().get_safe_settings()
    told = sorted(
        name for name, value in shown.items() if any(secret in _flat(value) for secret in _secrets_in_force())
    )
    if not told:
        return []
    return [
        Error(
            f"Error reports would show secrets: {', '.join(told)}.",
            hint="Set DEFAULT_EXCEPTION_REPORTER_FILTER to keyvault.project.reports.ReportFilter, and give a"
            " setting of yours that holds a secret a name that ends in _KEY, _SECRET or _URL.",
            id="keyvault.E020",
        )
    ]


def _secrets_in_force() -> set[str]:
    found = {str(getattr(settings, name, "")) for name in _SECRETS}
    for name in dir(settings):
        if name.isupper():
            found |= {
                password for text in _texts(getattr(settings, name)) if (password := _password_in(text))
            }
    for database in settings.DATABASES.values():
        found.add(str(database.get("PASSWORD") or ""))
    for app in settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]["APPS"]:
        found.add(app["secret"])
    # A short word stands everywhere by chance.
    return {secret for secret in found if len(secret) >= _SHORTEST}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _password_in(text: str) -> str:
    """The password of an address; empty where there is none."""
    try:
        return urlsplit(text).password or "" if "://" in text else ""
    except ValueError:
        return ""


def _flat(value: object) -> str:
    return "\0".join(_texts(value)) if not isinstance(value, str) else value
