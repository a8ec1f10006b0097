"""What people type about rotations."""

from __future__ import annotations

from typing import Any

from django import forms

from keyvault.console.forms import ReasonField, SecretField
from keyvault.crypto.secret import Secret
from keyvault.durations import parse_duration
from rotation.console.choices import APPROVED, Choice
from rotation.models import RotationPolicy

_EXTENSIONS = [("P1D", "1 day"), ("P3D", "3 days"), ("P7D", "7 days"), ("P30D", "30 days")]


class ConfirmField(forms.CharField):
    """A name to type, compared exactly."""

    def __init__(self, wanted: str) -> None:
        super().__init__(
            label=f"Type {wanted} to confirm",
            widget=forms.TextInput(attrs={"class": "mono", "autocomplete": "off", "data-confirm": wanted}),
        )
        self.wanted = wanted

    def clean(self, value: Any) -> str:
        text: str = super().clean(value)
        if text != self.wanted:
            raise forms.ValidationError(f"This is not {self.wanted}. Nothing was changed.")
        return text


class VerbForm(forms.Form):
    """Why, what was seen, and whatever the choice asks to be typed."""

    mark = forms.CharField(widget=forms.HiddenInput)
    reason = ReasonField()

    def __init__(self, *args: Any, choice: Choice, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if choice.confirm:
            self.fields["confirm"] = ConfirmField(choice.confirm)
        if choice.more:
            self.fields["by"] = forms.TypedChoiceField(
                label="How much more time", choices=_EXTENSIONS, coerce=parse_duration
            )
        if len(choice.transitions) > 1:
            self.fields["transition"] = forms.ChoiceField(
                label="What you approve",
                choices=[(name, APPROVED[name].capitalize()) for name in choice.transitions],
                initial=choice.transitions[0],
                widget=forms.RadioSelect,
            )
        if choice.count is not None:
            self.fields["count"] = forms.IntegerField(
                min_value=0,
                label="How many instances still use the outgoing key?",
                help_text="The number that the quiet proof shows.",
                widget=forms.NumberInput(attrs={"autocomplete": "off"}),
            )


class DecisionForm(forms.Form):
    """A yes or a no to one transition, under the plan that the person saw."""

    plan = forms.CharField(widget=forms.HiddenInput, max_length=64)
    reason = ReasonField()
    # Which button was pressed; the page draws the buttons.
    decision = forms.ChoiceField(
        choices=[("approve", "Approve"), ("decline", "Decline")], widget=forms.HiddenInput
    )


class BreakGlassForm(forms.Form):
    plan = forms.CharField(widget=forms.HiddenInput, max_length=64)
    reason = ReasonField()

    def __init__(self, *args: Any, confirm: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["confirm"] = ConfirmField(confirm)


class ReviewForm(forms.Form):
    verdict = forms.ChoiceField(
        label="What you find",
        choices=[("sound", "In order: I would have approved it"), ("unsound", "Not in order")],
        widget=forms.RadioSelect,
    )
    note = forms.CharField(
        label="What you looked at",
        max_length=500,
        help_text="Kept in the audit trail. Never write a secret here.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class ExpiryField(forms.DateTimeField):
    """When the provider lets a key expire, in the time zone of the person."""

    widget = forms.DateTimeInput(format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local"})

    def __init__(self, **more: Any) -> None:
        super().__init__(label="Expires at the provider", required=False, **more)


class ExpiryForm(forms.Form):
    expires_at = ExpiryField()


class SupplyForm(forms.Form):
    secret = SecretField(
        label="New key",
        help_text="Exactly as the provider shows it. It is sealed at once and not shown again.",
    )
    provider_key_id = forms.CharField(
        label="Name or id at the provider",
        max_length=200,
        required=False,
        help_text="Optional. It helps to find this key there later.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    expires_at = ExpiryField(help_text="Optional, in your time zone. The next rotation comes early enough.")
    reason = ReasonField(required=False)


class PlanForm(forms.Form):
    policy = forms.ModelChoiceField(RotationPolicy.objects.all(), to_field_name="slug", required=False)


class StartForm(PlanForm):
    reason = ReasonField()
    digest = forms.CharField(widget=forms.HiddenInput, required=False)
    skip_rehearsal = forms.BooleanField(
        required=False,
        label="Start without a rehearsal",
        help_text="Somebody else then has to approve the start.",
    )

    def __init__(self, *args: Any, unrehearsed: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not unrehearsed:
            del self.fields["skip_rehearsal"]


class EmergencyForm(forms.Form):
    mode = forms.ChoiceField(
        label="What comes first",
        choices=[
            (
                "replace",
                "Replace, then kill: consumers move to a new key at once, then the leaked one is revoked",
            ),
            ("kill", "Kill now: the leaked key is revoked first; consumers fail until the new key is there"),
        ],
        initial="replace",
        widget=forms.RadioSelect,
    )
    reason = ReasonField()

    def __init__(self, *args: Any, confirm: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["confirm"] = ConfirmField(confirm)


MODES = (
    ("replace", "Replace, then kill: consumers move to new keys at once, then the leaked ones are revoked"),
    ("kill", "Kill now: the leaked keys are revoked first; consumers fail until the new ones are there"),
)


class ChooseForm(forms.Form):
    """Which keys; in the address, so that a plan can be looked at again. Secrets are never chosen here."""

    scope = forms.ChoiceField(
        label="All keys",
        choices=[
            ("team", "of a team"),
            ("provider", "at a provider"),
            ("environment", "of an environment"),
            ("service", "of a service"),
            ("person", "that a person has revealed or pasted"),
        ],
    )
    name = forms.CharField(
        label="Its name",
        max_length=150,
        widget=forms.TextInput(attrs={"class": "mono", "autocomplete": "off"}),
    )
    mode = forms.ChoiceField(label="What comes first", choices=MODES, widget=forms.RadioSelect)
    reachable = forms.BooleanField(
        label="Of a person: also what could have been revealed as lead of a team", required=False
    )


class RunReasonForm(forms.Form):
    reason = ReasonField()


class ConfirmRunForm(RunReasonForm):
    plan = forms.CharField(max_length=64, widget=forms.HiddenInput)
    count = forms.IntegerField(
        min_value=0,
        label="How many are started?",
        help_text="The number that the plan shows. It is typed to confirm.",
        widget=forms.NumberInput(attrs={"autocomplete": "off"}),
    )


class StartRunForm(ConfirmRunForm):
    pass


class LeakField(SecretField):
    """What we issue ourselves, keys and tokens, leaks as well."""

    def clean(self, value: Any) -> Secret | None:
        try:
            return super().clean(value)
        except forms.ValidationError as error:
            if error.code == "own_token":
                return Secret(value)
            raise


class LeakForm(forms.Form):
    secret = LeakField(
        label="The secret",
        help_text="Exactly as it was found. It is compared with what is held here, and not kept.",
    )
    reason = ReasonField()
