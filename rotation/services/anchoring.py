"""Keeping checkpoints of the audit chain: in the data directory, and wherever else they are wanted.

A checkpoint tells where the chain stands; the next one tells more. So one that does not arrive somewhere
costs nothing but time, and is not sent again.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from logging.handlers import SYSLOG_UDP_PORT, SysLogHandler
from pathlib import Path
from typing import Final, Never
from urllib.parse import urlsplit

import structlog
from django.conf import settings

from keyvault.services import beats, checkpoints
from keyvault.services.checkpoints import Checkpoint
from rotation import egress

log = structlog.get_logger("keyturn.checkpoints")

# It is looked after every 15 seconds: none is older than a minute while events come.
EVERY: Final = timedelta(seconds=40)
MOST_EVENTS: Final = 1_000
HEARTBEAT: Final = "checkpoint"


class NotKept(Exception):
    """A place did not take a checkpoint; the text is safe to log."""


def own_directory() -> Path:
    """Where this host keeps its checkpoints."""
    return Path(settings.KEYTURN_DATA) / "checkpoints"


def keep(now: datetime) -> Checkpoint | None:
    """Write a checkpoint if one is due, here and at every other place. Returns it.

    Nothing is written for a database that lies behind its last checkpoint: that would hide it. Raises
    ``OSError`` where the data directory does not take it.
    """
    here, last = checkpoints.here(now), checkpoints.newest(own_directory())
    if last is not None and last.installation == here.installation:
        if not _is_due(last, here):
            return None
        if last.is_ahead_of(here):
            log.error(
                "the database lies behind its last checkpoint", sequence=here.sequence, was=last.sequence
            )
            return None
    return write(here)


def write(checkpoint: Checkpoint) -> Checkpoint:
    """Sign a checkpoint and hand it to every place; returns it as it was written."""
    linked, line = checkpoints.linked(own_directory(), checkpoint)
    checkpoints.append(own_directory(), line, linked.at)
    for place in settings.KEYTURN_CHECKPOINTS_TO:
        try:
            _send(place, line, linked)
        except NotKept as error:
            log.warning("checkpoint not kept", place=urlsplit(place).scheme, reason=str(error))
    beats.note(HEARTBEAT, linked.at)
    return linked


def _is_due(last: Checkpoint, here: Checkpoint) -> bool:
    if (last.sequence, last.mac) == (here.sequence, here.mac):
        return False
    return abs(here.at - last.at) >= EVERY or abs(here.sequence - last.sequence) >= MOST_EVENTS


def _send(place: str, line: bytes, checkpoint: Checkpoint) -> None:
    """Raises ``NotKept``."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        try:
            checkpoints.append(Path(parts.path), line, checkpoint.at)
        except OSError as error:
            raise NotKept(f"the folder does not take it ({error.strerror})") from error
    elif parts.scheme == "syslog":
        _to_syslog(place, line)
    else:
        _post(place, line)


def _post(url: str, line: bytes) -> None:
    try:
        answer = egress.request(
            "POST",
            url,
            headers={"Content-Type": "application/json"},
            content=line,
            allow_hosts=frozenset(settings.KEYTURN_EGRESS_ALLOW),
        )
    except egress.EgressError as error:
        raise NotKept(error.message) from error
    if not 200 <= answer.status < 300:
        raise NotKept(f"the other side answers {answer.status}")


class _Syslog(SysLogHandler):
    """One that tells of failures, where logging hides them."""

    def handleError(self, record: logging.LogRecord) -> Never:
        raise  # noqa: PLE0704 - it is called while an exception is handled


def _to_syslog(place: str, line: bytes) -> None:
    parts = urlsplit(place)
    address = (parts.hostname, parts.port or SYSLOG_UDP_PORT) if parts.hostname else parts.path
    try:
        handler = _Syslog(address=address, facility=SysLogHandler.LOG_AUTHPRIV)
        try:
            handler.emit(
                logging.LogRecord(
                    "keyturn", logging.INFO, "", 0, f"keyturn-checkpoint: {line.decode()}", None, None
                )
            )
        finally:
            handler.close()
    except OSError as error:
        raise NotKept(f"syslog does not take it ({type(error).__name__})") from error
