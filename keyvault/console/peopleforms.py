"""What people type about people. Rules live in the services."""

from __future__ import annotations

from zoneinfo import available_timezones

from django import forms

from keyvault.console.forms import NewPasswordForm, ReasonField
from keyvault.domain import OrganisationRole, Role

ROLES = (
    (Role.VIEWER.value, "viewer: looks"),
    (Role.OPERATOR.value, "operator: runs rotations"),
    (Role.LEAD.value, "lead: changes things, sees secrets"),
)
ORGANISATION_ROLES = (
    (OrganisationRole.NONE.value, "none: own teams only"),
    (OrganisationRole.AUDITOR.value, "auditor: looks at everything"),
    (OrganisationRole.ADMIN.value, "administrator: everything"),
)
TOKEN_LIVES = (("8", "8 hours"), ("168", "7 days"), ("720", "30 days"), ("2160", "90 days"))


class MemberForm(forms.Form):
    user = forms.CharField(
        label="User name",
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "off", "autocapitalize": "none"}),
    )
    role = forms.TypedChoiceField(choices=ROLES, coerce=Role)


class RoleForm(forms.Form):
    role = forms.TypedChoiceField(choices=ROLES, coerce=Role)


class OrganisationRoleForm(forms.Form):
    role = forms.TypedChoiceField(
        label="Role in the organisation",
        choices=ORGANISATION_ROLES,
        coerce=OrganisationRole,
        required=False,
        empty_value=OrganisationRole.NONE,
    )


class LostFactorForm(forms.Form):
    reason = ReasonField()


class ProfileForm(forms.Form):
    name = forms.CharField(
        max_length=150, required=False, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    email = forms.EmailField(
        label="Mail address", required=False, widget=forms.EmailInput(attrs={"autocomplete": "email"})
    )
    time_zone = forms.ChoiceField(
        choices=[("", "that of the browser"), *((zone, zone) for zone in sorted(available_timezones()))],
        required=False,
    )


class UserTokenForm(forms.Form):
    life = forms.TypedChoiceField(label="Works for", choices=TOKEN_LIVES, initial="8", coerce=int)


class PasswordForm(NewPasswordForm):
    def clean_again(self) -> str:
        again: str = self.cleaned_data["again"]
        if again != self.cleaned_data.get("password", again):
            raise forms.ValidationError("The two passwords differ.")
        return again
