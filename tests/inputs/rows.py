"""All rows of the catalogue, in its order."""

from __future__ import annotations

from tests.inputs import addresses, bodies, credentials, engine, paths, secrets, tokens, trouble
from tests.inputs.table import ROWS, Row

MODULES = (addresses, bodies, credentials, engine, paths, secrets, tokens, trouble)
CATALOGUE: list[Row] = sorted(ROWS, key=lambda row: row.id)
