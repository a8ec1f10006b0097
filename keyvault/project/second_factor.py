"""Second factors as allauth keeps them, with our rules: sealed seeds, codes that work once, dead sessions."""

from __future__ import annotations

import base64
import json
from typing import Any

import qrcode
from allauth.account.adapter import get_adapter as get_account_adapter
from allauth.core import context
from allauth.core.internal.cryptokit import normalize_user_code
from allauth.mfa.adapter import DefaultMFAAdapter, get_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.base.internal.flows import check_rate_limit
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import generate_totp_secret, validate_totp_code
from allauth.mfa.webauthn.forms import (
    AuthenticateWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from allauth.usersessions.models import UserSession
from django import forms
from django.contrib.auth import update_session_auth_hash
from django.core.cache import cache
from django.db import transaction
from django.db.models.signals import post_delete, post_init, post_save, pre_save
from django.http import HttpRequest
from qrcode.image.svg import SvgPathImage

from keyvault import clock
from keyvault.actors import SYSTEM, Actor
from keyvault.crypto.envelope import Sealed
from keyvault.crypto.secret import Secret
from keyvault.keystore import open_system, seal_system
from keyvault.models import User
from keyvault.project import attempts
from keyvault.services.second_factors import keep_seed, note_change, open_seed, sign, verify

PENDING = "keyturn_totp"  # in the session, while an authenticator app is being set up
_PENDING_PURPOSE = "totp-pending"
_CODE_MEMORY = 120  # seconds; longer than any code is accepted


def _owner(request: HttpRequest) -> Any:
    """Whose seeds this request may touch: the person who is signed in, or is half way through."""
    stage = getattr(request, "_login_stage", None)
    return stage.login.user if stage is not None else request.user


class SecondFactorAdapter(DefaultMFAAdapter):  # type: ignore[misc]
    """What stands in allauth's tables is the name of a sealed row, never a seed."""

    def encrypt(self, text: str) -> str:
        return keep_seed(_owner(context.request).pk, Secret(text), now=clock.now())

    def decrypt(self, encrypted_text: str) -> str:
        return open_seed(_owner(context.request).pk, encrypted_text).expose()

    def build_totp_svg(self, url: str) -> str:
        """An element for the page itself: a picture by ``data:`` would need a looser content policy."""
        drawn: str = qrcode.make(url, image_factory=SvgPathImage, box_size=7).to_string(encoding="unicode")
        return drawn.replace("<svg ", '<svg role="img" aria-label="QR code for the app" ', 1)

    def get_totp_label(self, user: Any) -> str:
        return str(user.get_username())

    def get_public_key_credential_rp_entity(self) -> dict[str, str]:
        return {**super().get_public_key_credential_rp_entity(), "name": "Keyturn"}

    def generate_authenticator_name(self, user: Any, type: Any) -> str:
        count = Authenticator.objects.filter(user_id=user.pk, type=type).count()
        return f"Passkey {count + 1}"


class _OnceOnly:
    """A code counts once, also when it arrives many times at the same moment or spelled with blanks."""

    user: User
    authenticator: Authenticator
    cleaned_data: dict[str, Any]

    def clean_code(self) -> str:
        with transaction.atomic():
            User.objects.select_for_update(no_key=True).get(pk=self.user.pk)
            used = f"keyturn.code.{self.user.pk}.{normalize_user_code(self.cleaned_data['code'])}"
            if cache.get(used):
                raise get_adapter().validation_error("incorrect_code")
            code = self._checked()
            cache.set(used, True, timeout=_CODE_MEMORY)
        return code

    def _checked(self) -> str:
        """The code, where it is right. Attempts count for the device or network, as with passwords: who has
        stolen a password must not shut its owner out with wrong codes."""
        usage = attempts.consume(context.request, self.user.get_username(), "code")
        if usage is None:
            raise get_account_adapter().validation_error("too_many_login_attempts")
        code: str = self.cleaned_data["code"]
        for factor in Authenticator.objects.filter(user=self.user).exclude(type=Authenticator.Type.WEBAUTHN):
            if factor.wrap().validate_code(code):
                factor.user = self.user
                self.authenticator = factor
                usage.rollback()
                return code
        attempts.note_failure(context.request, self.user.get_username(), "code")
        raise get_adapter().validation_error("incorrect_code")


class OnceAuthenticateForm(_OnceOnly, AuthenticateForm):  # type: ignore[misc]
    pass


class OnceReauthenticateForm(_OnceOnly, ReauthenticateForm):  # type: ignore[misc]
    pass


class _Watched:
    """A passkey that does not match is told of like a wrong code. Before signing in nobody is named."""

    user: User | None

    def clean_credential(self) -> Authenticator:
        try:
            return super().clean_credential()  # type: ignore[misc]
        except (forms.ValidationError, KeyError) as error:
            name = self.user.get_username() if self.user is not None else ""
            attempts.note_failure(context.request, name, "passkey")
            if isinstance(error, KeyError):  # a part is missing, which the library does not expect
                raise get_adapter().validation_error("incorrect_code") from error
            raise


class WatchedAuthenticateForm(_Watched, AuthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class WatchedLoginForm(_Watched, LoginWebAuthnForm):  # type: ignore[misc]
    pass


class WatchedReauthenticateForm(_Watched, ReauthenticateWebAuthnForm):  # type: ignore[misc]
    pass


class ActivateTOTPForm(forms.Form):
    """The first code of a new authenticator app. Until it is right, the seed is sealed in the session."""

    code = forms.CharField(
        label="Code from the app",
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "inputmode": "numeric"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.secret = _pending(context.request, user, fresh=not self.is_bound)

    def clean_code(self) -> str:
        clear = check_rate_limit(self.user, error_key="rate_limited")
        code: str = self.cleaned_data["code"]
        if not validate_totp_code(self.secret, code):
            raise get_adapter().validation_error("incorrect_code")
        clear()
        return code


def _pending(request: HttpRequest, user: User, *, fresh: bool) -> str:
    """The seed that is being set up; a new one for every form that is shown."""
    kept = request.session.get(PENDING)
    if kept and not fresh:
        parts = json.loads(kept)
        sealed = Sealed(base64.b64decode(parts[0]), base64.b64decode(parts[1]), parts[2])
        return open_system(sealed, purpose=_PENDING_PURPOSE, row_id=str(user.pk)).expose()
    seed: str = generate_totp_secret()
    sealed = seal_system(Secret(seed), purpose=_PENDING_PURPOSE, row_id=str(user.pk))
    parts = [base64.b64encode(part).decode() for part in (sealed.ciphertext, sealed.wrapped_dek)]
    request.session[PENDING] = json.dumps([*parts, sealed.kid])
    return seed


# What follows a change ----------------------------------------------------------------------------


def _loaded(sender: Any, instance: Authenticator, **_: Any) -> None:
    """However it is read: a passkey that somebody wrote into the database opens nothing."""
    if instance.pk is not None:
        verify(instance)


def _saving(sender: Any, instance: Authenticator, **_: Any) -> None:
    sign(instance)


def _saved(sender: Any, instance: Authenticator, created: bool, **_: Any) -> None:
    if created:
        _changed(instance, added=True)


def _deleted(sender: Any, instance: Authenticator, **_: Any) -> None:
    _changed(instance, added=False)


def _changed(authenticator: Authenticator, *, added: bool) -> None:
    request = context.request
    person = request.user if request is not None and request.user.is_authenticated else None
    actor = SYSTEM if person is None else Actor(kind="user", name=person.get_username(), user_id=person.pk)
    note_change(actor, authenticator, added=added, now=clock.now())
    if person is not None and person.pk == authenticator.user_id:
        _keep_this_session(request, person)


def _keep_this_session(request: HttpRequest, user: Any) -> None:
    """All sessions have ended with the change; the one in which it was made goes on under a new key."""
    request.session.pop(PENDING, None)
    user.refresh_from_db(fields=["session_generation"])
    old = request.session.session_key
    update_session_auth_hash(request, user)
    UserSession.objects.filter(session_key=old).delete()
    UserSession.objects.create_from_request(request)


def connect() -> None:
    """Called once, when all apps are ready. Rows are watched, so no way of changing them is missed."""
    post_init.connect(_loaded, sender=Authenticator, dispatch_uid="keyturn.second-factor")
    pre_save.connect(_saving, sender=Authenticator, dispatch_uid="keyturn.second-factor")
    post_save.connect(_saved, sender=Authenticator, dispatch_uid="keyturn.second-factor")
    post_delete.connect(_deleted, sender=Authenticator, dispatch_uid="keyturn.second-factor")
