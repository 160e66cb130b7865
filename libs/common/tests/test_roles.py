"""What a service's role may do in the database: exactly what one table says, and for everything else it is refused."""

import asyncio
import itertools
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from boostedcalls.common.db import SERVICE, DatabaseSettings, connection, open_pool, savepoint, transaction
from boostedcalls.common.errors import Unavailable
from boostedcalls.common.migrate import migrate
from boostedcalls.common.roles import RoleMissing, scram_verifier
from boostedcalls.devkit import servers
from boostedcalls.devkit.pytest_plugin import Dsn

FIRST = """
CREATE TABLE {schema}.things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE SEQUENCE {schema}.numbers;
"""
SERVICES = {"one": "scone", "two": "sctwo"}
PASSWORD = "a-password-of-the-role"
_NUMBERS = itertools.count(1)


def as_role(dsn: str, service: str, password: str = PASSWORD) -> str:
    return str(Dsn(dsn, service, password))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(schema)`: the name of a package with one migration that fills that schema."""

    number = next(_NUMBERS)

    def make(schema: str, **more: str) -> str:
        folder = tmp_path / f"package_{schema}_{number}" / "migrations"
        folder.mkdir(parents=True, exist_ok=True)
        (folder.parent / "__init__.py").touch()
        (folder / "0001_first.sql").write_text(FIRST.format(schema=schema))
        for name, sql in more.items():
            (folder / f"{name}.sql").write_text(sql)
        return folder.parent.name

    monkeypatch.syspath_prepend(tmp_path)
    return make


@asynccontextmanager
async def opened(dsn: str):
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def two(database, package):
    """A database with the schemas of two services, each migrated with a password for its role."""
    dsn = await database()
    async with opened(dsn) as owner:
        await owner.execute("CREATE SCHEMA other; CREATE TABLE other.things (id int, name text)")
    try:
        for service, schema in SERVICES.items():
            assert (await migrate(dsn, schema, package(schema), service, PASSWORD))[1] is None
        yield dsn
    finally:
        await forget(dsn)


async def forget(*dsns: str) -> None:
    """Drop the roles that the databases were migrated for; they belong to the whole server."""
    for dsn in dsns:
        async with opened(dsn) as owner:
            for row in await owner.fetch("SELECT rolname FROM pg_roles WHERE rolname ~ '^boostedcalls_(one|two)$'"):
                await owner.execute(f"DROP OWNED BY {row['rolname']}")
                if dsn == dsns[-1]:
                    await owner.execute(f"DROP ROLE {row['rolname']}")


STATEMENTS = {
    "SELECT": "SELECT * FROM {table}",
    "SELECT FOR UPDATE": "SELECT * FROM {table} FOR UPDATE",
    "INSERT": "INSERT INTO {table} DEFAULT VALUES",
    "UPDATE": "UPDATE {table} SET name = name",
    "DELETE": "DELETE FROM {table}",
    "TRUNCATE": "TRUNCATE {table}",
    "LOCK": "LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE",
    "ALTER": "ALTER TABLE {table} ADD COLUMN more int",
    "ROW SECURITY OFF": "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    "POLICY": "CREATE POLICY mine ON {table} USING (true)",
    "TRIGGER": "CREATE TRIGGER mine BEFORE INSERT ON {table} EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "INDEX": "CREATE INDEX ON {table} ((1))",
    "REFERENCES": "CREATE TABLE {schema}.child (id bigint REFERENCES {table})",
    "DROP": "DROP TABLE {table}",
    "GRANT": "GRANT SELECT ON {table} TO PUBLIC",
    "OWNER": "ALTER TABLE {table} OWNER TO CURRENT_USER",
}
ALLOWED = {"SELECT", "SELECT FOR UPDATE", "INSERT", "UPDATE", "DELETE", "LOCK"}
"""On the service's own tables. Who may delete may also lock: that comes to the same."""
ELSEWHERE = {
    "table in the own schema": "CREATE TABLE {schema}.mine (id int)",
    "function in the own schema": "CREATE FUNCTION {schema}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "security definer": "CREATE FUNCTION public.mine() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
    "table in public": "CREATE TABLE public.mine (id int)",
    "schema": "CREATE SCHEMA mine",
    "database": "CREATE DATABASE mine",
    "role": "CREATE ROLE mine",
    "extension": "CREATE EXTENSION dblink",
    "trusted extension": "CREATE EXTENSION citext",
    "untrusted function": "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE c AS 'libc.so.6', 'getpid'",
    "more rights": "ALTER ROLE {role} SUPERUSER",
    "pass by row security": "ALTER ROLE {role} BYPASSRLS",
    "make roles": "ALTER ROLE {role} CREATEROLE",
    "the other's password": "ALTER ROLE {other} PASSWORD 'x'",
    "the owner's password": "ALTER ROLE postgres PASSWORD 'x'",
    "be the owner": "SET ROLE postgres",
    "be the other": "SET ROLE {other}",
    "be the owner for good": "SET SESSION AUTHORIZATION postgres",
    "member of the owner": "GRANT postgres TO {role}",
    "member of the other": "GRANT {other} TO {role}",
    "member who reads files": "GRANT pg_read_server_files TO {role}",
    "program out": "COPY (SELECT 1) TO PROGRAM 'true'",
    "program in": "COPY {schema}.things (name) FROM PROGRAM 'echo x'",
    "file out": "COPY (SELECT 1) TO '/tmp/x'",
    "file in": "COPY {schema}.things (name) FROM '/etc/hostname'",
    "file read": "SELECT pg_read_file('PG_VERSION')",
    "folder read": "SELECT pg_ls_dir('.')",
    "large file": "SELECT lo_import('/etc/hostname')",
    "passwords": "SELECT * FROM pg_authid",
    "others' statements": "SELECT query FROM pg_stat_activity WHERE usename = 'postgres'"
    " AND query <> '<insufficient privilege>'",
    "server settings": "ALTER SYSTEM SET log_statement = 'all'",
    "replica role": "SET session_replication_role = replica",
    "reload": "SELECT pg_reload_conf()",
    "end the owner": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres'",
    "subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p",
    "foreign data": "CREATE FOREIGN DATA WRAPPER w",
    "event trigger": "CREATE EVENT TRIGGER t ON ddl_command_start EXECUTE FUNCTION x()",
    "tablespace": "CREATE TABLESPACE t LOCATION '/tmp'",
    "database settings": "ALTER DATABASE {database} SET search_path = mine",
    "default rights": "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC",
    "sequence set": "SELECT setval('{schema}.numbers', 1)",
    "publication": "CREATE PUBLICATION p FOR ALL TABLES",
}
REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidGrantOperationError)


async def tried(connection: asyncpg.Connection, sql: str) -> bool:
    """Whether it works; nothing of it stays."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(sql)
        if sql.startswith("GRANT SELECT"):
            # Who may not is only warned.
            return await connection.fetchval("SELECT has_table_privilege('public', $1, 'SELECT')", sql.split()[3])
    except REFUSED:
        return False
    finally:
        await transaction.rollback()
    return True


async def does(connection: asyncpg.Connection, sql: str) -> bool:
    """Whether it works, outside a transaction: some things cannot be tried in one. A question must find something."""
    try:
        found = await connection.fetch(sql)
    except REFUSED:
        return False
    return bool(found) or not sql.startswith("SELECT query")


async def test_each_role_may_work_with_the_rows_of_its_own_tables_and_do_nothing_else(two, attacks):
    count = 0
    for service, schema in SERVICES.items():
        other, other_schema = next((name, found) for name, found in SERVICES.items() if name != service)
        async with opened(as_role(two, service)) as connection:
            for table in (f"{schema}.things", f"{schema}.migrations", f"{other_schema}.things", "other.things"):
                for name, sql in STATEMENTS.items():
                    own = table == f"{schema}.things"
                    works = await tried(connection, sql.format(table=table, schema=schema))
                    assert works is (own and name in ALLOWED), (service, table, name)
                    count += not own or name not in ALLOWED
            assert await tried(connection, f"SELECT nextval('{schema}.numbers')")
            assert not await tried(connection, f"SELECT nextval('{other_schema}.numbers')")
            names = {
                "schema": schema,
                "role": f"boostedcalls_{service}",
                "other": f"boostedcalls_{other}",
                "database": await connection.fetchval("SELECT current_database()"),
            }
            for name, sql in ELSEWHERE.items():
                assert not await does(connection, sql.format(**names)), (service, name)
                count += 1
    attacks("Postgres: role", count)


async def test_a_role_owns_nothing_and_has_no_attribute_that_passes_by_the_walls(two):
    async with opened(two) as owner:
        rows = await owner.fetch("SELECT * FROM pg_roles WHERE rolname LIKE 'boostedcalls\\_%'")
        members = await owner.fetchval(
            "SELECT count(*) FROM pg_auth_members WHERE member::regrole::text LIKE 'boostedcalls\\_%'"
        )
        owned = await owner.fetchval("SELECT count(*) FROM pg_class WHERE relowner::regrole::text LIKE 'boostedcalls%'")
    assert {row["rolname"] for row in rows} >= {"boostedcalls_one", "boostedcalls_two"}
    wrong = ("rolsuper", "rolinherit", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
    assert not [(row["rolname"], name) for row in rows for name in wrong if row[name]]
    assert (members, owned) == (0, 0)


async def test_a_database_of_its_own_takes_no_temporary_tables_and_a_shared_one_stays_as_it_is(database, package):
    alone, shared = await database(), await database()
    async with opened(shared) as owner:
        await owner.execute("CREATE TABLE public.of_another_application ()")
    temporary = "CREATE TEMPORARY TABLE mine (id int)"
    try:
        for dsn, works in ((alone, False), (shared, True)):
            await migrate(dsn, "scone", package("scone"), "one", PASSWORD)
            async with opened(as_role(dsn, "one")) as connection:
                assert await tried(connection, temporary) is works
    finally:
        await forget(shared, alone)


async def test_a_table_of_a_later_migration_is_the_roles_too_and_rights_given_by_hand_are_taken_back(two, package):
    async with opened(two) as owner:
        await owner.execute("GRANT ALL ON scone.migrations TO boostedcalls_one, PUBLIC")
    later = package("scone", **{"0002_more": "CREATE TABLE scone.more (name text)"})
    assert await migrate(two, "scone", later, "one") == (["0002_more.sql"], None)
    async with opened(as_role(two, "one")) as connection:
        assert await tried(connection, "DELETE FROM scone.more")
        assert not await tried(connection, "SELECT * FROM scone.migrations")


async def test_without_a_password_the_role_may_not_log_in_and_one_that_may_keeps_its_own(database, package):
    dsn = await database()
    try:
        await migrate(dsn, "scone", package("scone"), "one")
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(as_role(dsn, "one"))
        await migrate(dsn, "scone", package("scone"), "one", PASSWORD)
        await migrate(dsn, "scone", package("scone"), "one")
        async with opened(as_role(dsn, "one")) as connection:
            assert await connection.fetchval("SELECT current_user") == "boostedcalls_one"
        await migrate(dsn, "scone", package("scone"), "one", "another-password-1")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(as_role(dsn, "one"))
    finally:
        await forget(dsn)


async def test_many_databases_of_one_server_are_migrated_at_once(database, package):
    dsns = [await database() for _ in range(6)]
    name = package("scone")
    try:
        await asyncio.gather(*(migrate(dsn, "scone", name, "one", PASSWORD) for dsn in dsns))
        for dsn in dsns:
            async with opened(as_role(dsn, "one")) as connection:
                assert await tried(connection, "SELECT * FROM scone.things")
    finally:
        await forget(*dsns)


async def test_a_role_that_somebody_gave_more_is_put_right(two, package):
    async with opened(two) as owner:
        await owner.execute(
            "ALTER ROLE boostedcalls_one SUPERUSER BYPASSRLS CREATEROLE; ALTER ROLE boostedcalls_one RESET ALL"
        )
    await migrate(two, "scone", package("scone"), "one")
    async with opened(as_role(two, "one")) as connection:
        assert not await tried(connection, "SELECT * FROM pg_authid")
        assert await connection.fetchval("SHOW lock_timeout") == "5s"


@asynccontextmanager
async def plain_owner(dsn: str, *rights: str):
    """An owner of the database who is no superuser, as managed servers give one."""
    database = urlsplit(dsn).path[1:]
    async with opened(dsn) as admin:
        await admin.execute(f"CREATE ROLE plain LOGIN PASSWORD 'plain-password' {' '.join(rights)}")
        await admin.execute(f"ALTER DATABASE {database} OWNER TO plain")
        parts = urlsplit(dsn)
        try:
            yield parts._replace(netloc=f"plain:plain-password@{parts.hostname}:{parts.port}").geturl()
        finally:
            await admin.execute("REASSIGN OWNED BY plain TO postgres; DROP OWNED BY plain; DROP ROLE plain")


async def test_an_owner_who_may_not_make_roles_migrates_without_them_and_says_so(database, package):
    dsn = await database()
    async with plain_owner(dsn) as plain:
        ran, line = await migrate(plain, "scone", package("scone"), "one")
        assert ran == ["0001_first.sql"]
        assert line is not None
        assert "boostedcalls_one is not there and may not be made" in line
        # Somebody counts on logging in with it.
        with pytest.raises(RoleMissing, match="DB_ONE_PASSWORD") as caught:
            await migrate(plain, "scone", package("scone"), "one", PASSWORD)
        assert PASSWORD not in str(caught.value)


async def test_an_owner_who_may_make_roles_and_is_no_superuser_makes_them(database, package):
    dsn = await database()
    async with plain_owner(dsn, "CREATEROLE") as plain:
        assert (await migrate(plain, "scone", package("scone"), "one", PASSWORD))[1] is None
        assert (await migrate(plain, "scone", package("scone"), "one", PASSWORD))[1] is None
        async with opened(as_role(dsn, "one")) as connection:
            assert await tried(connection, "INSERT INTO scone.things DEFAULT VALUES")
            assert not await tried(connection, "SELECT * FROM scone.migrations")
        await forget(dsn)


async def test_a_role_that_another_made_is_left_as_it_is_and_gets_its_rights(database, package):
    dsn = await database()
    async with opened(dsn) as admin:
        await admin.execute(f"CREATE ROLE boostedcalls_one LOGIN PASSWORD '{PASSWORD}'")
    async with plain_owner(dsn) as plain:
        _, line = await migrate(plain, "scone", package("scone"), "one", PASSWORD)
        assert line is not None
        assert "is left as it is" in line
        async with opened(as_role(dsn, "one")) as connection:
            assert await tried(connection, "SELECT * FROM scone.things")
        await forget(dsn)


async def test_the_servers_log_never_holds_a_password(two, package, postgres_server):
    async with opened(two) as owner:
        await owner.execute("ALTER ROLE postgres SET log_statement = 'all'")
        try:
            await migrate(two, "scone", package("scone"), "one", "not-for-the-log-1234")
        finally:
            await owner.execute("ALTER ROLE postgres RESET log_statement")
    log = postgres_server.child.log.read_text()
    assert "ALTER ROLE boostedcalls_one LOGIN PASSWORD 'SCRAM-SHA-256$" in log
    assert "not-for-the-log-1234" not in log


async def test_the_verifier_is_what_postgres_makes_of_the_password(two):
    async with opened(two) as owner:
        await owner.execute("ALTER ROLE boostedcalls_one PASSWORD 'the-same-password'")
        theirs = await owner.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'boostedcalls_one'")
    ours = scram_verifier("the-same-password")
    assert ours != scram_verifier("the-same-password")
    assert [len(part) for part in ours.split("$")] == [len(part) for part in theirs.split("$")]


@pytest.fixture
async def pool(two):
    """Of the first service, two connections."""
    async with AsyncExitStack() as stack:
        settings = DatabaseSettings(database_url=as_role(two, "one"), db_pool_size=2, _env_file=None)
        yield await open_pool(stack, settings, "test")


async def test_a_role_has_limits_that_the_owner_does_not_have(two, pool):
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    async with connection(pool) as reader:
        assert [await reader.fetchval(f"SHOW {name}") for name in names] == ["15s", "5s", "30s", "1min"]
    async with opened(two) as owner:
        assert [await owner.fetchval(f"SHOW {name}") for name in names] == ["0"] * 4


@pytest.mark.parametrize(
    ("limit", "statement"),
    [
        ("statement_timeout", "SELECT pg_sleep(5)"),
        ("lock_timeout", "SELECT pg_advisory_xact_lock(1)"),
        ("lock_timeout", "SELECT * FROM scone.things FOR UPDATE"),
        ("transaction_timeout", "SELECT pg_sleep(5)"),
        ("idle_in_transaction_session_timeout", None),
    ],
)
@pytest.mark.parametrize("scope", [None, SERVICE])
async def test_what_exceeds_a_limit_is_unavailable_and_the_next_one_works(two, limit, statement, scope):
    async with opened(two) as owner, AsyncExitStack() as stack:
        await owner.execute(f"ALTER ROLE boostedcalls_one SET {limit} = '100ms'")
        settings = DatabaseSettings(database_url=as_role(two, "one"), _env_file=None)
        pool = await open_pool(stack, settings, "test")
        async with owner.transaction():
            await owner.execute("SELECT pg_advisory_xact_lock(1); LOCK TABLE scone.things")
            with pytest.raises(Unavailable):  # noqa: PT012
                async with transaction(pool, scope) as writer:
                    if statement is None:
                        await asyncio.sleep(0.5)
                    await writer.execute(statement or "SELECT 1")
        async with transaction(pool, scope) as writer:
            assert await writer.fetchval("SELECT 1") == 1


async def test_a_part_that_fails_takes_nothing_else_with_it_and_parts_nest(pool):
    async with transaction(pool, SERVICE) as writer:
        await writer.execute("INSERT INTO scone.things (name) VALUES ('before')")
        with pytest.raises(asyncpg.DivisionByZeroError):  # noqa: PT012
            async with savepoint(writer):
                await writer.execute("INSERT INTO scone.things (name) VALUES ('lost')")
                async with savepoint(writer):
                    await writer.execute("INSERT INTO scone.things (name) VALUES ('lost too')")
                await writer.execute("SELECT 1 / 0")
        async with savepoint(writer):
            await writer.execute("INSERT INTO scone.things (name) VALUES ('after')")
    async with connection(pool, SERVICE) as reader:
        assert await reader.fetchval("SELECT array_agg(name ORDER BY id) FROM scone.things") == ["before", "after"]


async def test_a_reader_that_is_cancelled_gives_its_connection_back_clean(pool):
    for _ in range(3):
        async with connection(pool, SERVICE) as reader:
            pid = await reader.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), connection(pool, SERVICE) as reader:
                await reader.fetchval("SELECT pg_sleep(5)")
        async with connection(pool) as reader:
            assert await reader.fetchval("SELECT coalesce(current_setting('bc.scope', true), '')") == ""
            assert await reader.fetchval("SELECT pg_backend_pid()") == pid


async def test_a_service_with_a_password_of_its_own_replaces_the_login_of_the_url(tmp_path, package):
    password = "a-password-of-the-gateway"
    # A server of its own: in the session's one the role is that of other tests' databases.
    async with servers.postgres_server(tmp_path / "postgres", durable=False) as server:
        await migrate(server.url, "auth", package("auth"), "gateway", password)
        without = str(Dsn(server.url, "x", "y")).replace("boostedcalls_x:y@", "")
        for url in (server.url, without):
            settings = DatabaseSettings(database_url=url, db_gateway_password=password, _env_file=None)
            for application in ("gateway", "gateway-command"):
                async with AsyncExitStack() as stack:
                    found = await open_pool(stack, settings, application)
                    assert await found.fetchval("SELECT current_user") == "boostedcalls_gateway"


@pytest.mark.parametrize("password", ["short", "long-enough-but-é-is-not-ascii", "long enough with\na line break"])
def test_a_weak_password_of_a_role_is_refused_with_a_line_that_says_which(monkeypatch, capsys, password, attacks):
    from boostedcalls.common.settings import load

    monkeypatch.setenv("DB_CALLS_PASSWORD", password)
    with pytest.raises(SystemExit):
        load(DatabaseSettings)
    said = capsys.readouterr().err
    assert "DB_CALLS_PASSWORD: needs at least 16 ASCII characters; make one with: openssl rand -hex 16" in said
    assert password not in said
    attacks("Postgres: weak password")


@pytest.mark.parametrize("owner", [True, False])
async def test_a_process_that_works_as_the_owner_warns_once_that_it_does(two, owner, capsys):
    settings = DatabaseSettings(database_url=two if owner else as_role(two, "one"), _env_file=None)
    async with AsyncExitStack() as stack:
        await open_pool(stack, settings, "calls")
    assert capsys.readouterr().out.count("database_owner") == owner
