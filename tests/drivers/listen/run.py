#!/usr/bin/env python3
"""LISTEN and NOTIFY with psycopg 3, psycopg2 and asyncpg, straight to the primary and through pgweir.

The same checks in both cases: what passes direct must pass through pgweir in transaction mode. The servers
come from PGWEIR_TEST_CLUSTER (see scripts/test) or are started here.
"""

import asyncio
import pathlib
import select
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "django"))
from run import DATABASE, Failed, cluster, pgweir, say  # noqa: E402

import asyncpg  # noqa: E402
import psycopg  # noqa: E402
import psycopg2  # noqa: E402
import psycopg2.extensions  # noqa: E402


def check(what, found, expected):
    if found != expected:
        raise Failed(f"{what}: {found!r}, expected {expected!r}")


def with_psycopg(port):
    def connect():
        return psycopg.connect(host="127.0.0.1", port=port, user="app", password="app", dbname=DATABASE, autocommit=True)

    with connect() as listener, connect() as other:
        listener.execute("LISTEN news")
        other.execute("NOTIFY news, 'one'")
        other.execute("SELECT pg_notify(%s, %s)", ("news", "it's \\ \"two\""))
        listener.execute("NOTIFY news, 'own'")
        found = list(listener.notifies(timeout=10, stop_after=3))
        check("payloads", [n.payload for n in found], ["one", "it's \\ \"two\"", "own"])
        check("own number", found[2].pid, listener.info.backend_pid)
        check("the other's number", {n.pid for n in found[:2]}, {other.info.backend_pid})
        # A handler is called while a query runs, and not inside a transaction.
        heard = []
        listener.add_notify_handler(lambda n: heard.append(n.payload))
        with listener.transaction():
            listener.execute("SELECT 1")
            other.execute("NOTIFY news, 'later'")
            listener.execute("SELECT 2")
            check("in a transaction", heard, [])
        check("after it", heard, ["later"])
        other.execute("NOTIFY news, 'with a query'")
        listener.execute("SELECT 1")
        check("with a query", heard, ["later", "with a query"])
        listener.execute("UNLISTEN news")
        other.execute("NOTIFY news, 'unheard'")
        listener.execute("SELECT 1")
        check("after UNLISTEN", heard, ["later", "with a query"])
        with listener.pipeline():
            listener.execute("LISTEN news")
            listener.execute("NOTIFY news, 'pipeline'")
        # psycopg itself may return from the pipeline before it has read what came behind the last result.
        listener.execute("SELECT 1")
        check("in a pipeline", heard[2:], ["pipeline"])


def with_psycopg2(port):
    def connect():
        made = psycopg2.connect(host="127.0.0.1", port=port, user="app", password="app", dbname=DATABASE)
        made.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
        return made

    listener, other = connect(), connect()
    listener.cursor().execute("LISTEN foo; LISTEN bar")
    for _ in range(5):
        for name in ("foo", "bar", "baz"):
            other.cursor().execute(f"NOTIFY {name}, 'x'")
    listener.cursor().execute("SELECT 1")
    check("received on execute", [n.channel for n in listener.notifies], ["foo", "bar"] * 5)
    check("the other's number", {n.pid for n in listener.notifies}, {other.get_backend_pid()})
    listener.notifies.clear()
    other.cursor().execute("NOTIFY foo, 'poll'")
    check("readable", select.select([listener], [], [], 10)[0], [listener])
    check("poll", listener.poll(), psycopg2.extensions.POLL_OK)
    check("received on poll", [n.payload for n in listener.notifies], ["poll"])
    listener.close()
    other.close()


async def with_asyncpg(port):
    where = {"host": "127.0.0.1", "port": port, "user": "app", "password": "app", "database": DATABASE}
    listener, other = await asyncpg.connect(**where), await asyncpg.connect(**where)
    heard = asyncio.Queue()

    def callback(connection, pid, channel, payload):
        heard.put_nowait((connection is listener, pid, channel, payload))

    async def next_one():
        return await asyncio.wait_for(heard.get(), 10)

    await listener.add_listener("chan, nel", callback)
    await other.execute("SELECT pg_notify('chan, nel', 'one')")
    check("heard", await next_one(), (True, other.get_server_pid(), "chan, nel", "one"))
    await listener.execute("NOTIFY \"chan, nel\", 'own'")
    check("own", await next_one(), (True, listener.get_server_pid(), "chan, nel", "own"))
    await listener.remove_listener("chan, nel", callback)
    await other.execute("SELECT pg_notify('chan, nel', 'unheard')")
    await listener.fetchval("SELECT 1")
    check("after remove_listener", heard.qsize(), 0)
    await listener.close()
    await other.close()
    # A pool's connection hears nothing of what its last user listened to.
    async with asyncpg.create_pool(**where, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute("LISTEN kept")
        async with pool.acquire() as connection:
            check("after release", await connection.fetch("SELECT * FROM pg_listening_channels()"), [])


def main():
    with cluster() as servers:
        servers.fresh_database()
        direct = servers.nodes[0]["port"]
        with pgweir(servers) as port:
            for name, run in (
                ("psycopg", with_psycopg),
                ("psycopg2", with_psycopg2),
                ("asyncpg", lambda at: asyncio.run(with_asyncpg(at))),
            ):
                for where, at in (("direct", direct), ("through pgweir", port)):
                    run(at)
                    say(f"{name} {where}: ok")


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        sys.exit(f"FAILED: {failed}")
