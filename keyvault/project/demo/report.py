"""The end of the demo in words: the table, the story of the rollback, and what to try next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from keyvault.crypto.secret import Secret
from keyvault.project.demo.results import ChapterResult, ProviderResult, Result, RollbackResult
from keyvault.project.demo.screen import table


def result_table(result: Result) -> list[str]:
    """One line per provider."""
    heads = ("provider", "requests", "failed", "share over time", "old key refused", "audit events")
    return table(heads, [_row(provider) for provider in result.providers])


def _row(result: ProviderResult) -> tuple[str, ...]:
    shares = " ".join(f"{s.weight}%:{s.moved}/{s.instances}" for s in result.shares)
    refused = f"yes (v{result.old_version})" if result.old_key_refused else f"NO (v{result.old_version})"
    return (
        result.provider,
        str(result.requests),
        str(result.failed),
        shares,
        refused,
        str(result.audit_events),
    )


def rollback_story(rollback: RollbackResult) -> list[str]:
    """What happened when a new key was rejected."""
    who = ", ".join(f"{hit.instance} ({hit.requests})" for hit in rollback.hits) or "nobody"
    took = rollback.seconds_to_weight_0
    time = f"{took:.1f} s after the first rejection" if took is not None else "never"
    works = "works" if rollback.old_key_works else "DOES NOT WORK"
    back = "every instance has it again" if rollback.everyone_back else "NOT every instance has it again"
    return [
        f"The rotation that went wrong: {rollback.provider} began to reject version "
        f"{rollback.bad_version} at {rollback.weight_before} %.",
        f"  requests hit:   {rollback.failed}, by {who}",
        f"  weight 0:       {time} ({rollback.reason or 'no reason given'})",
        f"  current again:  version {rollback.current_version}; it {works} at the provider, {back}",
    ]


def chapter_list(chapters: Sequence[ChapterResult]) -> list[str]:
    """What was promised, whether it was shown, and what was seen of it."""
    lines = ["What was shown:"]
    for one in chapters:
        shown = "shown" if one.shown else "NOT SHOWN"
        lines += [f"  ({one.letter}) {one.name}: {shown}, {one.seconds:.1f} s", f"      {one.told.story}"]
    return lines


@dataclass(frozen=True)
class Invitation:
    """What a person needs to go on with the running demo."""

    base_url: str
    username: str
    password: Secret
    consumer_token: Secret
    data: Path
    dashboards: Mapping[str, str]  # provider -> base URL of its simulator


def what_next(invitation: Invitation, rotations: Sequence[tuple[str, str]]) -> list[str]:
    """The page that is printed when everything stays up. ``rotations``: what each is, and its id."""
    url, token = invitation.base_url, invitation.consumer_token.expose()
    manual = invitation.dashboards["backgrounderase"]
    return [
        "Everything goes on running: Keyturn, the providers and the consumers. What to try next:",
        "",
        f"  The console      {url}/",
        f"                   user {invitation.username}, password {invitation.password.expose()}",
        "  What you saw     is there too, with every event and its reason:",
        *(f"                   {url}/rotations/{id}/  {what}" for what, id in rotations),
        "  Ask for a key    as a consumer does:",
        f"                   curl -H 'X-API-Key: {token}' {url}/v1/keys/background-removal/prod/",
        "  Rotate a key     in the console: video-background in prod, then watch the traffic move; pause it,",
        "                   resume it, abort it. The API is described at",
        f"                   {url}/v1/docs/",
        "  Be the person    who makes a key at a provider without an API for it, and paste it in the console",
        "                   when a rotation of background-removal asks for one:",
        f'                   curl -X POST {manual}/_control/dashboard/keys -d \'{{"name": "mine"}}\'',
        "  Break something  let a provider fail half of all requests (DELETE on the same URL heals it):",
        f"                   curl -X POST {invitation.dashboards['removebgvideo']}/_control/faults "
        "-d '{\"error_rate\": 0.5}'",
        f"  Logs and data    {invitation.data}",
        "",
        "Ctrl-C stops everything.",
    ]
