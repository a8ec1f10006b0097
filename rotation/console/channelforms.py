"""What people type about channels."""

from __future__ import annotations

from typing import Any

from django import forms

from keyvault.actors import Actor
from keyvault.console.forms import managed_teams, slug_field
from keyvault.models import Team
from rotation.notice_rows import Channel
from rotation.services.channels import GRACE

AFTER = (
    ("0", "at once"),
    ("1800", "after half an hour"),
    ("3600", "after an hour"),
    ("14400", "after 4 hours"),
    ("28800", "after 8 hours"),
    ("86400", "after a day"),
    ("259200", "after 3 days"),
)
GRACES = (("0", "at once"), ("3600", "after an hour"), (str(int(GRACE.total_seconds())), "after a day"))
_PLAIN = {"class": "mono", "autocomplete": "off"}


class ChannelForm(forms.Form):
    """What may be changed. The address is never sent back to the browser."""

    url = forms.CharField(
        label="Address",
        max_length=2048,
        required=False,
        widget=forms.PasswordInput(render_value=False, attrs={**_PLAIN, "data-1p-ignore": ""}),
        help_text="Of the chat or webhook: https://… It is sealed and never shown again; empty keeps it.",
    )
    addresses = forms.CharField(
        label="Mail addresses",
        required=False,
        widget=forms.TextInput(attrs=_PLAIN),
        help_text="Of the mail, separated by spaces. Empty: the people of the team, by their role.",
    )
    level = forms.ChoiceField(
        label="Whom it reaches",
        choices=[
            ("owner", "Owners: everything that happens"),
            ("lead", "Leads: incidents that nobody has acted on"),
            ("security", "Security: incidents that last even longer, and emergencies"),
        ],
        initial="owner",
        widget=forms.RadioSelect,
    )
    after = forms.TypedChoiceField(
        label="An incident reaches leads and security", choices=AFTER, initial="3600", coerce=int
    )
    digest_at = forms.CharField(
        label="Daily message at",
        max_length=5,
        required=False,
        widget=forms.TextInput(attrs={**_PLAIN, "placeholder": "08:30"}),
        help_text="For what can wait. Empty: everything at once.",
    )
    zone = forms.CharField(
        label="Time zone", max_length=64, initial="UTC", widget=forms.TextInput(attrs=_PLAIN)
    )
    enabled = forms.BooleanField(label="Switched on", required=False, initial=True)

    def clean_addresses(self) -> list[str]:
        return str(self.cleaned_data["addresses"]).replace(",", " ").split()

    @staticmethod
    def values(channel: Channel) -> dict[str, Any]:
        """What the form shows of a channel that is there."""
        plain = {name: getattr(channel, name) for name in ("level", "digest_at", "zone", "enabled")}
        return {**plain, "addresses": " ".join(channel.addresses), "after": str(channel.after_seconds)}


class NewChannelForm(ChannelForm):
    slug = slug_field("Name", "media-chat")
    kind = forms.ChoiceField(
        label="What it is",
        choices=[
            ("chat", "Chat: an incoming webhook of Slack, Mattermost or the like"),
            ("mail", "Mail"),
            ("webhook", "Webhook: signed events for a program"),
        ],
        initial="chat",
        widget=forms.RadioSelect,
    )
    team = forms.ModelChoiceField(Team.objects.none(), to_field_name="slug", empty_label=None)
    field_order = ["slug", "kind", "team"]

    def __init__(self, *args: Any, actor: Actor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        team = self.fields["team"]
        team.queryset = managed_teams(actor)  # type: ignore[attr-defined]
        if actor.is_admin:
            team.required = False
            team.empty_label = "the whole organisation"  # type: ignore[attr-defined]


class GraceForm(forms.Form):
    grace = forms.TypedChoiceField(
        label="The present secret stops signing", choices=GRACES, initial=GRACES[-1][0], coerce=int
    )


class MailForm(forms.Form):
    email = forms.EmailField(
        label="Your mail address",
        max_length=254,
        required=False,
        help_text="Where channels of the kind mail reach you. Empty: nowhere.",
    )
