"""What stands in a log line, and what does not."""

import json
import subprocess
import sys

import asyncpg
import pytest
from pydantic import BaseModel, Field

from boostedcalls.common.logs import mask_phone, scrub

SAID = 'what (she) said,\n) at "length"'
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIwMTk4YjFmMCJ9.c2lnbmF0dXJlLWhlcmU"


class Person(BaseModel):
    phone: str = Field(max_length=5)


@pytest.fixture
async def connection(database):
    found = await asyncpg.connect(await database())
    await found.execute("CREATE TABLE said (text text UNIQUE, number int CHECK (number > 0), at timestamptz, id uuid)")
    yield found
    await found.close()


@pytest.mark.parametrize(
    ("sql", "values", "kept"),
    [
        ("INSERT INTO said (text) VALUES ($1), ($1)", [SAID], "Key (text)=(…) already exists"),
        ("INSERT INTO said (text, number) VALUES ($1, -1)", [SAID], "violates check constraint"),
        ("INSERT INTO said (number) VALUES ($1)", [SAID], "cannot be interpreted as an integer"),
        ("INSERT INTO said (id) VALUES ($1::text::uuid)", [SAID], "invalid input syntax for type uuid: …"),
        ("INSERT INTO said (at) VALUES ($1)", [SAID], "invalid input for query argument $1: …"),
    ],
)
async def test_a_fault_of_the_database_is_told_without_the_data(connection, sql, values, kept):
    with pytest.raises(Exception, match=r".") as caught:
        await connection.execute(sql, *values)
    assert "(she)" in str(caught.value)
    assert "she" not in scrub(str(caught.value))
    assert kept in scrub(str(caught.value))


def test_a_fault_of_a_model_is_told_without_the_data():
    with pytest.raises(ValueError, match="phone") as caught:
        Person.model_validate({"phone": SAID})
    assert "(she)" in str(caught.value)
    assert "she" not in scrub(str(caught.value))
    assert "phone" in scrub(str(caught.value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("call to +12025550123 failed", f"call to {mask_phone('+12025550123')} failed"),
        (f"token {TOKEN}.", "token [token]."),
        ("2026-11-23T00:00:00+0000 took 1+1 s", "2026-11-23T00:00:00+0000 took 1+1 s"),
    ],
)
def test_numbers_and_tokens_are_masked_in_the_text_of_a_fault(text, said):
    assert scrub(text) == said


_PROGRAM = f"""
import logging
from boostedcalls.common.logs import get_logger, setup_logs
setup_logs("test")
try:
    raise ValueError("+12025550123 said {TOKEN}")
except ValueError as error:
    get_logger("x").error("failed", exc_info=error, reason=str(error))
    logging.getLogger("foreign").error("from %s", error, exc_info=error)
get_logger("x").info("line\\nbreak", field="a\\nb\\x00\\u2028", odd="\\ud800")
"""


def test_lines_are_json_without_what_a_fault_quotes_whoever_writes_them():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"].partition(" ")[0] for line in lines] == ["failed", "from", "line\nbreak"]
    assert "ValueError" in lines[0]["exception"]
    assert b"5550123" not in done.stderr
    assert b"eyJ" not in done.stderr


PROGRAM = """
import json, logging, sys
from boostedcalls.common.logs import get_logger, setup_logs
setup_logs("test")
text = json.loads(sys.argv[1])
get_logger("x").info("said", text=text)
logging.getLogger("library").warning(text)
"""


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x07\r\n{}", "a\x7fb", "\x9b31m\x85\x80", "a\u2028b\u2029c", "é\u200b ü", "\ud800\x9b"]
)
def test_text_that_tells_a_terminal_something_stays_inside_its_line(text):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(text)], capture_output=True, check=True, timeout=60
    )
    ours, library = done.stderr.splitlines()
    assert (json.loads(ours)["text"], json.loads(library)["event"]) == (text, text)
    assert [
        line for line in (ours, library) for sign in line.decode() if not sign.isprintable() and sign != "\u200b"
    ] == []
