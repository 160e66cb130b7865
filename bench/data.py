"""The data set that every contender holds: the same users, contacts and calls, made from their numbers alone.

Knows no database: each contender copies these rows into its own tables. Everything here is a function of a number, so
any part can be made again at any time, and the harness can ask for an object without looking it up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import NamedTuple
from uuid import UUID

import orjson

PASSWORD = "correct-horse-battery"  # noqa: S105 - of users that live as long as the run
POOL = 64
SPAN = timedelta(days=365)
FEW_CONTACTS = 5

_REASONS = {
    "completed": "customer-ended-call",
    "failed": "pipeline-error-openai-llm-failed",
    "no-answer": "customer-did-not-answer",
    "busy": "customer-busy",
    "voicemail": "voicemail",
    "cancelled": "manually-canceled",
}
_SHARES = (("completed", 80), ("failed", 5), ("no-answer", 5), ("busy", 4), ("voicemail", 4), ("cancelled", 2))
_STATUS = tuple(status for status, share in _SHARES for _ in range(share))
_PLACES = ("Harbor Clinic", "Lakeside Dental", "Northgate Motors", "Elm Street Optics", "Riverbank Insurance")
_NAMES = ("Dana Reyes", "Amir Haddad", "Lucy Okafor", "Tomas Lind", "Priya Raman", "Jonas Weber", "Mei Tanaka")
_AGENT = (
    "Thanks for taking the call, this will only take a minute of your time.",
    "I can see an appointment for you on Tuesday at three in the afternoon, does that still work for you?",
    "No problem at all, I have Wednesday at half past nine or Thursday at a quarter to five, which one suits you?",
    "Before we finish, may I confirm that this is still the best number to reach you on?",
    "The whole visit takes about forty minutes, and parking behind the building is free for the first hour.",
    "I have noted that down, and somebody from the office will get back to you before the end of the day.",
    "Let me repeat that so that I have it right, and please stop me if anything is not as you said.",
    "There is no charge for moving it, as long as we know about it one working day in advance.",
)
_PERSON = (
    "Yes, that is me, but I am just about to leave the house, so please be quick.",
    "Hm, Tuesday is difficult, could we move it to some morning later that week instead?",
    "Wednesday is fine, half past nine, yes, and would you send me a message so that I do not forget?",
    "I was told on the phone last month that the first visit would not cost anything, is that still so?",
    "Sure, the number is right, although in the evening the other one is better.",
    "Could you say that again, please, the line is rather bad here.",
    "Okay, thank you, that is all that I wanted to know. Goodbye.",
)


def user_id(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-b000-{number:012x}")


def email(number: int) -> str:
    return f"user{number}@example.com"


def contact_id(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-a000-{number:012x}")


def call_id(number: int) -> UUID:
    return UUID(f"01900000-0000-7000-9000-{number:012x}")


def provider_id(number: int) -> str:
    """Of a call that is over."""
    return f"00000000-0000-7000-9000-{number:012d}"


def live_call_id(number: int) -> UUID:
    return UUID(f"01ffffff-0000-7000-9000-{number:012x}")


def live_provider_id(number: int) -> str:
    """Of a call that the webhooks are about."""
    return f"00000000-0000-7000-8000-{number:012d}"


class User(NamedTuple):
    number: int
    id: UUID
    email: str


class Contact(NamedTuple):
    number: int
    id: UUID
    user_id: UUID
    name: str
    phone: str
    email: str
    created_at: datetime


class Call(NamedTuple):
    """A call that is over. `analysis` and `messages` are JSON, as text."""

    number: int
    id: UUID
    user_id: UUID
    contact_id: UUID
    contact_name: str
    contact_phone: str
    provider_id: str
    status: str
    ended_reason: str
    outcome: str | None
    transcript: str
    summary: str
    analysis: str
    messages: str
    started_at: datetime
    ended_at: datetime
    duration_seconds: int
    cost: Decimal
    created_at: datetime
    updated_at: datetime


class LiveCall(NamedTuple):
    """A call of user 0 that is pending and known to the provider; webhooks tell of it."""

    number: int
    id: UUID
    user_id: UUID
    contact_id: UUID
    contact_name: str
    contact_phone: str
    provider_id: str
    created_at: datetime


@dataclass(frozen=True)
class Conversation:
    """A text of the pool: what was said, as one text and as messages."""

    transcript: str
    summary: str
    turns: tuple[tuple[str, str], ...]
    """(role, words): role is `bot` or `user`."""

    @property
    def messages(self) -> list[dict[str, object]]:
        """All of them, as the provider sends them."""
        start = 1795343409020
        return [
            {"role": role, "message": words, "time": start + 4000 * place, "secondsFromStart": 4.0 * place}
            for place, (role, words) in enumerate(self.turns)
        ]


@cache
def conversations() -> tuple[Conversation, ...]:
    """The pool of texts: transcripts of 1 to 4 kB, each another length."""
    chance = random.Random(4)  # noqa: S311
    found: list[Conversation] = []
    for number in range(POOL):
        wanted = 1000 + 3000 * number // (POOL - 1)
        name, place = chance.choice(_NAMES), chance.choice(_PLACES)
        turns = [("bot", f"Hello {name}, this is {place} calling about your appointment, reference {number:04d}.")]
        size = len(turns[0][1]) + 5
        while True:
            role, words = ("user", _PERSON) if len(turns) % 2 else ("bot", _AGENT)
            said = f"{chance.choice(words)} {chance.choice(words)}" if chance.random() < 0.4 else chance.choice(words)
            size += len(said) + (7 if role == "user" else 5)
            if size > wanted:
                break
            turns.append((role, said))
        lines = [f"{'AI' if role == 'bot' else 'User'}: {said}\n" for role, said in turns]
        summary = (
            f"{place} called {name} about an appointment. {name} could not make it on Tuesday and asked for another"
            f" time; it was moved to Wednesday 09:30, and a confirmation by message was promised. Mood: friendly."
        )
        found.append(Conversation("".join(lines), summary, tuple(turns)))
    return tuple(found)


@cache
def stored_texts() -> tuple[tuple[str, str, str, str], ...]:
    """(transcript, summary, analysis, messages) of each conversation, as they are stored with a call that is over."""
    found: list[tuple[str, str, str, str]] = []
    for each in conversations():
        analysis = {"summary": each.summary, "structuredData": {"rescheduled": True}, "successEvaluation": "true"}
        messages = each.messages[:4]
        found.append((each.transcript, each.summary, orjson.dumps(analysis).decode(), orjson.dumps(messages).decode()))
    return tuple(found)


def contact_name(number: int) -> str:
    return f"{_NAMES[number % len(_NAMES)]} {number}"


def contact_phone(number: int) -> str:
    return f"+1202555{number % 10_000:04d}"


@dataclass(frozen=True)
class DataSet:
    """How much of everything, and the rows. `contacts` are one user's; where there are many users, each has few.

    live   pending calls of user 0 on top; more of them can be added later
    """

    calls: int = 10_000
    users: int = 1
    contacts: int = 5_000
    live: int = 0

    @property
    def name(self) -> str:
        return f"{self.calls}-{self.users}"

    @property
    def contacts_each(self) -> int:
        return self.contacts if self.users == 1 else max(FEW_CONTACTS, self.contacts // self.users)

    @property
    def contact_count(self) -> int:
        return self.users * self.contacts_each

    def contact_of(self, call: int) -> int:
        """The number of a call's contact, which is one of its user's (contact n belongs to user n % users)."""
        return (call // self.users) % self.contacts_each * self.users + call % self.users

    def user_rows(self) -> Iterator[User]:
        for number in range(self.users):
            yield User(number, user_id(number), email(number))

    def contact_rows(self, now: datetime) -> Iterator[Contact]:
        begin = now - SPAN
        for number in range(self.contact_count):
            yield Contact(
                number,
                contact_id(number),
                user_id(number % self.users),
                contact_name(number),
                contact_phone(number),
                f"contact{number}@example.com",
                begin + timedelta(milliseconds=number),
            )

    def call_rows(self, now: datetime, first: int = 0, end: int | None = None) -> Iterator[Call]:
        """Oldest first; only numbers from `first` to before `end`."""
        texts = stored_texts()
        users = [user_id(number) for number in range(self.users)]
        contacts = [
            (contact_id(number), contact_name(number), contact_phone(number)) for number in range(self.contact_count)
        ]
        step = SPAN / max(self.calls, 1)
        begin = now - SPAN
        costs = [Decimal(20 + 7 * place) / 1000 for place in range(POOL)]
        outcomes = {"completed": "success", "busy": "busy", "no-answer": "no_answer", "voicemail": "voicemail"}
        for number in range(first, self.calls if end is None else end):
            created_at = begin + step * number
            started_at = created_at + timedelta(seconds=9)
            seconds = 20 + number % 97
            ended_at = started_at + timedelta(seconds=seconds)
            # By turns for each user: with number % 100 a user of many would have calls of one status alone.
            status = _STATUS[number // self.users % 100]
            # The texts must not go with the status.
            place = (number * 7 + number // 100) % POOL
            yield Call(
                number,
                call_id(number),
                users[number % self.users],
                *contacts[self.contact_of(number)],
                provider_id(number),
                status,
                _REASONS[status],
                outcomes.get(status),
                *texts[place],
                started_at,
                ended_at,
                seconds,
                costs[place],
                created_at,
                ended_at + timedelta(seconds=3),
            )

    def live_rows(self, first: int, count: int, now: datetime) -> Iterator[LiveCall]:
        """Pending calls number `first` and up; each contact gets its turn."""
        for number in range(first, first + count):
            contact = number % self.contacts_each * self.users
            yield LiveCall(
                number,
                live_call_id(number),
                user_id(0),
                contact_id(contact),
                contact_name(contact),
                contact_phone(contact),
                live_provider_id(number),
                now + timedelta(microseconds=number),
            )
