"""From facts to words: a subject, what happened, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rotation.notices.kinds import Facts, NoticeKind


@dataclass(frozen=True)
class Text:
    """One notice in words. ``url`` is where to act; empty where there is no such page."""

    subject: str
    body: str
    advice: str
    url: str = ""

    @property
    def plain(self) -> str:
        parts = [self.body, f"What to do: {self.advice}" if self.advice else "", self.url]
        return "\n\n".join(part for part in parts if part)


# What a person can do about each reason for attention; a reason that is not here is answered with its verbs.
ADVICE = {
    "supply_key": "Create a new key on the provider's page, open the rotation and paste it there.",
    "replace_key": "Replace the key on the provider's page and paste the new one into the rotation at once: "
    "from the one to the other consumers fail.",
    "rejected": "The provider does not accept the new key, and the old one is gone. Resume to try again; or "
    "advance, and start another rotation.",
    "confirm_revoked": "Revoke the old key on the provider's page, then confirm it on the rotation.",
    "revoke_failed": "Revoke the old key on the provider's page and confirm it, or resume to ask once more.",
    "possible_orphan": "Look on the provider's page for a key that nobody knows, revoke it, then resume.",
    "quota_full": "Revoke a key that nobody uses on the provider's page, then resume.",
    "verifier_broken": "Give the provider a probe of a path that really needs the key, then resume.",
    "blocked": "Check the plan and the account at the provider, then resume.",
    "no_probe": "Try the new key by hand. If it works, advance; if not, abort.",
    "not_rotated": "The provider returned a key that is held already. Ask it why, then resume or abort.",
    "restored": "Compare the keys with the provider's (manage.py drift), then resume, or abort.",
    "overdue": "Read what the rotation waits for. Resume to give it more time, or abort to go back.",
    "stragglers": "Restart or update the instances that are named, so that they fetch the new key. "
    "Then resume. Force the revoke only if they may fail.",
    "undead_key": "The provider still honours a key that was to be dead. Revoke it on the provider's page "
    "and confirm it, or resume to ask once more.",
    "late_use": "Find who still calls with the old key. Abort to enable it again, or advance to revoke it.",
    "no_fallback": "There is no way back to the old key. Advance, or start an emergency.",
    "no_safe_version": "The old key is compromised. Advance, or start an emergency.",
    "enable_failed": "Enable the old key on the provider's page, then advance, or start an emergency.",
    "disable_failed": "Resume to try again, or advance to revoke without the cool-off.",
}


def text_of(kind: NoticeKind, facts: Facts, *, base_url: str) -> Text:
    """The words for one notice. ``base_url`` is the address of the console."""
    subject, body, advice = _WRITERS[kind](facts)
    if facts.level and facts.level != "owner":
        body = f"Nobody has acted on this since {_moment(facts.since)}. {body}"
        subject = f"Escalated: {subject}"
    own = kind is NoticeKind.ACCOUNT or (kind is NoticeKind.TOKEN_EXPIRING and not facts.consumer)
    url = f"{base_url}/profile/" if own else _url(facts, base_url)
    return Text(_one_line(subject), body, advice, url)


def digest_of(texts: Sequence[Text], *, title: str) -> Text:
    """One message for many notices, oldest first."""
    blocks = [f"{n}. {text.subject}\n{text.plain}" for n, text in enumerate(texts, 1)]
    return Text(_one_line(title), "\n\n".join(blocks), "")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def _url(facts: Facts, base_url: str) -> str:
    if facts.rotation:
        return f"{base_url}/rotations/{facts.rotation}/"
    if facts.run:
        return f"{base_url}/emergency/{facts.run}/"
    if facts.consumer:
        return f"{base_url}/consumers/{facts.consumer}/"
    return f"{base_url}/keys/{facts.key}/" if facts.service else f"{base_url}/"


def _moment(iso: str) -> str:
    return f"{iso[:16].replace('T', ' ')} UTC"


def _versions(facts: Facts) -> str:
    old = f"v{facts.outgoing}" if facts.outgoing else "no version"
    return f"{old} to v{facts.incoming}" if facts.incoming else old


def _because(facts: Facts) -> str:
    return f": {facts.reason}." if facts.reason else "."


Words = tuple[str, str, str]


def _started(f: Facts) -> Words:
    body = f"A rotation of {f.key} has begun, asked for by {f.who}. The key in use is {_versions(f)}."
    return f"{f.key}: rotation started", body, "Nothing. Keyturn tells you when it needs you."


def _approval(f: Facts) -> Words:
    body = f"{f.who} asked for a rotation of {f.key} ({_versions(f)}). It waits{_because(f)}"
    advice = f"Open the rotation, read its plan, and approve or abort it. {f.who} cannot approve it."
    return f"{f.key}: approval wanted", body, advice


def _glass(f: Facts) -> Words:
    what = f"a step of the rotation of {f.key} ({_versions(f)}), which {f.who} asked for"
    body = f"One person alone approved {what}."
    return f"{f.key}: break-glass", body, "Another person has to review it within 24 hours, under Approvals."


def _overdue_review(f: Facts) -> Words:
    body = f"A break-glass in the rotation of {f.key} has not been reviewed within 24 hours{_because(f)}"
    return f"{f.key}: review overdue", body, "Read its reason and review it, under Approvals."


def _attention(f: Facts) -> Words:
    body = f"The rotation of {f.key} ({_versions(f)}) has stopped in stage {f.stage}{_because(f)}"
    default = f"Open the rotation and choose one of: {', '.join(f.verbs) or 'what it offers'}."
    return f"{f.key}: a person must act", body, ADVICE.get(f.code, default)


def _rolled_back(f: Facts) -> Words:
    body = f"The rotation of {f.key} was rolled back{_because(f)} Everybody has v{f.outgoing} again."
    advice = "Read the timeline, remove the cause, then start the rotation again. Consumers need nothing."
    return f"{f.key}: rolled back to v{f.outgoing}", body, advice


def _finished(f: Facts) -> Words:
    dead = f" v{f.outgoing} is revoked and proved dead." if f.outgoing else ""
    return f"{f.key}: now on v{f.incoming}", f"The rotation of {f.key} is complete.{dead}", "Nothing."


def _cancelled(f: Facts) -> Words:
    body = f"The rotation of {f.key} was given up before a new key existed. v{f.outgoing} stays in use."
    return f"{f.key}: rotation cancelled", body, "Start it again when you are ready."


def _late(f: Facts) -> Words:
    body = f"The rotation of {f.key} ({_versions(f)}) is past its deadline in stage {f.stage}{_because(f)}"
    return f"{f.key}: rotation is late", body, ADVICE["overdue"]


def _stands(f: Facts) -> Words:
    body = f"The rotation of {f.key} ({_versions(f)}) stands still since {_moment(f.since)}{_because(f)}"
    return f"{f.key}: rotation stands still", body, _STANDING.get(f.code, _STANDING[""])


_STANDING = {
    "": "Look at the rotation: it names whom or what it waits for. Pause it, advance it or abort it.",
    "quiet": ADVICE["stragglers"],
    "provider_incident": "Check the provider's status page and the plan. It goes on by itself afterwards.",
    "consumer_misconfigured": "Mend the instance that is named: it sends no key at all.",
    "affinity": "Let the open jobs end, or make their consumer keep one key for each job.",
    "capacity": "Ask the provider for a higher rate for the new key, or shift more slowly.",
    "too_few_samples": "See whether the consumers report; without reports or traffic nothing can be judged.",
    "silent": "See why the instance that is named has fallen silent.",
}


def _stragglers(f: Facts) -> Words:
    body = f"v{f.outgoing} of {f.key} cannot be revoked{_because(f)}"
    return f"{f.key}: the old key is still in use", body, ADVICE["stragglers"]


def _reminder(f: Facts) -> Words:
    body = f"{f.who} asks you to look: v{f.outgoing} of {f.key} cannot be revoked{_because(f)}"
    advice = "Restart or update these instances, so that they fetch the new key. Nothing fails until then."
    return f"{f.key}: your instances still use the old key", body, advice


def _undead(f: Facts) -> Words:
    body = f"A key of {f.key} was revoked and lives on{_because(f)}"
    return f"{f.key}: a revoked key still works", body, ADVICE["undead_key"]


def _emergency(f: Facts) -> Words:
    body = f"{f.who} started an emergency: v{f.outgoing} of {f.key} is known to others and is being replaced."
    advice = "Watch the rotation. Make sure that consumers fetch the new key, and look for misuse of the old."
    return f"{f.key}: emergency", body, advice


def _of_run(f: Facts) -> str:
    return f.what or "leaked secrets"


def _left(f: Facts) -> str:
    """What is still honoured, by name as far as there is room."""
    if not f.left:
        return "Nothing of it is honoured any more."
    more = f" and {f.left - len(f.names)} more" if f.left > len(f.names) else ""
    return f"Still honoured: {', '.join(f.names)}{more}."


def _run_proposed(f: Facts) -> Words:
    body = f"A leak was reported: {_of_run(f)}. Nothing is replaced before a lead confirms it. {_left(f)}"
    advice = "Open the proposal, read what it would do, and confirm it or stop it."
    return "Emergency proposed: a lead must confirm it", body, advice


def _run_started(f: Facts) -> Words:
    verb = "resumed" if f.code == "resumed" else "started"
    body = f"{f.who} {verb} an emergency: {_of_run(f)}. Secrets in it: {f.items or 0}. {_left(f)}"
    advice = "Watch the run. Make sure that consumers fetch the new keys, and look for misuse of the old."
    return f"Emergency {verb}: {_of_run(f)}", body, advice


def _run_stopped(f: Facts) -> Words:
    body = (
        f"{f.who} stopped an emergency: {_of_run(f)}. What was begun goes on; not begun: {f.waiting or 0} of "
        f"{f.items or 0}. {_left(f)}"
    )
    advice = "Resume it, or see to every secret that is left: it is known to others and works."
    return f"Emergency stopped: {_of_run(f)}", body, advice if f.left else "Nothing."


def _run_stuck(f: Facts) -> Words:
    body = (
        f"An emergency has not moved since {_moment(f.since)}: {_of_run(f)}. Not begun: {f.waiting or 0} of "
        f"{f.items or 0}. {_left(f)}"
    )
    advice = (
        "Open the run: it says of each secret what it waits for. Answer those that need a person; where the "
        "provider does not, revoke the old key on its page."
    )
    return f"Emergency stands still: {_of_run(f)}", body, advice


def _run_finished(f: Facts) -> Words:
    body = f"An emergency is over: {_of_run(f)}. Secrets in it: {f.items or 0}. {_left(f)}"
    advice = (
        "Open the run: it says why these are left. Mend that and resume it, or revoke them by hand."
        if f.left
        else "Look through the provider's logs for misuse of the old keys."
    )
    ends = f"{f.left} left" if f.left else "all of it is dead"
    return f"Emergency over, {ends}: {_of_run(f)}", body, advice


_DRIFT = {
    "missing": (
        "the provider has lost v{version}",
        "v{version} should live at {provider}, but {reason}.",
        "Try the key. If it is refused, start a rotation now: consumers of it are failing.",
    ),
    "undead": (
        "v{version} was revoked and lives",
        "v{version} was revoked, but {reason}.",
        "Revoke it on the provider's page, and look for misuse of it.",
    ),
    "unowned": (
        "a key that nobody owns",
        "{provider} has the key {name} that nobody here owns: {reason}.",
        "Find whose it is. Import it here if it is in use; otherwise revoke it on the provider's page.",
    ),
    "unchecked": (
        "could not be compared with the provider",
        "{provider} {reason}.",
        "Check the provider's status and its admin secret, then look again with manage.py drift.",
    ),
}


def _drift(f: Facts) -> Words:
    subject, body, advice = _DRIFT.get(f.code, _DRIFT["unchecked"])
    values = {
        "version": f.outgoing or "?",
        "provider": f.provider or "the provider",
        "reason": f.reason or "could not be looked at",
        "name": f.provider_key or "?",
    }
    where = f.key if f.service else f.provider or "a provider"
    return f"{where}: {subject.format(**values)}", body.format(**values), advice


def _expiring(f: Facts) -> Words:
    body = f"v{f.outgoing} of {f.key} expires at {_moment(f.since)}."
    return f"{f.key}: v{f.outgoing} expires soon", body, "Start a rotation of this key before that."


def _token(f: Facts) -> str:
    return f"{f.token or 'a token'} of {f.consumer}" if f.consumer else f.token or "a token"


def _replayed(f: Facts) -> Words:
    ended = "was replaced by another one" if f.code == "superseded" else "was revoked"
    place = f" from {f.place}" if f.place else ""
    body = f"The token {_token(f)} {ended} at {_moment(f.since)} and was used again{place}. It was refused."
    advice = (
        "Find who used it. An instance that was forgotten gets the new token; otherwise somebody has a copy:"
        " look for what else was copied with it."
    )
    return f"A dead token was used: {_token(f)}", body, advice


def _crowded(f: Facts) -> Words:
    place = f" from {f.place}" if f.place else ""
    body = (
        f"More instances than the token {_token(f)} allows asked for keys. The last one{place} was refused."
    )
    advice = (
        "The audit has its name. If it is yours, give it a token with a higher limit. If not, somebody has a"
        " copy: replace the token."
    )
    return f"A token has too many instances: {_token(f)}", body, advice


def _leaked(f: Facts) -> Words:
    place = f" at {f.place}" if f.place else ""
    done = {"revoked": "It was revoked at once.", "dead": "It was dead already."}.get(
        f.code, "It still works."
    )
    body = f"A scanner found the token {_token(f)} in the open{place}. {done}"
    advice = "Give its user another token, take it out of where it was found, and look for misuse of it."
    return f"A token was found in the open: {_token(f)}", body, advice


def _token_expiring(f: Facts) -> Words:
    body = f"The token {_token(f)} stops working at {_moment(f.since)}."
    advice = (
        "Rotate it on the page of the consumer and give its users the new one; both work during the grace."
        if f.consumer
        else "Make another one on your profile page, put it where this one is used, and revoke this one."
    )
    return f"A token expires soon: {_token(f)}", body, advice


# Code of what happened to an account: a subject, and what happened.
_ACCOUNT: dict[str, tuple[str, str]] = {
    "user:password:set": ("your password was changed", "{who} changed the password of your account."),
    "user:link:used": ("your password was set by a link", "A set-up link was used to choose your password."),
    "user:email:set": (
        "your mail address was changed",
        "{who} gave your account another mail address. What concerns it goes there from now on.",
    ),
    "user:second-factor:added": ("{what} added", "{who} added to your account: {what}."),
    "user:second-factor:removed": ("{what} removed", "{who} removed from your account: {what}."),
    "user:second-factor:reset": (
        "your second factors were removed",
        "{who} removed all second factors of your account.",
    ),
    "user:token:created": ("a token was created", "{who} created a token that acts as you: {token}."),
    "user:signed-in": (
        "signed in with a new browser",
        "Somebody signed in as you ({what}) from {place}, in a browser that you have not used before.",
    ),
    "user:sign-in:limited": (
        "too many wrong attempts",
        "Somebody tried too often to sign in as you ({what}), the last time from {place}. Such attempts "
        "are not looked at for some minutes; browsers that you have used before are not concerned.",
    ),
}


def _account(f: Facts) -> Words:
    subject, body = _ACCOUNT.get(f.code, ("your account", "{who} changed your account."))
    values = {
        "who": f.who or "Somebody",
        "what": f.what or "a way to sign in",
        "place": f.place or "an address that is not known",
        "token": f.token or "a token",
    }
    advice = (
        "If it was you, nothing. If not: change your password, end your sessions on your profile page, "
        "and tell an administrator."
    )
    return f"Keyturn: {subject.format(**values)}", f"{_moment(f.at)}: {body.format(**values)}", advice


def _beat_dead(f: Facts) -> Words:
    body = f"The scheduler was last seen at {_moment(f.since)}. Keys are delivered; rotations stand still."
    return (
        "Keyturn: the scheduler is not running",
        body,
        "Start it again; /readyz and its log say more.",
    )


def _audit_unproved(f: Facts) -> Words:
    body = f"The nightly proof of the audit trail did not find it intact{_because(f)}"
    return (
        f"Keyturn: the audit trail is {f.code}",
        body,
        "Run keyturn audit_verify; docs/runbook.md says what to do with its answer.",
    )


def _test(f: Facts) -> Words:
    return "Keyturn: a test", f"{f.who} sent this to try the channel.", "Nothing: it works."


_WRITERS: dict[NoticeKind, Callable[[Facts], Words]] = {
    NoticeKind.STARTED: _started,
    NoticeKind.APPROVAL_WANTED: _approval,
    NoticeKind.GLASS_BROKEN: _glass,
    NoticeKind.REVIEW_OVERDUE: _overdue_review,
    NoticeKind.ATTENTION: _attention,
    NoticeKind.ROLLED_BACK: _rolled_back,
    NoticeKind.FINISHED: _finished,
    NoticeKind.CANCELLED: _cancelled,
    NoticeKind.LATE: _late,
    NoticeKind.STANDS: _stands,
    NoticeKind.STRAGGLERS: _stragglers,
    NoticeKind.REMINDER: _reminder,
    NoticeKind.UNDEAD_KEY: _undead,
    NoticeKind.EMERGENCY: _emergency,
    NoticeKind.RUN_PROPOSED: _run_proposed,
    NoticeKind.RUN_STARTED: _run_started,
    NoticeKind.RUN_STOPPED: _run_stopped,
    NoticeKind.RUN_STUCK: _run_stuck,
    NoticeKind.RUN_FINISHED: _run_finished,
    NoticeKind.DRIFT: _drift,
    NoticeKind.EXPIRING: _expiring,
    NoticeKind.TOKEN_REPLAYED: _replayed,
    NoticeKind.TOKEN_CROWDED: _crowded,
    NoticeKind.TOKEN_LEAKED: _leaked,
    NoticeKind.TOKEN_EXPIRING: _token_expiring,
    NoticeKind.ACCOUNT: _account,
    NoticeKind.BEAT_DEAD: _beat_dead,
    NoticeKind.AUDIT_UNPROVED: _audit_unproved,
    NoticeKind.TEST: _test,
}
