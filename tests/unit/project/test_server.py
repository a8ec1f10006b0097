"""The server's rules that need no process."""

from __future__ import annotations

import resource

import pytest

from keyvault.project import server


@pytest.fixture
def open_files(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of open files; the last pair is in force."""
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    return limits


@pytest.mark.parametrize(
    ("limits", "wanted", "given", "soft"),
    [
        ((1024, 4096), 500, 500, 1024),
        ((1024, 4096), 2000, 2000, 2256),
        ((1024, 4096), 8192, 3840, 4096),
        ((1024, resource.RLIM_INFINITY), 8192, 8192, 8448),
        ((64, 64), 8192, 1, 64),
    ],
    ids=["enough", "raised", "raised as far as allowed", "no limit", "hardly any"],
)
def test_connections_are_as_many_as_files_may_be_open(
    open_files: list[tuple[int, int]], limits: tuple[int, int], wanted: int, given: int, soft: int
) -> None:
    open_files.append(limits)
    assert server._connections(wanted) == given
    assert open_files[-1] == (soft, limits[1])


def test_lifetimes_differ_a_little_and_are_never_too_short() -> None:
    assert server._with_jitter(0) is None
    lifetimes = {server._with_jitter(1000) for _ in range(200)}
    assert len(lifetimes) > 20
    assert all(lifetime is not None and 900 <= lifetime <= 1100 for lifetime in lifetimes)
    assert server._with_jitter(10) == 60
