"""The supervisor's rules that need no process."""

from __future__ import annotations

import socket

import pytest

from keyvault.project.supervisor import (
    HEALTHY_AFTER,
    LONGEST_BACK_OFF,
    CannotServe,
    Child,
    back_off,
    choose_port,
    local_url,
)


def test_back_off_doubles_up_to_a_limit() -> None:
    assert [back_off(failures) for failures in range(6)] == [0, 0.5, 1, 2, 4, 8]
    assert back_off(50) == LONGEST_BACK_OFF


def test_a_long_life_forgives_earlier_failures() -> None:
    child = Child("web", started_at=100.0, failures=5)
    child.note_end(100.0 + HEALTHY_AFTER)
    assert child.failures == 1
    child.started_at = 200.0
    child.note_end(201.0)
    assert (child.failures, child.not_before) == (2, 201.0 + back_off(2))


def test_a_port_in_use_is_refused_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CannotServe, match="Cannot listen"):
            choose_port("127.0.0.1", taken.getsockname()[1])


def test_port_zero_is_any_free_one() -> None:
    assert choose_port("127.0.0.1", 0) > 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("keys.example.org", "http://keys.example.org:80"),
    ],
)
def test_the_printed_address_works_on_this_machine(host: str, url: str) -> None:
    assert local_url(host, 80) == url
