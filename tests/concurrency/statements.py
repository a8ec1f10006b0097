"""What a server asked of PostgreSQL, as PostgreSQL itself tells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg

from tests.installations import Installation


class Asked(NamedTuple):
    """Statements: looks at the change log, batches, and all of them with those of the test itself."""

    looks: int = 0
    batches: int = 0
    all: int = 0


@dataclass
class Statements:
    """What PostgreSQL was asked in one database, from its log."""

    log: Path
    seen: int = 0

    @classmethod
    def of(cls, installation: Installation) -> Statements:
        """Only connections that are made from now on are told of."""
        with psycopg.connect(installation.url, autocommit=True) as admin:
            name = admin.info.dbname
            admin.execute(f"ALTER DATABASE \"{name}\" SET log_statement = 'all'")
        return cls(Path(os.environ["KEYTURN_TEST_BASE"]) / "postgresql" / "log")

    def since(self) -> Asked:
        """What was asked after the last look at it."""
        with self.log.open("rb") as log:
            log.seek(self.seen)
            fresh = log.read()
        self.seen += len(fresh)
        lines = fresh.decode(errors="replace").splitlines()
        lines = [line for line in lines if " LOG:  execute " in line or " LOG:  statement: " in line]
        return Asked(
            looks=sum("FROM keyvault_changecounter c LEFT JOIN" in line for line in lines),
            batches=sum("WITH now AS" in line for line in lines),
            all=len(lines),
        )
