"""Real receivers of notices on loopback: a web server for chat and webhooks, and a small mail server."""

from __future__ import annotations

import http.server
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any


@dataclass
class Posted:
    """One request that came in."""

    headers: dict[str, str]
    body: bytes


@dataclass
class WebReceiver:
    """Answers each POST with the first of ``script`` that is left, else 200; remembers what came."""

    host_port: str = ""
    posted: list[Posted] = field(default_factory=list)
    script: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    always: tuple[int, dict[str, str]] = (200, {})

    @property
    def url(self) -> str:
        return f"http://{self.host_port}/hook/T0Secret7391"


@contextmanager
def web_receiver() -> Iterator[WebReceiver]:
    receiver = WebReceiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.posted.append(Posted({k.lower(): v for k, v in self.headers.items()}, body))
            status, headers = receiver.script.pop(0) if receiver.script else receiver.always
            self.send_response_only(status)
            for name, text in {"Content-Length": "0", **headers}.items():
                self.send_header(name, text)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """The tests look at what was received instead."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.host_port = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@dataclass
class MailServer:
    """Takes mail; ``refusals`` maps a recipient, or DATA, to the answer it gets."""

    port: int = 0
    taken: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)

    def subjects_to(self, address: str) -> list[str]:
        return [str(message["Subject"]) for to, message in self.taken if address in to]

    @property
    def everything(self) -> str:
        return "\n".join(message.as_string() for _, message in self.taken)


@contextmanager
def mail_server() -> Iterator[MailServer]:
    server = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 mail.test ESMTP")
            recipients: list[str] = []
            while line := self.rfile.readline().decode().strip():
                verb, argument = line[:4].upper(), line.partition("<")[2].partition(">")[0]
                if verb == "QUIT":
                    self.say("221 bye")
                    return
                if verb == "RCPT" and argument in server.refusals:
                    self.say(server.refusals[argument])
                elif verb == "DATA":
                    self.take(recipients)
                    recipients = []
                else:
                    if verb == "RCPT":
                        recipients.append(argument)
                    self.say("250 ok")

        def take(self, recipients: list[str]) -> None:
            self.say("354 go on")
            lines = []
            while (line := self.rfile.readline()) != b".\r\n":
                lines.append(line[1:] if line.startswith(b"..") else line)
            if "DATA" in server.refusals:
                self.say(server.refusals["DATA"])
                return
            message = message_from_bytes(b"".join(lines), policy=policy.default)
            assert isinstance(message, EmailMessage)
            server.taken.append((recipients, message))
            self.say("250 taken")

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        block_on_close = True

    with Server(("127.0.0.1", 0), Handler) as listener:
        server.port = listener.server_address[1]
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
