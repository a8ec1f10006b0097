"""What the commands of this room share: who acts, and how a refusal is said on a terminal."""

from __future__ import annotations

from django.core.management.base import CommandError

from keyvault.actors import SYSTEM, Actor, actor_for
from keyvault.exceptions import KeyturnError
from keyvault.models import User


def actor_named(username: str | None) -> Actor:
    """The active person of that name, or Keyturn itself where none is given."""
    if username is None:
        return SYSTEM
    user = User.objects.filter(username=username, is_active=True).first()
    if user is None:
        raise CommandError(f"There is no active person called {username}.")
    return actor_for(user)


def refusal(error: KeyturnError) -> str:
    """The message with what is wrong in each field. Services never put a caller's value into either."""
    fields = [f"{name}: {' '.join(texts)}" for name, texts in error.fields.items()]
    return "; ".join(fields) if fields else error.message
