"""Django's admin: every row can be looked at, and nothing of the vault can be changed there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import BinaryField, Model
from django.http import HttpRequest
from django.utils.functional import cached_property

from keyvault import models

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Model]
    _Paginator = Paginator[Model]
else:  # Django's own classes take no parameter
    _ModelAdmin = admin.ModelAdmin
    _Paginator = Paginator

# Never shown, not even to superusers: what opens, forges or recognises a secret.
HIDDEN = frozenset({"password", "digest", "token_digest", "fingerprint", "request_digest"})


COUNTED = 10_000


class FirstPages(_Paginator):
    """Counts no further than ``COUNTED`` rows: counting all deliveries would read all of them."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list  # always a query here
        return int(rows.order_by()[:COUNTED].count())


class ReadOnlyAdmin(_ModelAdmin):
    """A look at the rows of one table. Changes go through the services, in the console or the API."""

    actions = None
    show_full_result_count = False
    paginator = FirstPages
    list_per_page = 50

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [
            field.name
            for field in self.model._meta.fields
            if field.name not in HIDDEN and not isinstance(field, BinaryField)
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return self.get_fields(request, obj)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        user = request.user
        return user.is_active and user.is_superuser

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)


def columns(model: type[Model], *names: str, related: tuple[str, ...] = ()) -> None:
    """Register a table with the columns of its list."""
    attributes = {"list_display": names, "list_select_related": related}
    admin.site.register(model, type(f"{model.__name__}Admin", (ReadOnlyAdmin,), attributes))


columns(models.Team, "slug", "name", "created_at")
columns(models.User, "username", "organisation_role", "is_active", "last_login")
columns(models.Membership, "team", "user", "role", related=("team", "user"))
columns(models.UserToken, "hint", "user", "expires_at", "revoked_at", related=("user",))
columns(models.SetupLink, "username", "team", "role", "expires_at", related=("team",))
columns(models.SecondFactorSeed, "user", "kek_kid", "created_at", related=("user",))
columns(models.Environment, "slug", "name", "protected")
columns(models.Provider, "slug", "name", "driver", "base_url")
columns(models.Service, "slug", "team", "provider", related=("team", "provider"))
columns(models.Key, "__str__", "weight", "never_shown", "created_at", related=("service", "environment"))
columns(
    models.KeyVersion,
    "__str__",
    "state",
    "activated_at",
    "revoked_at",
    related=("key__service", "key__environment"),
)
columns(models.Consumer, "slug", "team", related=("team",))
columns(
    models.ConsumerToken,
    "hint",
    "consumer",
    "environment",
    "expires_at",
    "revoked_at",
    related=("consumer", "environment"),
)
columns(models.Seat, "token", "instance", "last_at", related=("token",))
columns(
    models.Grant,
    "consumer",
    "service",
    "environment",
    "verbs",
    related=("consumer", "service", "environment"),
)
columns(models.Delivery, "at", "consumer", "instance", "label", "status", related=("consumer",))
columns(models.UsageReport, "received_at", "consumer", "instance", "sequence", related=("consumer",))
columns(models.UsageLine, "received_at", "consumer", "instance", "credential", "ok", related=("consumer",))
columns(models.ReportBucket, "minute", "consumer", "instance", "credential", "ok", related=("consumer",))
columns(models.UsageBucket, "minute", "consumer", "instance", "deliveries", related=("consumer",))
columns(models.LastDelivery, "last_at", "consumer", "instance", related=("consumer",))
columns(models.LastUse, "last_at", "consumer", "instance", related=("consumer",))
columns(models.OpenJobs, "last_to_at", "consumer", "instance", "open", related=("consumer",))
columns(models.Verification, "at", "consumer", "code", "count", related=("consumer",))
columns(models.VerificationBucket, "minute", "caller", "code", "count")
columns(models.FoldMark, "delivery_id")
columns(models.SealMark, "delivery_id")
columns(models.ChangeCounter, "seq", "floor")
columns(models.Change, "seq", "kind", "ref")
columns(models.AuditEvent, "sequence", "at", "name", "actor", "service", "environment")
columns(models.AuditHead, "sequence")
columns(models.Heartbeat, "name", "at")
columns(models.Installation, "id", "created_at")
columns(models.KekCanary, "kid", "environment", "created_at", "promoted_at", "retired_at")
columns(models.KekHolder, "title", "at")
columns(models.Backup, "made_at", "expires_at", "sequence")
columns(models.Quarantine, "key", "reason", "since", related=("key",))
columns(models.IdempotentReply, "caller", "status", "created_at")
