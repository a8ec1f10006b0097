"""The routes of accounts: those of allauth that Keyturn uses, and no other.

Nobody signs up, and nobody gets a password by mail: a lead or an administrator makes a set-up link.
"""

from __future__ import annotations

from allauth.account import views as account
from allauth.mfa.base import views as factors
from allauth.mfa.recovery_codes import views as codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from allauth.socialaccount import views as provided
from django.contrib.auth.decorators import login_required
from django.urls import URLPattern, URLResolver, path

from keyvault.console.fresh import confirmed, confirmed_or_new
from keyvault.project.single_sign_on import begin, callback

urlpatterns: list[URLResolver | URLPattern] = [
    path("login/", account.login, name="account_login"),
    path("logout/", account.logout, name="account_logout"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("reauthenticate/", account.reauthenticate, name="account_reauthenticate"),
    path("password/change/", account.password_change, name="account_change_password"),
    path("2fa/", factors.index, name="mfa_index"),
    path("2fa/authenticate/", factors.authenticate, name="mfa_authenticate"),
    path("2fa/reauthenticate/", factors.reauthenticate, name="mfa_reauthenticate"),
    path("2fa/app/", login_required(confirmed_or_new(totp.activate_totp)), name="mfa_activate_totp"),
    path("2fa/app/remove/", login_required(confirmed(totp.deactivate_totp)), name="mfa_deactivate_totp"),
    path("2fa/codes/", login_required(confirmed(codes.view_recovery_codes)), name="mfa_view_recovery_codes"),
    path(
        "2fa/codes/new/",
        login_required(confirmed(codes.generate_recovery_codes)),
        name="mfa_generate_recovery_codes",
    ),
    path("2fa/passkeys/", webauthn.list_webauthn, name="mfa_list_webauthn"),
    path(
        "2fa/passkeys/add/", login_required(confirmed_or_new(webauthn.add_webauthn)), name="mfa_add_webauthn"
    ),
    path("2fa/passkeys/login/", webauthn.login_webauthn, name="mfa_login_webauthn"),
    path(
        "2fa/passkeys/reauthenticate/", webauthn.reauthenticate_webauthn, name="mfa_reauthenticate_webauthn"
    ),
    path(
        "2fa/passkeys/<int:pk>/name/",
        login_required(confirmed(webauthn.edit_webauthn)),
        name="mfa_edit_webauthn",
    ),
    path(
        "2fa/passkeys/<int:pk>/remove/",
        login_required(confirmed(webauthn.remove_webauthn)),
        name="mfa_remove_webauthn",
    ),
    path("sso/<slug:provider_id>/", begin, name="openid_connect_login"),
    path("sso/<slug:provider_id>/callback/", callback, name="openid_connect_callback"),
    path("sso-cancelled/", provided.login_cancelled, name="socialaccount_login_cancelled"),
    path("sso-error/", provided.login_error, name="socialaccount_login_error"),
]
