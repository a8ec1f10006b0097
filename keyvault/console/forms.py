"""What people type. Rules live in the services; a form only turns text into their arguments."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.password_validation import validate_password
from django.utils.text import slugify

from keyvault.actors import Actor
from keyvault.crypto.intake import SecretRefused, check_secret
from keyvault.crypto.secret import Secret
from keyvault.domain import VERBS
from keyvault.models import Consumer, Environment, Provider, Service, Team, User
from keyvault.models.base import validate_slug
from keyvault.services.consumers import MOST_INSTANCES

SLUG_HELP = "Lower-case letters, digits and dashes."
GRACES = (("0", "at once"), ("3600", "after an hour"), ("86400", "after a day"), ("604800", "after a week"))
LIVES = (
    ("30", "30 days"),
    ("90", "90 days"),
    ("365", "a year"),
    ("", "never (not for protected environments)"),
)


def managed_teams(actor: Actor) -> Any:
    """The teams in which this person may add things."""
    if actor.is_admin:
        return Team.objects.all()
    return Team.objects.filter(id__in=[team for team in actor.team_ids if actor.may("manage", team)])


def slug_field(label: str, example: str) -> forms.CharField:
    return forms.CharField(
        label=label,
        max_length=63,
        validators=[validate_slug],
        help_text=SLUG_HELP,
        widget=forms.TextInput(attrs={"class": "mono", "placeholder": example, "autocomplete": "off"}),
    )


class ReasonField(forms.CharField):
    """Why; it is written into the audit trail."""

    def __init__(self, *, required: bool = True) -> None:
        super().__init__(
            label="Reason",
            max_length=500,
            required=required,
            help_text="Kept in the audit trail. Never write a secret here.",
            widget=forms.TextInput(attrs={"autocomplete": "off"}),
        )


class SecretField(forms.CharField):
    """A pasted key. It is never sent back to the browser, and nothing is trimmed: blanks are refused."""

    def __init__(self, *, label: str = "Key", required: bool = True, help_text: str = "") -> None:
        super().__init__(
            label=label,
            strip=False,
            required=required,
            help_text=help_text,
            widget=forms.PasswordInput(
                render_value=False,
                attrs={"autocomplete": "off", "class": "mono", "spellcheck": "false", "data-1p-ignore": ""},
            ),
        )

    def clean(self, value: Any) -> Secret | None:
        if not value and not self.required:
            return None
        try:
            return check_secret(value or "")
        except SecretRefused as error:
            raise forms.ValidationError(error.message, code=error.code) from error


class NewPasswordForm(forms.Form):
    """A password typed twice. Who it is for decides what else is asked, and when both are compared."""

    password = forms.CharField(
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        strip=False,
        help_text="At least 12 characters.",
    )
    again = forms.CharField(
        label="Password again",
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        strip=False,
    )


class SetupForm(NewPasswordForm):
    field_order = ("username", "password", "again", "team")

    username = forms.CharField(max_length=150, validators=[User.username_validator])
    team = forms.CharField(
        label="Your team",
        max_length=60,
        initial="Platform",
        help_text="It owns services and consumers. You lead it; more teams and people can come later.",
    )

    def clean_team(self) -> str:
        name: str = self.cleaned_data["team"]
        slug = slugify(name)[:63]
        if not slug:
            raise forms.ValidationError("Use at least one letter.")
        if Team.objects.filter(slug=slug).exists():
            raise forms.ValidationError("There is a team with this name already.")
        return name

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"]
        if User.objects.filter(username=username).exists():
            raise forms.ValidationError("This name is taken.")
        return username

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        password, again = cleaned.get("password"), cleaned.get("again")
        if password and again and password != again:
            self.add_error("again", "The two passwords differ.")
        elif password:
            try:
                validate_password(password, User(username=cleaned.get("username", "")))
            except forms.ValidationError as error:
                self.add_error("password", error)
        return cleaned


class TeamForm(forms.Form):
    slug = slug_field("Name in URLs", "media")
    name = forms.CharField(
        label="Name", max_length=120, widget=forms.TextInput(attrs={"placeholder": "Media"})
    )


class ServiceForm(forms.Form):
    slug = slug_field("Name", "background-removal")
    team = forms.ModelChoiceField(Team.objects.none(), to_field_name="slug", empty_label=None)
    provider = forms.ModelChoiceField(Provider.objects.all(), to_field_name="slug", empty_label=None)
    description = forms.CharField(max_length=500, required=False, help_text="What it is used for. Optional.")

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["team"].queryset = managed_teams(actor)  # type: ignore[attr-defined]
        self.fields["provider"].label_from_instance = lambda row: row.name  # type: ignore[attr-defined]
        self.fields["team"].label_from_instance = lambda row: row.name  # type: ignore[attr-defined]


class ConsumerForm(forms.Form):
    slug = slug_field("Name", "billing")
    team = forms.ModelChoiceField(Team.objects.none(), to_field_name="slug", empty_label=None)

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["team"].queryset = managed_teams(actor)  # type: ignore[attr-defined]


class ConnectForm(forms.Form):
    """A consumer that is there, or the name of a new one, and for how long its token works."""

    consumer = forms.ModelChoiceField(
        Consumer.objects.none(), to_field_name="slug", required=False, empty_label="a new one, named below"
    )
    slug = slug_field("Name of the new consumer", "billing")
    life = forms.TypedChoiceField(
        label="Its token works for", choices=LIVES, initial="90", required=False, coerce=int, empty_value=None
    )

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = Consumer.objects.filter(team__in=managed_teams(actor))
        self.fields["slug"].required = False
        if known.exists():
            self.fields["consumer"].queryset = known  # type: ignore[attr-defined]
        else:
            del self.fields["consumer"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned.setdefault("consumer", None)
        if "slug" not in self.errors and bool(cleaned["consumer"]) == bool(cleaned.get("slug")):
            self.add_error("slug", "Choose a consumer, or name a new one: one of the two.")
        return cleaned


class TokenForm(forms.Form):
    environment = forms.ModelChoiceField(Environment.objects.all(), to_field_name="slug", empty_label=None)
    life = forms.TypedChoiceField(
        label="Works for", choices=LIVES, initial="90", required=False, coerce=int, empty_value=None
    )
    cidrs = forms.CharField(
        label="Only from these networks",
        required=False,
        help_text="Such as 10.1.0.0/16, separated by spaces. Empty: from anywhere.",
        widget=forms.TextInput(attrs={"class": "mono", "autocomplete": "off"}),
    )

    instance_limit = forms.IntegerField(
        label="For at most so many instances",
        required=False,
        min_value=1,
        max_value=MOST_INSTANCES,
        help_text="Within an hour; leave room for those that replace others. Empty: for any number.",
        widget=forms.NumberInput(attrs={"autocomplete": "off"}),
    )

    def clean_cidrs(self) -> list[str]:
        return str(self.cleaned_data["cidrs"]).replace(",", " ").split()


class RotateTokenForm(forms.Form):
    grace = forms.TypedChoiceField(label="The old token stops", choices=GRACES, initial="86400", coerce=int)


class GrantForm(forms.Form):
    service = forms.ModelChoiceField(Service.objects.none(), to_field_name="slug", empty_label=None)
    environment = forms.ModelChoiceField(Environment.objects.all(), to_field_name="slug", empty_label=None)
    verbs = forms.MultipleChoiceField(
        label="May",
        choices=[(verb, verb) for verb in VERBS],
        initial=["read", "report"],
        widget=forms.CheckboxSelectMultiple,
    )

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        # It stands beside the token form, which has a field of the same name.
        super().__init__(*args, **{"auto_id": "grant_%s", **kwargs})
        # The service's team decides who reads its keys.
        self.fields["service"].queryset = Service.objects.filter(team__in=managed_teams(actor))  # type: ignore[attr-defined]


class RevealForm(forms.Form):
    reason = ReasonField()
