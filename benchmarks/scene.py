"""Everything that is up during the rounds: the servers, the installations, the workload files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.keyturn import Installation, Size, answers, ask, bare_environment, path_of
from benchmarks.load import Pattern, distinct, encode, get, post
from benchmarks.measure import Case, Writer
from benchmarks.openbao import OpenBao
from benchmarks.plans import Plan, Scale
from benchmarks.postgres import PostgreSQL
from benchmarks.processes import Cores, Failed, Memory, Processes, free_port, memory_of, running_on, wait_for

UNBOUNDED = ("large-any",)  # targets of which a cache holds a part
CHECKED = 20  # answers looked at one by one


@dataclass(frozen=True)
class Target:
    """Who is asked what. ``delivers``: every answer must be recorded."""

    port: int
    server: int
    patterns: list[Pattern]
    database: str = ""
    delivers: bool = False


class Scene:
    """Starts what ``wanted`` names; the processes end with ``processes``."""

    def __init__(
        self,
        processes: Processes,
        postgres: PostgreSQL,
        folder: Path,
        scale: Scale,
        cores: Cores,
        say: Callable[[str], None],
    ) -> None:
        self._processes = processes
        self._postgres = postgres
        self._folder = folder
        self._scale = scale
        self._cores = cores
        self._say = say
        self.installations: dict[str, Installation] = {}
        self.vaults: dict[str, OpenBao] = {}
        self._hello = free_port()
        self._secrets: list[str] = []

    def start(self, wanted: Collection[str]) -> None:
        """Seed on every core, then start every server on its own."""
        sizes = {
            "main": Size(self._scale.hot, self._scale.hot, self._scale.hot // self._scale.shifting),
            "small": Size(self._scale.small, self._scale.small),
            "large": Size(self._scale.keys, self._scale.small, self._scale.keys // self._scale.due),
            "pages": Size(self._scale.pages, self._scale.small, 100),
        }
        for name in [name for name in sizes if name in wanted]:
            self._say(f"seeding {sizes[name].keys:,} keys ({name})")
            made = Installation(self._processes, self._postgres, self._folder, name, sizes[name])
            made.prepare()
            self.installations[name] = made
        if self.installations:
            # Later it would come in the middle of a measurement.
            self._postgres.execute("postgres", "CHECKPOINT")
        self._postgres.move_to(self._cores.server)
        if "main" in self.installations:
            self._secrets = self._open_secrets(self.installations["main"])
        with running_on(self._cores.server):
            self._start_servers(wanted)

    def _start_servers(self, wanted: Collection[str]) -> None:
        for name in [name for name in ("openbao", "openbao-unaudited") if name in wanted]:
            vault = OpenBao.start(self._processes, self._folder / name, audited=name == "openbao")
            self.vaults[name] = vault
        if "openbao" in self.vaults:
            self._say(f"writing {self._scale.hot:,} secrets to OpenBao")
            self.vaults["openbao"].fill(self._secrets or (f"bench-{n:050d}" for n in range(self._scale.hot)))
        for installation in self.installations.values():
            installation.serve()
        if "hello" in wanted:
            self._start_hello()

    def _start_hello(self) -> None:
        port = str(self._hello)
        environment = bare_environment(self._folder / "hello", KEYTURN_LISTEN_PORT=port)
        self._processes.start("hello", [sys.executable, "-m", "benchmarks.hello"], environment)

        def answered() -> bool:
            self._processes.check("hello")
            return answers(self._hello, "/", 200)

        wait_for(answered, "hello world answers")

    def _open_secrets(self, installation: Installation) -> list[str]:
        name, count = "open-secrets", str(self._scale.hot)
        command = installation.module("benchmarks.seeding", "secrets", count)
        self._processes.run(name, command, installation.environment)
        texts: list[str] = json.loads(installation.file("bench-secrets.json").read_text())
        return texts

    def start_writer(self) -> Writer | None:
        """The process that changes keys of the main installation; None where that is not wanted."""
        main = self.installations.get("main")
        if main is None:
            return None
        command = main.module("benchmarks.writer")
        return Writer(self._processes.start("writer", command, main.environment, talk=True))

    def case(self, plan: Plan) -> Case:
        """The plan with its server and its workload file."""
        target = self._target(plan.target)
        path = self._folder / f"{plan.target}.workload"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_bytes(encode(target.patterns))
        return Case(
            name=plan.name,
            title=plan.title.format(keys=f"{self._scale.keys:,}"),
            port=target.port,
            workload=path,
            connections=plan.connections,
            server=target.server,
            database=target.database,
            change=plan.change,
            delivers=target.delivers,
            distinct=distinct(target.patterns) if plan.target not in UNBOUNDED else 0,
        )

    def _target(self, name: str) -> Target:
        hot = self._scale.hot - 1
        if name in ("kv", "lookup", "lookup-unaudited"):
            vault = self.vaults["openbao-unaudited" if name == "lookup-unaudited" else "openbao"]
            token = f"X-Vault-Token: {vault.token}"
            read = get(vault.port, "/v1/secret/data/bench-#", header=token, last=hot)
            lookup = get(vault.port, "/v1/auth/token/lookup-self", header=token)
            return Target(vault.port, self._processes.pid(vault.name), [read if name == "kv" else lookup])
        if name == "hello":
            # The same request as a delivery; the token is as long as one of ours.
            asked = get(self._hello, path_of("#"), header=f"X-API-Key: {'k' * 57}", last=hot)
            return Target(self._hello, self._processes.pid("hello"), [asked])
        return self._keyturn_target(name, hot)

    def _keyturn_target(self, name: str, hot: int) -> Target:
        place = self.installations[{"delivery": "main", "verify": "main"}.get(name, name.partition("-")[0])]
        tokens = [f"X-API-Key: {token}" for token in place.tokens]
        if name == "verify":
            asked = [post(place.port, "/v1/verify/", {"key": one}, header=tokens[0]) for one in self._secrets]
            return Target(place.port, place.server_pid, asked, place.name)
        if name == "large-any":
            asked = list(_spread(place, tokens))
        else:
            last = hot if name == "delivery" else self._scale.small - 1
            asked = [get(place.port, path_of("#"), header=tokens[0], last=last)]
        return Target(place.port, place.server_pid, asked, place.name, delivers=True)

    # Are these the right answers? ------------------------------------------------------------------

    def check_answers(self) -> None:
        """Before the rounds: everybody gives the secret that was put in. Raises ``Failed``."""
        main, vault = self.installations.get("main"), self.vaults.get("openbao")
        step = self._scale.hot // self._scale.shifting
        for number in range(1, CHECKED * step, step):  # none of these is shifting
            if main is not None and main.deliver(number)["key"] != self._secrets[number]:
                raise Failed("Keyturn delivers another secret than was sealed")
            if main is not None and vault is not None and vault.read(number) != self._secrets[number]:
                raise Failed("OpenBao gives another secret than was written")

    def check_verify(self) -> str:
        """Why ``POST /v1/verify/`` cannot be measured; "" if it can."""
        main = self.installations["main"]
        body = {"key": self._secrets[1]}
        status, answer = ask(main.port, "POST", "/v1/verify/", token=main.tokens[0], body=body)
        if status != 200 or answer.get("valid") is not True:
            return f"POST /v1/verify/ answered {status} {answer}"
        return ""

    def check_changes(self) -> None:
        """After the rounds: what the writer left is what is delivered. Raises ``Failed``."""
        main = self.installations["main"]
        step = self._scale.hot // self._scale.shifting
        for number in range(0, CHECKED * step, step):
            question = (
                "SELECT weight FROM keyvault_key AS key JOIN keyvault_service AS service"
                f" ON service.id = key.service_id WHERE service.slug = 'bench-{number}'"
            )
            if main.deliver(number)["weight"] != self._postgres.number("main", question):
                raise Failed("a committed change was not delivered")

    def check_records(self, cases: Iterable[Case], answered: dict[str, int]) -> None:
        """Every answer that the loader got must be recorded. Raises ``Failed``."""
        for name, installation in self.installations.items():
            got = sum(answered.get(case.name, 0) for case in cases if case.delivers and case.database == name)
            kept = installation.records()
            if kept < got:
                raise Failed(f"{got} answers of {name}, but only {kept} records")

    def memory(self) -> dict[str, Memory]:
        """Of each worker of Keyturn, and of OpenBao."""
        held = {self.worker_name(one): memory_of(one.worker) for one in self.installations.values()}
        return held | {name: self._processes.memory(one.name) for name, one in self.vaults.items()}

    def worker_name(self, one: Installation) -> str:
        return f"worker of Keyturn with {one.size.keys:,} keys"


def _spread(place: Installation, tokens: list[str]) -> Iterable[Pattern]:
    """Any key of an installation, each asked by the consumer that may have it."""
    for number, token in enumerate(tokens):
        first = number * place.size.per_consumer
        last = min(first + place.size.per_consumer, place.size.keys) - 1
        one = get(place.port, path_of("#"), header=token, last=last)
        yield Pattern(one.before, one.after, first, last)
