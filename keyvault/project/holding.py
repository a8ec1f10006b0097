"""Every process that lives on tells the database which KEKs it holds: nobody promotes one that it lacks."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from typing import Final

import structlog
from django.db import DatabaseError, connection

from keyvault import clock
from keyvault.crypto.errors import KeyringError, KeyServiceUnavailable
from keyvault.crypto.keyring import Keys
from keyvault.keystore import keys
from keyvault.services import kek_holders

log = structlog.get_logger("keyturn.keks")

_LOOK_EVERY: Final = 0.25  # seconds; a changed keyring is told at once
_END_WITHIN: Final = 5.0


class Reporter:
    """A thread of a web process or a worker."""

    def __init__(self, kind: str) -> None:
        self._id = uuid.uuid4()
        self._title = f"{kind} {os.getpid()} on {socket.gethostname()}"[:255]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kek-holder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(_END_WITHIN)

    def _run(self) -> None:
        told: Keys | None = None
        told_at = 0.0
        while not self._over.is_set():
            try:
                held = keys()
                if held is not told or time.monotonic() - told_at >= kek_holders.EVERY:
                    kek_holders.report(self._id, self._title, now=clock.now())
                    told, told_at = held, time.monotonic()
            except (DatabaseError, KeyringError, KeyServiceUnavailable) as error:
                log.warning("keks not told", error=type(error).__name__)
            finally:
                connection.close()
            self._over.wait(_LOOK_EVERY)
        self._leave()

    def _leave(self) -> None:
        try:
            kek_holders.leave(self._id)
        except DatabaseError as error:
            log.warning("keks not told", error=type(error).__name__)  # it counts as dead in a minute
        finally:
            connection.close()
