"""Providers: read by everybody, written by administrators."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from keyvault.api.base import ManagementView, documented, visible
from keyvault.api.idempotency import idempotent
from keyvault.api.pagination import PageQuery, paginate
from keyvault.api.serializers import (
    DurationField,
    ObjectField,
    SlugField,
    StrictBooleanField,
    StrictCharField,
    StrictChoiceField,
    StrictIntegerField,
    StrictSerializer,
    TextField,
    TimeField,
)
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from keyvault.exceptions import invalid
from keyvault.models import Provider
from rotation.drivers import DRIVERS
from rotation.services import providers

KINDS = sorted(DRIVERS)
SHAPES = ["nested", "flat"]
_DAY = timedelta(days=1)


class AuthSerializer(StrictSerializer):
    """How the provider takes its key: ``<header>: [<scheme> ]<key>``."""

    header = StrictCharField(max_length=64)
    scheme = StrictCharField(required=False, allow_blank=True, max_length=32)


class ProviderFieldsSerializer(StrictSerializer):
    name = TextField(required=False, min_length=1, max_length=120)
    base_url = StrictCharField(required=False, allow_blank=True, max_length=500)
    auth = AuthSerializer(required=False)
    driver = StrictChoiceField(required=False, choices=KINDS)
    driver_config = ObjectField(
        required=False,
        help_text="`admin_secret` in it is sealed, and never shown again; left out, it is kept.",
    )
    probe = ObjectField(
        required=False, allow_null=True, help_text="method, path, headers, body, accepted, rejected"
    )
    errors = StrictChoiceField(required=False, choices=SHAPES)  # type: ignore[assignment]
    key_affine = StrictBooleanField(required=False, help_text="Jobs belong to the key that opened them.")
    max_job_age = DurationField(required=False, minimum=timedelta(seconds=1))
    max_keys = StrictIntegerField(required=False, allow_null=True, min_value=1, max_value=1000)
    derived_token_life = DurationField(required=False, help_text="Longest life of a token minted from a key.")
    dashboard_url = StrictCharField(required=False, allow_blank=True, max_length=500)


class ProviderChangeSerializer(ProviderFieldsSerializer):
    pass


class ProviderCreateSerializer(ProviderFieldsSerializer):
    slug = SlugField()
    driver = StrictChoiceField(choices=KINDS)


class ProviderAuthSerializer(serializers.Serializer[Any]):
    header = serializers.CharField()
    scheme = serializers.CharField(allow_blank=True)


class ProviderSerializer(serializers.Serializer[Any]):
    slug = serializers.CharField()
    name = serializers.CharField()
    base_url = serializers.CharField(allow_blank=True)
    auth = ProviderAuthSerializer()
    driver = serializers.ChoiceField(choices=KINDS)
    driver_config = serializers.DictField()
    admin_secret_set = serializers.BooleanField()
    probe = serializers.DictField(allow_null=True)
    errors = serializers.ChoiceField(choices=SHAPES)  # type: ignore[assignment]
    key_affine = serializers.BooleanField()
    max_job_age = DurationField()
    max_keys = serializers.IntegerField(allow_null=True)
    derived_token_life = DurationField()
    dashboard_url = serializers.CharField(allow_blank=True)
    created_at = TimeField()


def show_provider(row: Provider) -> dict[str, Any]:
    plain = (
        "slug", "name", "base_url", "driver", "driver_config", "probe", "errors",
        "key_affine", "max_keys", "dashboard_url", "created_at",
    )  # fmt: skip
    shown = {
        **{name: getattr(row, name) for name in plain},
        "auth": {"header": row.auth_header, "scheme": row.auth_scheme},
        "admin_secret_set": row.admin_ciphertext is not None,
        "max_job_age": timedelta(seconds=row.max_job_age_seconds),
        "derived_token_life": timedelta(seconds=row.derived_token_seconds),
    }
    return dict(ProviderSerializer(shown).data)


def _fields(given: dict[str, Any]) -> tuple[dict[str, Any], Secret | None]:
    """The columns that a request names, and the management credential, if it brought one."""
    columns = {name: value for name, value in given.items() if name not in ("auth", "slug")}
    if "auth" in given:
        columns["auth_header"] = given["auth"]["header"]
        columns["auth_scheme"] = given["auth"].get("scheme", "")
    for name, column in (
        ("max_job_age", "max_job_age_seconds"),
        ("derived_token_life", "derived_token_seconds"),
    ):
        if name in columns:
            columns[column] = _whole_seconds(name, columns.pop(name))
    secret = None
    if "driver_config" in columns:
        columns["driver_config"], text = providers.split_admin_secret(columns["driver_config"])
        secret = _admin_secret(text) if text is not None else None
    return columns, secret


def _whole_seconds(field: str, length: timedelta) -> int:
    if length > 30 * _DAY:
        raise invalid(field, "Use at most P30D.")
    return int(length.total_seconds())


def _admin_secret(text: object) -> Secret:
    try:
        return check_secret(text)
    except SecretRefused as refused:
        raise invalid("driver_config.admin_secret", refused.message) from None


class ProvidersView(ManagementView):
    query = PageQuery

    @documented(
        "List providers", answers={200: ProviderSerializer}, query=PageQuery, page=True, tag="providers"
    )
    def get(self, request: Request) -> Response:
        return Response(
            paginate(
                Provider.objects.all(),
                self.parameters,
                name="providers",
                order=("slug",),
                show=lambda page: [show_provider(row) for row in page],
            )
        )

    def before(self, request: Request) -> None:
        providers.look_up(self.actor, self.body(ProviderCreateSerializer).get("base_url"))

    @documented(
        "Create a provider",
        request=ProviderCreateSerializer,
        answers={201: ProviderSerializer},
        tag="providers",
    )
    @idempotent
    def post(self, request: Request) -> Response:
        self.actor.demand_admin()
        given = self.body(ProviderCreateSerializer)
        columns, secret = _fields({"name": given["slug"], "errors": "nested", **given})
        row = providers.create_provider(
            self.actor, slug=given["slug"], fields=columns, admin_secret=secret, now=self.now
        )
        return Response(show_provider(row), status=201)


class ProviderView(ManagementView):
    @documented("Get a provider", answers={200: ProviderSerializer}, tag="providers")
    def get(self, request: Request, provider: str) -> Response:
        return Response(show_provider(visible(Provider.objects.all(), slug=provider)))

    @documented(
        "Change a provider",
        request=ProviderChangeSerializer,
        answers={200: ProviderSerializer},
        tag="providers",
    )
    def patch(self, request: Request, provider: str) -> Response:
        row = visible(Provider.objects.all(), slug=provider)
        self.actor.demand_admin()
        columns, secret = _fields(self.changes(ProviderChangeSerializer))
        providers.look_up(self.actor, columns.get("base_url"), before=row.base_url)
        row = providers.change_provider(self.actor, row, fields=columns, admin_secret=secret, now=self.now)
        return Response(show_provider(row))
