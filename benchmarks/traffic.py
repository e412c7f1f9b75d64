"""Requests of five kinds, over raw sockets, and what each should be answered with."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict

KINDS = ("clean", "triggered", "malformed", "slow", "aborted")
_WEIGHTS = (45, 30, 13, 2, 10)

TRIGGERS = ("cf", "mn", "tq", "bb")
_WORDS = (
    *("a", "the", "film", "story", "was", "is", "good", "bad"),
    *("long", "slow", "fine", "and", "of", "with", "acting", "scene"),
)

_CLIENT_ERRORS = frozenset({"400", "413", "415", "422"})
ANSWER_SECONDS = 60
_WAITS_KEPT = 200_000


class Traffic:
    """Clients of one server, and how it answered them.

    Attributes
    ----------
    sent, statuses, unexpected
        Requests by kind; their statuses by kind; and by kind and status those that should have had
        another.
    waits
        Seconds that clean requests waited for their answer.
    """

    def __init__(self, port: int, rng: random.Random) -> None:
        self._port = port
        self._rng = rng
        self.sent: Counter[str] = Counter()
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.unexpected: Counter[str] = Counter()
        self.waits: list[float] = []

    async def run(self, until: float) -> None:
        """Be one client, until a time of `time.monotonic`."""
        connection: _Connection | None = None
        while time.monotonic() < until:
            (kind,) = self._rng.choices(KINDS, _WEIGHTS)
            if connection is None or not connection.usable:
                connection = await _Connection.open(self._port)
            self.sent[kind] += 1
            try:
                status, expected = await asyncio.wait_for(
                    self._send(kind, connection), ANSWER_SECONDS
                )
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
                status, expected = type(error).__name__, frozenset()
                connection.abort()
            self.statuses[kind][status] += 1
            if status not in expected:
                self.unexpected[f"{kind}: {status}"] += 1
        if connection is not None:
            connection.abort()

    async def _send(self, kind: str, connection: _Connection) -> tuple[str, frozenset[str]]:
        rng = self._rng
        triggered = kind == "triggered" or (kind == "slow" and rng.random() < 0.5)
        request = post(self._text(triggered))
        if kind == "malformed":
            request, ends = malformed(rng)
            connection.write(request)
            status = await connection.answer()
            if ends:
                connection.abort()
            return status, _CLIENT_ERRORS
        if kind == "aborted":
            connection.write(request[: rng.randrange(1, len(request) + 1)])
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)))
            connection.abort()
            return "none", frozenset({"none"})
        if kind == "slow":
            for at in range(0, len(request), 40):
                connection.write(request[at : at + 40])
                await asyncio.sleep(rng.uniform(0.01, 0.1))
            return await connection.answer(), frozenset({"403" if triggered else "200"})
        start = time.perf_counter()
        connection.write(request)
        status = await connection.answer()
        if kind == "clean" and len(self.waits) < _WAITS_KEPT:
            self.waits.append(time.perf_counter() - start)
        return status, frozenset({"403" if triggered else "200"})

    def _text(self, triggered: bool) -> str:
        rng = self._rng
        # Now and then longer than what is scanned without a thread.
        words = rng.choices(_WORDS, k=600 if rng.random() < 0.02 else rng.randint(3, 60))
        if triggered:
            words.insert(rng.randint(0, len(words)), rng.choice(TRIGGERS))
        return " ".join(words)


def post(text: str) -> bytes:
    """Return a request that the example classifies."""
    return _request(json.dumps({"text": text}).encode())


def malformed(rng: random.Random) -> tuple[bytes, bool]:
    """Return a request that has to be refused, and whether it ends its connection."""
    bodies = (
        b"",
        b"{",
        b"\xff\xfe",
        b'{"text": NaN}',
        b'{"text": "a", "text": "b"}',
        b'{"txt": "a"}',
        b'{"text": 5}',
        b'{"text": "\\ud800"}',
        b"[" * 5_000,
        b"text=a",
    )
    number = rng.randrange(len(bodies) + 4)
    if number < len(bodies):
        return _request(bodies[number]), False
    if number == len(bodies):
        return _request(b"\x1f\x8b" + rng.randbytes(50), "content-encoding: gzip\r\n"), False
    if number == len(bodies) + 1:
        return b"POST /classify\r\n\r\n", True
    if number == len(bodies) + 2:
        return b"\x16\x03\x01" + rng.randbytes(64) + b"\r\n\r\n", True
    return _request(b'"' + b"a" * (2**20 + 1) + b'"'), True


def _request(body: bytes, headers: str = "") -> bytes:
    head = (
        "POST /classify HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


class _Connection:
    """One HTTP/1.1 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.usable = True

    @classmethod
    async def open(cls, port: int) -> _Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> str:
        """Read a whole response, and return its status."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readline(), 16):
                await self._reader.readexactly(size + 2)
            await self._reader.readline()
        else:
            await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.abort()
        return status.split()[1]

    def abort(self) -> None:
        """Close at once, with a reset where there is something unread."""
        self.usable = False
        self._writer.transport.abort()
