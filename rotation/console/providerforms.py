"""What people type about providers. A form only turns text into columns; the rules are in the services."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from typing import Any

from django import forms

from keyvault.actors import Actor
from keyvault.console.forms import SecretField, slug_field
from keyvault.durations import parse_duration
from keyvault.exceptions import KeyturnError
from keyvault.models import Key, Provider
from keyvault.strict_json import parse_object
from rotation.console.policyforms import meant, told
from rotation.drivers import DRIVERS

LONGEST = timedelta(days=30)
_PLAIN = {"class": "mono", "autocomplete": "off"}
# A field of the services under the name that it has here.
_FIELDS = {
    "auth.header": "auth_header",
    "auth.scheme": "auth_scheme",
    "driver_config.admin_secret": "admin_secret",
    "max_job_age_seconds": "max_job_age",
    "derived_token_seconds": "derived_token_life",
}


_DRIVERS = {
    "manual": "people make and revoke keys on its page",
    "http": "its management API does it",
    "generated": "Keyturn issues the keys itself",
}
_PLAIN_COLUMNS = (
    "name", "base_url", "auth_header", "auth_scheme", "driver", "key_affine", "max_keys", "dashboard_url",
)  # fmt: skip


class ObjectField(forms.CharField):
    """A JSON object, or nothing where it is not required."""

    def __init__(self, label: str, help_text: str, *, rows: int) -> None:
        widget = forms.Textarea(attrs={**_PLAIN, "rows": rows, "spellcheck": "false"})
        super().__init__(label=label, max_length=16_000, required=False, help_text=help_text, widget=widget)

    def clean(self, value: Any) -> dict[str, Any] | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            found = parse_object(text.encode("utf-8", "surrogatepass"))
        except KeyturnError as error:
            raise forms.ValidationError(error.message) from error
        if not _storable(found):
            raise forms.ValidationError("It has a character or a number that cannot be stored.")
        return found


def _storable(value: object) -> bool:
    if isinstance(value, dict):
        return all(_storable(name) and _storable(member) for name, member in value.items())
    if isinstance(value, list):
        return all(_storable(member) for member in value)
    if isinstance(value, str):
        return "\x00" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    return not isinstance(value, float) or math.isfinite(value)


class LengthField(forms.CharField):
    """``1 h 30 min`` or ISO 8601, as whole seconds."""

    def __init__(self, label: str, help_text: str) -> None:
        super().__init__(
            label=label, max_length=40, help_text=help_text, widget=forms.TextInput(attrs=_PLAIN)
        )

    def clean(self, value: Any) -> int:
        text = super().clean(value)
        try:
            length = parse_duration(meant(text))
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        if length > LONGEST:
            raise forms.ValidationError("Use at most 30 days.")
        return int(length.total_seconds())


class ProviderForm(forms.Form):
    """What may be changed. The credential of its management API is never sent back to the browser."""

    name = forms.CharField(label="What people call it", max_length=120)
    base_url = forms.CharField(
        label="Base URL",
        max_length=500,
        required=False,
        help_text="Such as https://api.example.com. Keys are sent there and nowhere else.",
        widget=forms.TextInput(attrs={**_PLAIN, "inputmode": "url"}),
    )
    auth_header = forms.CharField(
        label="Header that carries the key", max_length=64, widget=forms.TextInput(attrs=_PLAIN)
    )
    auth_scheme = forms.CharField(
        label="Scheme before the key",
        max_length=32,
        required=False,
        help_text="Such as Bearer or Token. Empty: the key alone.",
        widget=forms.TextInput(attrs=_PLAIN),
    )
    probe = ObjectField(
        "Probe",
        "The request that proves a key: method, path, headers, body, accepted and rejected statuses. "
        "Empty: people verify keys by hand.",
        rows=8,
    )
    errors_shape = forms.ChoiceField(
        label="Errors look like",
        choices=[
            ("nested", 'nested: {"error": {"code": …, "message": …}}'),
            ("flat", 'flat: {"error": …, "message": …}'),
        ],
        widget=forms.RadioSelect,
    )
    driver = forms.ChoiceField(
        choices=[(kind, f"{kind}: {_DRIVERS.get(kind, kind)}") for kind in sorted(DRIVERS)],
        widget=forms.RadioSelect,
    )
    driver_config = ObjectField(
        "Driver configuration", "Of the driver http: issue, revoke, disable, enable, list.", rows=10
    )
    admin_secret = SecretField(
        label="Credential of its management API",
        required=False,
        help_text="Sealed, and never shown again. Empty keeps the one that is there.",
    )
    key_affine = forms.BooleanField(label="A job belongs to the key that opened it", required=False)
    max_job_age = LengthField("Longest life of a job", "Such as 1 h.")
    max_keys = forms.IntegerField(
        label="Keys that it allows at once", required=False, min_value=1, max_value=1000,
        help_text="Empty: not known.",
    )  # fmt: skip
    derived_token_life = LengthField("Longest life of a token minted from a key", "0 s: it mints none.")
    dashboard_url = forms.CharField(
        label="Page on which people make keys", max_length=500, required=False,
        widget=forms.TextInput(attrs={**_PLAIN, "inputmode": "url"}),
    )  # fmt: skip

    def columns(self) -> dict[str, Any]:
        data = self.cleaned_data
        return {
            **{name: data[name] for name in _PLAIN_COLUMNS},
            "probe": data["probe"],
            "errors": data["errors_shape"],
            "driver_config": data["driver_config"] or {},
            "max_job_age_seconds": data["max_job_age"],
            "derived_token_seconds": data["derived_token_life"],
        }

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if not name.isprintable():
            raise forms.ValidationError("Use one line without control characters.")
        return name

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "admin_secret" in (cleaned.get("driver_config") or {}):
            # It would be stored as it is, and shown to everybody.
            self.add_error("driver_config", "Put the credential into its own field, not in here.")
        return cleaned

    def refuse(self, error: KeyturnError) -> None:
        for name, texts in error.fields.items():
            field = _FIELDS.get(name, "errors_shape" if name == "errors" else name)
            for text in texts:
                self.add_error(field if field in self.fields else None, text)
        if not error.fields:
            self.add_error(None, error.message)

    @staticmethod
    def values(provider: Provider) -> dict[str, Any]:
        """What the form shows of a provider that is there."""
        return {
            **{name: getattr(provider, name) for name in _PLAIN_COLUMNS},
            "errors_shape": provider.errors,
            "probe": json.dumps(provider.probe, indent=2) if provider.probe else "",
            "driver_config": json.dumps(provider.driver_config, indent=2) if provider.driver_config else "",
            "max_job_age": told(timedelta(seconds=provider.max_job_age_seconds)),
            "derived_token_life": told(timedelta(seconds=provider.derived_token_seconds)),
        }


class NewProviderForm(ProviderForm):
    slug = slug_field("Name in URLs", "maker")
    field_order = ["slug"]


class TryForm(forms.Form):
    """With which key the probe is sent."""

    key = forms.ModelChoiceField(
        Key.objects.none(),
        label="With",
        required=False,
        empty_label="a made-up key, which it must refuse",
    )

    def __init__(self, *args: Any, provider: Provider, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keys = Key.objects.for_actor(actor).filter(service__provider=provider, current__isnull=False)
        if not actor.is_admin:
            keys = keys.filter(service__team_id__in=[t for t in actor.team_ids if actor.may("operate", t)])
        field = self.fields["key"]
        field.queryset = keys.select_related("service", "environment", "current").order_by(  # type: ignore[attr-defined]
            "service__slug", "environment__position"
        )
        field.label_from_instance = lambda key: f"the current key of {key}, v{key.current.number}"  # type: ignore[attr-defined]
