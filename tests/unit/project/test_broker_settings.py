"""Which Celery settings belong to which broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyvault.project.broker import broker_settings

DATA = Path("/data")
ALL_URLS = ["", "filesystem://", "redis://h/0", "rediss://h/0", "valkey://h/0", "amqp://h//", "amqps://h//"]


@pytest.mark.parametrize("url", ALL_URLS)
def test_every_broker_gets_the_rules_that_keep_work_safe(url: str) -> None:
    found = broker_settings(url, DATA)
    assert found["task_acks_late"] is True
    assert found["task_reject_on_worker_lost"] is True
    assert found["worker_prefetch_multiplier"] == 1
    assert found["task_ignore_result"] is True
    assert found["accept_content"] == ["json"]
    assert found["task_serializer"] == "json"
    assert found["task_publish_retry_policy"]["max_retries"] == 1


def test_without_a_url_messages_are_files_below_the_data_directory() -> None:
    found = broker_settings("", DATA)
    options = found["broker_transport_options"]
    assert found["broker_url"].startswith("filesystem://")
    assert options["data_folder_in"] == options["data_folder_out"] == "/data/queue"
    assert options["control_folder"] == "/data/queue-ctl"
    assert found["worker_enable_remote_control"] is False


def test_redis_brings_the_message_of_a_killed_worker_back_soon() -> None:
    options = broker_settings("redis://h/0", DATA)["broker_transport_options"]
    assert options["visibility_timeout"] == 300
    assert (options["unacked_restore_interval"], options["unacked_restore_throttle"]) == (5, 1)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("valkey://h:1/0", "redis://h:1/0"),
        ("valkeys://h:1/0", "rediss://h:1/0"),
        ("redis://h:1/0", "redis://h:1/0"),
    ],
)
def test_valkey_is_spoken_to_as_redis(url: str, seen: str) -> None:
    assert broker_settings(url, DATA)["broker_url"] == seen


def test_rabbitmq_uses_quorum_queues_and_confirms() -> None:
    found = broker_settings("amqp://u:p@h//", DATA)
    assert found["task_default_queue_type"] == "quorum"
    assert found["broker_transport_options"] == {"confirm_publish": True}


def test_an_unknown_broker_is_refused_without_repeating_its_url() -> None:
    with pytest.raises(ValueError, match="CELERY_BROKER_URL") as caught:
        broker_settings("sqs://someone:hunter2@h", DATA)
    assert "hunter2" not in str(caught.value)
