"""Celery settings for each kind of broker. Pure: a URL and a directory in, settings out.

The database is the truth and a message only wakes a worker, so a lost message costs one tick. The
figures come from crash tests against the real brokers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_COMMON: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_ignore_result": True,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "worker_hijack_root_logger": False,
    "worker_soft_shutdown_timeout": 10.0,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "task_store_errors_even_if_ignored": False,
    # Bounded: a web request that rings the bell must not hang when the broker is away.
    "task_publish_retry_policy": {
        "max_retries": 1,
        "interval_start": 0.1,
        "interval_step": 0.1,
        "interval_max": 0.2,
    },
    "timezone": "UTC",
    "enable_utc": True,
}

_REDIS_SCHEMES = {"redis", "rediss", "valkey", "valkeys", "redis+socket"}
_AMQP_SCHEMES = {"amqp", "amqps", "pyamqp"}


# Seconds; longer than any task, because Redis hands a message out again after it.
VISIBILITY_TIMEOUT = 300


def broker_settings(
    url: str, data_dir: Path, *, visibility_timeout: int = VISIBILITY_TIMEOUT
) -> dict[str, Any]:
    """Celery settings for the broker at ``url``; an empty one means files below ``data_dir``.

    ``visibility_timeout`` (seconds, Redis only) is when the message of a killed worker comes back.

    Redis and Valkey (``redis://``, ``rediss://``, ``valkey://``, ``valkeys://``) and RabbitMQ (``amqp://``,
    ``amqps://``) are known. Raises ``ValueError``, without the URL, for anything else.
    """
    scheme = url.partition("://")[0].lower() if url else "filesystem"
    if scheme == "filesystem":
        return {**_COMMON, **_filesystem(data_dir)}
    if scheme in _REDIS_SCHEMES:
        return {**_COMMON, **_redis(url, visibility_timeout)}
    if scheme in _AMQP_SCHEMES:
        return {**_COMMON, **_rabbitmq(url)}
    raise ValueError("CELERY_BROKER_URL must be empty, redis://, rediss://, valkey://, amqp:// or amqps://.")


def _filesystem(data_dir: Path) -> dict[str, Any]:
    queue = str(data_dir / "queue")
    return {
        # kombu warns at every connection that has no host name.
        "broker_url": "filesystem://localhost//",
        # It would broadcast through files that nobody reads.
        "worker_enable_remote_control": False,
        "broker_transport_options": {
            "data_folder_in": queue,
            "data_folder_out": queue,
            "control_folder": str(data_dir / "queue-ctl"),
            "polling_interval": 0.25,
        },
    }


def _redis(url: str, visibility_timeout: int) -> dict[str, Any]:
    # kombu speaks to Valkey through the redis client and knows no name of its own for it.
    return {
        "broker_url": url.replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1),
        "broker_transport_options": {
            "visibility_timeout": visibility_timeout,
            # Without these two the sweep for such messages runs every hundred seconds.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
    }


def _rabbitmq(url: str) -> dict[str, Any]:
    return {
        "broker_url": url,
        # Quorum queues survive the loss of a node; confirms make "sent" mean "kept".
        "task_default_queue_type": "quorum",
        "broker_transport_options": {"confirm_publish": True},
    }
