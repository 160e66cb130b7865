import asyncio
import itertools

import asyncpg
import pytest

from boostedcalls.common.migrate import MigrationError, migrate

ONE = "CREATE TABLE sample.one (id int PRIMARY KEY); INSERT INTO sample.one VALUES (1);"
_NUMBERS = itertools.count(1)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a folder of migrations: `package.write(name, sql)`."""

    class Package:
        name = f"sample_package_{next(_NUMBERS)}"

        def write(self, name: str, sql: str) -> None:
            folder = tmp_path / self.name / "migrations"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(sql)

        def remove(self, name: str) -> None:
            (tmp_path / self.name / "migrations" / name).unlink()

    made = Package()
    made.write("0001_one.sql", ONE)
    made.write("notes.txt", "no SQL")
    (tmp_path / made.name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return made


async def value(dsn: str, sql: str):
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_files_run_once_in_the_order_of_their_names(database, package):
    dsn = await database()
    package.write("0002_two.sql", "INSERT INTO sample.one VALUES (2);")
    package.write("0010_ten.sql", "INSERT INTO sample.one SELECT max(id) + 1 FROM sample.one;")
    ran = ["0001_one.sql", "0002_two.sql", "0010_ten.sql"]
    assert await migrate(dsn, "sample", package.name) == (ran, None)
    assert await migrate(dsn, "sample", package.name) == ([], None)
    assert await value(dsn, "SELECT array_agg(id ORDER BY id) FROM sample.one") == [1, 2, 3]


async def test_several_at_once_run_each_file_once(database, package):
    dsn = await database()
    package.write("0002_two.sql", "INSERT INTO sample.one VALUES (2); SELECT pg_sleep(0.2);")
    ran = await asyncio.gather(*(migrate(dsn, "sample", package.name) for _ in range(4)))
    assert sorted(itertools.chain(*(names for names, _ in ran))) == ["0001_one.sql", "0002_two.sql"]
    assert await value(dsn, "SELECT count(*) FROM sample.one") == 2


async def test_file_that_was_edited_after_it_ran_is_refused(database, package):
    dsn = await database()
    await migrate(dsn, "sample", package.name)
    package.write("0001_one.sql", ONE + " -- edited")
    package.write("0002_two.sql", "INSERT INTO sample.one VALUES (2);")
    with pytest.raises(MigrationError, match=r"0001_one\.sql was changed"):
        await migrate(dsn, "sample", package.name)
    assert await value(dsn, "SELECT count(*) FROM sample.one") == 1


async def test_database_that_is_ahead_of_the_files_is_refused(database, package):
    dsn = await database()
    package.write("0002_two.sql", "INSERT INTO sample.one VALUES (2);")
    await migrate(dsn, "sample", package.name)
    package.remove("0002_two.sql")
    with pytest.raises(MigrationError, match=r"0002_two\.sql, which this version does not know"):
        await migrate(dsn, "sample", package.name)


async def test_file_that_fails_leaves_nothing_of_itself_and_keeps_those_before_it(database, package):
    dsn = await database()
    package.write("0002_two.sql", "INSERT INTO sample.one VALUES (2); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(dsn, "sample", package.name)
    assert await value(dsn, "SELECT count(*) FROM sample.one") == 1
    package.write("0002_two.sql", "INSERT INTO sample.one VALUES (2);")
    assert await migrate(dsn, "sample", package.name) == (["0002_two.sql"], None)


async def test_lock_is_free_after_a_failure(database, package):
    dsn = await database()
    package.write("0002_two.sql", "SELECT 1 / 0;")
    for _ in range(2):
        with pytest.raises(asyncpg.DivisionByZeroError):
            await migrate(dsn, "sample", package.name)
