"""How much may be here at once: of requests, and of bodies that are read before it is known who sends them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from boostedcalls.common.errors import ServiceError, problem

# What waits beyond this is refused: each request may hold a body of megabytes.
MAX_IN_FLIGHT = 1024
# The same for those who have proved nothing yet.
MAX_STRANGERS = 256
MAX_STRANGERS_BODY = 16 * 1024
MAX_UNPROVED_BYTES = 24 * 1024 * 1024
# What each part of a body costs besides its bytes, of which there may be one.
_PER_PART = 64


def crowded() -> ServiceError:
    return problem("unavailable", "Too many requests at once", retry_after=1)


@dataclass(slots=True)
class Room:
    """For `most` requests, whose bodies may have `max_body` bytes each. `taken` counts those that were let in and are
    not answered yet."""

    most: int
    max_body: int
    taken: int = 0


def strangers() -> Room:
    return Room(MAX_STRANGERS, MAX_STRANGERS_BODY)


class Unproved:
    """Reads bodies that have yet to prove who sent them: few at once, and all together of `most_bytes`, counted as they
    come. While one is read, its request has no place in the room of those who are known."""

    def __init__(self, room: Room, most: int = MAX_STRANGERS, most_bytes: int = MAX_UNPROVED_BYTES) -> None:
        self._room = room
        self._most = most
        self._most_bytes = most_bytes
        self._reading = 0
        self._bytes = 0

    async def read(self, request: Request) -> bytes:
        """The whole body. Raises ServiceError unavailable when there is no place for it."""
        if self._reading >= self._most or self._bytes >= self._most_bytes:
            raise crowded()
        parts: list[bytes] = []
        held = 0
        self._reading += 1
        self._room.taken -= 1
        try:
            async for part in request.stream():
                held += len(part) + _PER_PART
                self._bytes += len(part) + _PER_PART
                if self._bytes > self._most_bytes:
                    raise crowded()
                parts.append(part)
            return b"".join(parts)
        finally:
            self._room.taken += 1
            self._reading -= 1
            self._bytes -= held
