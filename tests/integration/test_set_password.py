"""``manage.py set_password``: only for people who exist, only with a good password, never in silence."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command

from keyvault.domain import OrganisationRole
from keyvault.models import AuditEvent, User
from keyvault.services import people

pytestmark = pytest.mark.django_db

PASSWORD = "a long one, made up here"
Run = Callable[[str, str], None]


@pytest.fixture
def set_password(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(username: str, typed: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        call_command("set_password", username, stderr=io.StringIO())

    return run


@pytest.fixture
def person() -> User:
    return people.create_person("lead", "the password before this", role=OrganisationRole.NONE)


def test_the_new_password_works_and_the_old_one_does_not(person: User, set_password: Run) -> None:
    set_password("lead", f"{PASSWORD}\n")
    person.refresh_from_db()
    assert person.check_password(PASSWORD)
    assert not person.check_password("the password before this")
    assert authenticate(None, username="lead", password=PASSWORD) == person


def test_it_is_audited_without_the_password(person: User, set_password: Run) -> None:
    set_password("lead", PASSWORD)
    event = AuditEvent.objects.get(name="user:password:set")
    assert event.details == {"user": "lead"}
    assert PASSWORD not in f"{event.reason}{event.subject}"


def test_nobody_is_created(set_password: Run) -> None:
    with pytest.raises(CommandError, match="no active person"):
        set_password("nobody", PASSWORD)
    assert not User.objects.exists()


@pytest.mark.parametrize("typed", ["", "\n", "short", "password1234"])
def test_a_weak_password_is_refused_and_changes_nothing(person: User, set_password: Run, typed: str) -> None:
    with pytest.raises(CommandError):
        set_password("lead", typed)
    person.refresh_from_db()
    assert person.check_password("the password before this")
    assert not AuditEvent.objects.filter(name="user:password:set").exists()


def test_somebody_who_was_disabled_stays_out(person: User, set_password: Run) -> None:
    person.is_active = False
    person.save()
    with pytest.raises(CommandError, match="no active person"):
        set_password("lead", PASSWORD)
