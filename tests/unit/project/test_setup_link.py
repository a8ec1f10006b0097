"""The one-time link that makes the first administrator."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from keyvault.project.files import ensure_secret_key
from keyvault.setup import LIFETIME, check_setup_token, consume_setup_token, create_setup_token

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_a_fresh_token_works_once(data_dir: Path) -> None:
    token = create_setup_token(NOW).expose()
    assert check_setup_token(token, NOW)
    assert check_setup_token(token, NOW), "looking does not use it up"
    assert consume_setup_token(token, NOW)
    assert not consume_setup_token(token, NOW)
    assert not check_setup_token(token, NOW)


def test_a_wrong_old_or_replaced_token_does_not_work(data_dir: Path) -> None:
    first = create_setup_token(NOW).expose()
    assert not check_setup_token(f"{first}x", NOW)
    assert not consume_setup_token(first, NOW + LIFETIME)
    assert check_setup_token(first, NOW + LIFETIME - timedelta(seconds=1))
    second = create_setup_token(NOW).expose()
    assert not check_setup_token(first, NOW)
    assert check_setup_token(second, NOW)


def test_the_file_is_private_and_holds_no_token(data_dir: Path) -> None:
    token = create_setup_token(NOW).expose()
    file = data_dir / "setup.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()
    assert [path.name for path in data_dir.iterdir() if "setup" in path.name] == ["setup.json"]


def test_without_a_link_nothing_is_accepted(data_dir: Path) -> None:
    assert not check_setup_token("", NOW)
    assert not consume_setup_token("anything", NOW)


def test_the_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "secret_key"
    first = ensure_secret_key(file)
    assert len(first) >= 50
    assert ensure_secret_key(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]
