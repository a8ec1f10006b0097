"""Delivery's own steps without a server, at a time of the test's choosing."""

from __future__ import annotations

from datetime import datetime

from keyvault import keystore
from keyvault.delivery import loading
from keyvault.delivery.authenticate import Caller
from keyvault.delivery.cache import Cache, Missing, View
from keyvault.delivery.choose import Choice, choose_version
from keyvault.delivery.grant import find_permit
from keyvault.models import ConsumerToken, Delivery, KeyVersion
from keyvault.upsert import insert


class Desk:
    """Answers one consumer token as a server would that has just read the rows."""

    def __init__(self, token: ConsumerToken) -> None:
        self._token = token
        self._cache = Cache(100)

    def forget(self) -> None:
        """To be called after every step that may change a key, its versions or its jobs: in a test's
        transaction no change is logged before it commits."""
        for table in (self._cache.keys, self._cache.versions, self._cache.jobs):
            table.clear()

    def choose(self, service: str, environment: str, instance: str, now: datetime) -> Choice:
        """The version that delivery gives this instance. Raises what delivery would answer."""
        while True:
            view = View(self._cache, keystore.keys(), now)
            try:
                return self._choose(view, service, environment, instance)
            except Missing as missing:
                self._cache.apply(loading.look(self._cache.seen, {missing.kind: {missing.name}}))

    def _choose(self, view: View, service: str, environment: str, instance: str) -> Choice:
        token = view.token(self._token.id.bytes)
        assert token is not None
        permit = find_permit(view, Caller(token, "consumer_token", None, None), service, environment)
        assert permit is not None
        return choose_version(view, permit, instance, None)

    def record(self, version: KeyVersion, instance: str, label: str, now: datetime) -> None:
        """The row that the answer leaves behind."""
        row = Delivery(
            at=now,
            key_id=version.key_id,
            version=version,
            consumer_id=self._token.consumer_id,
            token=self._token,
            instance=instance,
            label=label,
            credential="consumer_token",
            status=200,
            request_id="story",
        )
        insert(row)
