"""``keyturn token``: a user token for scripts, made on the server itself."""

from __future__ import annotations

from django.db import DatabaseError

from keyvault import clock
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.secret import Secret
from keyvault.durations import parse_duration
from keyvault.exceptions import KeyturnError
from keyvault.models import User
from keyvault.services import people


class TokenRefused(Exception):
    """No token; the message says what to do."""


def user_token(username: str, *, admin: bool, expires: str) -> Secret:
    """A fresh token of this person. With ``admin`` the person is made an administrator, and made at all."""
    try:
        now = clock.now()
        expires_at = now + parse_duration(expires)
        if admin:
            user = people.ensure_admin(username, now=now)
        else:
            user = User.objects.get(username=username, is_active=True)
        return people.create_user_token(user, expires_at=expires_at, now=now)[1]
    except User.DoesNotExist as error:
        raise TokenRefused("There is no such person. Add --admin to create an administrator.") from error
    except DatabaseError as error:
        raise TokenRefused(
            "The database is not set up. Run `keyturn serve` once, or `keyturn migrate`."
        ) from error
    except (KeyringError, KeyServiceUnavailable) as error:
        raise TokenRefused(f"The keyring cannot be used: {error}") from error
    except ValueError as error:
        raise TokenRefused("--expires takes an ISO 8601 duration such as PT8H or P30D.") from error
    except KeyturnError as error:
        raise TokenRefused(error.message) from error
