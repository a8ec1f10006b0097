"""Strict input: what is not exactly of the documented form is refused, never repaired or converted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from keyvault.api.errors import UNKNOWN_FIELD, WHOLE
from keyvault.api.throttling import RATE, parse_rate
from keyvault.crypto.intake import MAX_SECRET_BYTES, SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from keyvault.durations import format_duration, parse_duration
from keyvault.models.base import SLUG

_SLUG: Final = re.compile(SLUG)
# A name of ours holds none but these; anything else that was sent as a name is not repeated.
_PLAIN_NAME: Final = re.compile(r"[A-Za-z_-]{1,40}")
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
# Control, invisible and direction-changing characters, halves of pairs, private use, line ends.
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

UNKNOWN_MESSAGE: Final = "This field is not known here."
_NOT_TEXT: Final = "Use a text."


def public_name(name: object) -> str:
    """The name of a field that somebody sent, if it may be repeated in an answer; else ``body``."""
    return name if isinstance(name, str) and _PLAIN_NAME.fullmatch(name) else "body"


# A JSON object with the declared fields and no others. (A docstring would describe every request.)
class StrictSerializer(serializers.Serializer[Any]):
    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise serializers.ValidationError({WHOLE: ["Send a JSON object."]})
        known = {name for name, field in self.fields.items() if not field.read_only}
        strange = {
            public_name(name): [ErrorDetail(UNKNOWN_MESSAGE, code=UNKNOWN_FIELD)]
            for name in data
            if name not in known
        }
        if strange:
            raise serializers.ValidationError(strange)
        found: dict[str, Any] = super().to_internal_value(data)
        return found


class StrictCharField(serializers.CharField):
    """A JSON string as it came: no number becomes a text, nothing is trimmed."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("max_length", 500)
        kwargs["trim_whitespace"] = False
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise serializers.ValidationError(_NOT_TEXT)
        return data


class TextField(StrictCharField):
    """Text for people: printable, composed (NFC), one line, without characters that hide or turn others."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if any(unicodedata.category(char) in _UNPRINTABLE for char in text):
            raise serializers.ValidationError("Use printable characters only, on one line.")
        if not unicodedata.is_normalized("NFC", text):
            raise serializers.ValidationError("Use composed characters (Unicode NFC).")
        if text != text.strip():
            raise serializers.ValidationError("Remove the white space around it.")
        return text


@extend_schema_field({"type": "string", "pattern": rf"^{SLUG}$", "maxLength": 63})
class SlugField(StrictCharField):
    """The name of a thing in URLs: lower-case letters, digits and dashes, at most 63."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if not _SLUG.fullmatch(text):
            raise serializers.ValidationError("Use lower-case letters, digits and dashes (at most 63).")
        return text


class StrictIntegerField(serializers.IntegerField):
    """A JSON integer: neither "60" nor true nor 60.0."""

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise serializers.ValidationError("Use a whole number.")
        return data


class StrictFloatField(serializers.FloatField):
    """A JSON number: neither "0.5" nor true."""

    def to_internal_value(self, data: Any) -> float:
        if type(data) not in (int, float):
            raise serializers.ValidationError("Use a number.")
        return float(data)


class StrictBooleanField(serializers.BooleanField):
    """``true`` or ``false``."""

    def to_internal_value(self, data: Any) -> bool:
        if type(data) is not bool:
            raise serializers.ValidationError("Use true or false.")
        return data


class StrictChoiceField(serializers.ChoiceField):
    """One of a few texts."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or data not in self.choices:
            raise serializers.ValidationError(f"Use one of: {', '.join(map(str, self.choices))}.")
        return data


@extend_schema_field({"type": "string", "format": "duration", "pattern": "^P", "examples": ["PT10M", "P90D"]})
class DurationField(serializers.Field[timedelta, Any, str, Any]):
    """An ISO 8601 duration; ``minimum`` is the shortest one allowed."""

    def __init__(self, *, minimum: timedelta = timedelta(0), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum = minimum

    def to_internal_value(self, data: Any) -> timedelta:
        try:
            length = parse_duration(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
        if length < self.minimum:
            raise serializers.ValidationError(f"Use at least {format_duration(self.minimum)}.")
        return length

    def to_representation(self, value: timedelta) -> str:
        return format_duration(value)


@extend_schema_field({"type": "string", "format": "date-time"})
class TimeField(serializers.Field[datetime, Any, str, Any]):
    """An instant in ISO 8601 with its zone."""

    def to_internal_value(self, data: Any) -> datetime:
        try:
            if not isinstance(data, str) or not _TIME.fullmatch(data):
                raise ValueError
            return datetime.fromisoformat(data)
        except ValueError:
            raise serializers.ValidationError(
                "Use a time with its zone, such as 2026-01-31T12:00:00Z."
            ) from None

    def to_representation(self, value: datetime) -> str:
        return value.isoformat().replace("+00:00", "Z")


@extend_schema_field({"type": "string", "pattern": f"^{RATE.pattern.replace('?P<count>', '')}$"})
class RateField(serializers.Field[int, Any, str, Any]):
    """Requests per minute, written ``600/min``."""

    def to_internal_value(self, data: Any) -> int:
        try:
            return parse_rate(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def to_representation(self, value: int) -> str:
        return f"{value}/min"


@extend_schema_field({"type": "string", "minLength": 1, "maxLength": MAX_SECRET_BYTES, "writeOnly": True})
class SecretField(serializers.Field[Secret, Any, str, Any]):
    """A provider's key, taken as it is or refused with the reason. It never comes back."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["write_only"] = True
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> Secret:
        try:
            return check_secret(data)
        except SecretRefused as refused:
            raise serializers.ValidationError(refused.message) from None


@extend_schema_field({"type": "object", "additionalProperties": True})
class ObjectField(serializers.Field[dict[str, Any], Any, dict[str, Any], Any]):
    """A JSON object that the view checks further."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError("Use an object.")
        return dict(data)

    def to_representation(self, value: dict[str, Any]) -> dict[str, Any]:
        return value


@extend_schema_field({"type": "string", "pattern": "^[0-9]{1,3}$"})
class QueryIntegerField(serializers.Field[int, Any, int, Any]):
    """A whole number in a query string, between two bounds."""

    def __init__(self, *, low: int, high: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.low, self.high = low, high

    def to_internal_value(self, data: Any) -> int:
        plain = isinstance(data, str) and len(data) <= 9 and data.isascii() and data.isdecimal()
        if not plain or not self.low <= int(data) <= self.high:
            raise serializers.ValidationError(f"Use a whole number from {self.low} to {self.high}.")
        return int(data)


class NoBodySerializer(StrictSerializer):
    """An empty object, or no body at all."""


class ReasonSerializer(StrictSerializer):
    reason = TextField(min_length=1, max_length=500)
