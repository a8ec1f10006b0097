"""B63 and B64: secrets that come in, one by one and by the file."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

from django.core.management import CommandError, call_command

from keyvault.crypto.tokens import TokenKind, mint
from tests.inputs.table import Table, row

HEAD = "service,environment,secret\n"


def _file_refused(t: Table, text: bytes, rows: list[int]) -> None:
    """The command says which rows are wrong, repeats no cell, and imports nothing."""
    t.counted += 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.csv"
        path.write_bytes(text)
        path.chmod(0o600)
        out = io.StringIO()
        try:
            call_command("import_keys", str(path), "--json", stdout=out)
        except CommandError as error:
            said = f"{error}{out.getvalue()}"
        else:
            raise AssertionError(text[:80])
    found = json.loads(out.getvalue())
    assert found["imported"] == 0
    assert [problem["row"] for problem in found["problems"]] == rows, (text[:80], found)
    assert "sk_never" not in said


@row("B63", "an import file that is doubtful")
def files(t: Table) -> None:
    slug = t.world.service.slug
    good, other = f"{slug},dev,sk_never_stored_1f3a5b7c\n", f"{slug},staging,sk_never_stored_2e4d6f8a\n"
    for text, rows in (
        (HEAD + good + good.replace("1f3a", "9b8c"), [3]),
        (HEAD + good + f"{slug},staging,=HYPERLINK(sk_never)\n" + other, [3]),
        (HEAD + good + f"{slug},staging,@SUM(sk_never)\n", [3]),
        (HEAD + good + other.replace("\n", "\r\n"), [3]),
        ("\ufeff" + HEAD + good, [1]),
        (HEAD + good + "a,b\n", [3]),
        (HEAD + good + f'{slug},staging,"sk_never\n', [3]),
        (HEAD.replace("secret", "Secret") + good, [1]),
        (HEAD + good + "nothing,dev,sk_never_stored_3c5e7a9b\n", [3]),
        (HEAD + good + f"{slug},nowhere,sk_never_stored_3c5e7a9b\n", [3]),
        (HEAD + f"{slug},prod,sk_never_stored_3c5e7a9b\n" + good, [2]),  # has one already
    ):
        _file_refused(t, text.encode(), rows)
    _file_refused(t, (HEAD + good).encode() + b"\xff,dev,sk_never\n", [3])
    many = "".join(f"{slug},dev,sk_never_{number:08}abcdef\n" for number in range(10_001))
    _file_refused(t, (HEAD + many).encode(), [10_002])


@row("B64", "a secret that looks like a mistake of copying")
def secrets(t: Table) -> None:
    path = f"/v1/services/{t.world.service.slug}/keys/"
    own = mint(TokenKind.CONSUMER, "dev").expose()
    for secret in (
        "", " ", "sk_never_stored\n", "\nsk_never_stored", "sk_never\r\nX-Evil: y",
                "sk never stored", " sk_never_stored", '"sk_never_stored"', "‘sk_never_stored’",
        "YOUR_API_KEY",
        "sk_****************", "sk_never…stored", "ключ_никогда", "sk_never\u200bstored", "${API_KEY}", own,
        t.admin, t.world.token, mint(TokenKind.ISSUED, "prod").expose(), "xxxxxxxxxxxx", 5, None,
        ["sk_never"], True,
    ):  # fmt: skip
        sent = secret if isinstance(secret, str) and len(secret) > 3 else ""
        reply = t.person("POST", path, {"environment": "dev", "secret": secret})
        t.invalid(reply, "secret", sent=sent)
    nul = {"environment": "dev", "secret": "sk_never\x00stored"}
    t.refused(t.person("POST", path, nul), 400, "validation_error")
    # Larger than a body may be, it does not come that far.
    large = {"environment": "dev", "secret": "k" * 65_537}
    t.refused(t.person("POST", path, large), 413, "payload_too_large")
    # The same value in another environment is one secret too many.
    held = {"environment": "dev", "secret": t.world.secret}
    t.invalid(t.person("POST", path, held), "secret", sent=t.world.secret)
