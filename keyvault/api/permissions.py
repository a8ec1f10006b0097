"""Permissions of the API. What a person may do to which team's things is decided by the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from keyvault.models import User

if TYPE_CHECKING:
    from rest_framework.views import APIView  # at run time DRF's own views import this module


class DenyAll(BasePermission):
    """The default: a view that says nothing about permissions lets nobody in."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return False


class IsPerson(BasePermission):
    """A person with a good user token."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.user, User) and request.user.is_active
