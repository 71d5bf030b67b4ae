// node-postgres: what its users do, each test on its own schema names, several clients at once.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { pipeline } from 'node:stream/promises'
import { Readable, Writable } from 'node:stream'
import pg from 'pg'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'

// PGHOST and its kin say where.
const pool = new pg.Pool({ max: 10 })

before(async () => {
  await pool.query('CREATE TABLE np_items (id serial PRIMARY KEY, name text NOT NULL UNIQUE, price numeric(10, 2), made timestamptz DEFAULT now(), tags jsonb)')
  await pool.query("INSERT INTO np_items (name, price, tags) SELECT 'item ' || g, g, jsonb_build_object('n', g) FROM generate_series(1, 500) g")
})

after(async () => {
  await pool.query('DROP TABLE np_items')
  await pool.end()
})

async function withClient(work) {
  const client = await pool.connect()
  try {
    return await work(client)
  } finally {
    client.release()
  }
}

async function code(promise) {
  try {
    await promise
  } catch (error) {
    return error.code
  }
  return 'no error'
}

test('parameters and types in both directions', async () => {
  const given = [1, 9007199254740993n, 'ü', true, null, { a: [1, 2] }, new Date('2024-02-29T12:00:00Z'), [1, 2, 3], Buffer.from([0, 1, 255])]
  const sql = 'SELECT $1::int4 i, $2::int8 l, $3::text t, $4::bool b, $5::text n, $6::jsonb j, $7::timestamptz d, $8::int4[] a, $9::bytea x'
  const { rows: [row], fields } = await pool.query(sql, given)
  assert.deepEqual(row, {
    i: 1, l: '9007199254740993', t: 'ü', b: true, n: null, j: { a: [1, 2] }, d: given[6], a: [1, 2, 3], x: given[8],
  })
  assert.deepEqual(fields.map((field) => field.dataTypeID), [23, 20, 25, 16, 25, 3802, 1184, 1007, 17])
})

test('a binary client', async () => {
  const { rows } = await pool.query({ text: 'SELECT $1::int4 + g AS n FROM generate_series(1, 3) g', values: [10], binary: true })
  assert.deepEqual(rows.map((row) => row.n), [11, 12, 13])
})

test('many queries at once over a small pool', async () => {
  const answers = await Promise.all(Array.from({ length: 300 }, (_, n) => pool.query('SELECT $1::int AS n, price FROM np_items WHERE id = $2', [n, (n % 500) + 1])))
  answers.forEach(({ rows }, n) => assert.deepEqual(rows[0], { n, price: `${(n % 500) + 1}.00` }))
})

test('the same prepared name in many clients', async () => {
  const ask = (n) => pool.query({ name: 'np-by-id', text: 'SELECT name FROM np_items WHERE id = $1', values: [n] })
  for (let round = 0; round < 3; round++) {
    const answers = await Promise.all(Array.from({ length: 50 }, (_, n) => ask(n + 1)))
    answers.forEach(({ rows }, n) => assert.equal(rows[0].name, `item ${n + 1}`))
  }
})

test('the same prepared name with different SQL in two clients', async () => {
  const [one, two] = await Promise.all([pool.connect(), pool.connect()])
  try {
    for (let round = 0; round < 5; round++) {
      const [a, b] = await Promise.all([
        one.query({ name: 'np-same', text: 'SELECT 1 AS v', values: [] }),
        two.query({ name: 'np-same', text: "SELECT 'two' AS v", values: [] }),
      ])
      assert.deepEqual([a.rows[0].v, b.rows[0].v], [1, 'two'])
    }
  } finally {
    one.release()
    two.release()
  }
})

test('a prepared statement outlives errors', () =>
  withClient(async (client) => {
    const divide = (by) => client.query({ name: 'np-divide', text: 'SELECT 10 / $1::int AS v', values: [by] })
    assert.equal((await divide(2)).rows[0].v, 5)
    assert.equal(await code(divide(0)), '22012')
    assert.equal((await divide(5)).rows[0].v, 2)
  }))

test('one client sees its own writes at once', () =>
  withClient(async (client) => {
    for (let n = 0; n < 40; n++) {
      await client.query('INSERT INTO np_items (name) VALUES ($1)', [`own ${n}`])
      const { rows } = await client.query('SELECT count(*)::int AS n FROM np_items WHERE name = $1', [`own ${n}`])
      assert.equal(rows[0].n, 1)
    }
    await client.query("DELETE FROM np_items WHERE name LIKE 'own %'")
  }))

test('transactions: commit, rollback, savepoints, failed ones', () =>
  withClient(async (client) => {
    await client.query('BEGIN')
    await client.query("INSERT INTO np_items (name) VALUES ('kept')")
    await client.query('SAVEPOINT s')
    assert.equal(await code(client.query("INSERT INTO np_items (name) VALUES ('kept')")), '23505')
    assert.equal(await code(client.query('SELECT 1')), '25P02')
    await client.query('ROLLBACK TO s')
    await client.query('COMMIT')
    await client.query('BEGIN')
    await client.query("DELETE FROM np_items WHERE name = 'kept'")
    await client.query('ROLLBACK')
    const { rowCount } = await client.query("DELETE FROM np_items WHERE name = 'kept'")
    assert.equal(rowCount, 1)
  }))

test('concurrent increments under row locks lose nothing', async () => {
  await pool.query("INSERT INTO np_items (name, price) VALUES ('counter', 0)")
  await Promise.all(Array.from({ length: 30 }, () => withClient(async (client) => {
    await client.query('BEGIN')
    const { rows } = await client.query("SELECT price FROM np_items WHERE name = 'counter' FOR UPDATE")
    await client.query("UPDATE np_items SET price = $1 WHERE name = 'counter'", [Number(rows[0].price) + 1])
    await client.query('COMMIT')
  })))
  const { rows } = await pool.query("DELETE FROM np_items WHERE name = 'counter' RETURNING price")
  assert.equal(rows[0].price, '30.00')
})

test('errors have all their fields', async () => {
  await assert.rejects(pool.query("INSERT INTO np_items (name) VALUES ('item 1')"), (error) => {
    assert.deepEqual([error.code, error.severity, error.table, error.constraint, error.schema], ['23505', 'ERROR', 'np_items', 'np_items_name_key', 'public'])
    assert.match(error.detail, /\(name\)=\(item 1\) already exists/)
    return true
  })
  await assert.rejects(pool.query('SELEKT 1'), (error) => error.code === '42601' && error.position === '1')
  await assert.rejects(pool.query('SELECT $1::int', ['x']), (error) => error.code === '22P02')
})

test('several statements in one string', async () => {
  const results = await pool.query("SELECT 1 AS a; SELECT 'b' AS b; UPDATE np_items SET tags = tags WHERE id = 1")
  assert.deepEqual(results.map((result) => [result.command, result.rowCount]), [['SELECT', 1], ['SELECT', 1], ['UPDATE', 1]])
})

test('settings belong to their client', async () => {
  const clients = await Promise.all(Array.from({ length: 6 }, () => pool.connect()))
  try {
    await Promise.all(clients.map((client, n) => client.query(`SET app.tenant = '${n}'; SET statement_timeout = ${1001 + n}`)))
    for (let round = 0; round < 5; round++) {
      await Promise.all(clients.map(async (client, n) => {
        const { rows } = await client.query("SELECT current_setting('app.tenant') t, current_setting('statement_timeout') s")
        assert.deepEqual(rows[0], { t: String(n), s: `${1001 + n}ms` })
      }))
    }
  } finally {
    await Promise.all(clients.map((client) => client.query('RESET ALL')))
    clients.forEach((client) => client.release())
  }
})

test('startup options', async () => {
  const client = new pg.Client({ options: '-c search_path=pg_catalog -c work_mem=5MB', application_name: 'np startup', statement_timeout: 4321 })
  await client.connect()
  const { rows } = await client.query("SELECT current_setting('search_path') p, current_setting('work_mem') w, current_setting('application_name') a, current_setting('statement_timeout') s")
  assert.deepEqual(rows[0], { p: 'pg_catalog', w: '5MB', a: 'np startup', s: '4321ms' })
  await client.end()
})

test('statement_timeout ends a query', () =>
  withClient(async (client) => {
    await client.query('SET statement_timeout = 50')
    assert.equal(await code(client.query('SELECT pg_sleep(5)')), '57014')
    await client.query('RESET statement_timeout')
    assert.equal((await client.query('SELECT 1 AS one')).rows[0].one, 1)
  }))

test('temporary tables', () =>
  withClient(async (client) => {
    await client.query('CREATE TEMP TABLE np_temp (i int)')
    await client.query('INSERT INTO np_temp SELECT generate_series(1, 10)')
    assert.equal((await client.query('SELECT sum(i)::int AS s FROM np_temp')).rows[0].s, 55)
    await client.query('DROP TABLE np_temp')
  }))

test('advisory locks', async () => {
  const [one, two] = await Promise.all([pool.connect(), pool.connect()])
  const lock = (client) => client.query('SELECT pg_try_advisory_lock(4711) AS got').then(({ rows }) => rows[0].got)
  try {
    assert.equal(await lock(one), true)
    assert.equal(await lock(two), false)
    await one.query('SELECT pg_advisory_unlock(4711)')
    assert.equal(await lock(two), true)
    await two.query('SELECT pg_advisory_unlock_all()')
  } finally {
    one.release()
    two.release()
  }
})

test('cursors read in parts, and may be left early', () =>
  withClient(async (client) => {
    const cursor = client.query(new Cursor('SELECT id FROM np_items WHERE id <= $1 ORDER BY id', [250]))
    let seen = 0
    for (let rows; (rows = await cursor.read(40)).length > 0;) {
      rows.forEach((row) => assert.equal(row.id, ++seen))
    }
    assert.equal(seen, 250)
    const early = client.query(new Cursor('SELECT * FROM generate_series(1, 100000)'))
    assert.equal((await early.read(3)).length, 3)
    await early.close()
    assert.equal((await client.query('SELECT 2 AS two')).rows[0].two, 2)
  }))

test('a cursor inside a transaction, with statements between', () =>
  withClient(async (client) => {
    await client.query('BEGIN')
    await client.query('DECLARE np_c CURSOR FOR SELECT g FROM generate_series(1, 10) g')
    assert.deepEqual((await client.query('FETCH 2 FROM np_c')).rows.map((row) => row.g), [1, 2])
    await client.query('SELECT 1')
    assert.deepEqual((await client.query('FETCH 2 FROM np_c')).rows.map((row) => row.g), [3, 4])
    await client.query('COMMIT')
  }))

test('query streams', () =>
  withClient(async (client) => {
    const stream = client.query(new QueryStream('SELECT g FROM generate_series(1, 5000) g', [], { batchSize: 100 }))
    let sum = 0
    for await (const row of stream) sum += row.g
    assert.equal(sum, 12502500)
  }))

test('a query stream that is destroyed', () =>
  withClient(async (client) => {
    const stream = client.query(new QueryStream('SELECT g, repeat(\'x\', 1000) FROM generate_series(1, 100000) g'))
    for await (const row of stream) if (row.g > 150) break
    assert.equal((await client.query('SELECT 3 AS three')).rows[0].three, 3)
  }))

test('COPY in and out', () =>
  withClient(async (client) => {
    await client.query('CREATE TABLE np_copy (i int, t text)')
    const lines = Array.from({ length: 20000 }, (_, i) => `${i}\tline ${i}\n`)
    await pipeline(Readable.from(lines), client.query(copyFrom('COPY np_copy FROM STDIN')))
    assert.equal((await client.query('SELECT count(*)::int AS n FROM np_copy')).rows[0].n, 20000)
    const parts = []
    const sink = new Writable({ write(part, _, done) { parts.push(part); done() } })
    await pipeline(client.query(copyTo('COPY (SELECT * FROM np_copy ORDER BY i) TO STDOUT')), sink)
    assert.equal(Buffer.concat(parts).toString(), lines.join(''))
    await client.query('DROP TABLE np_copy')
  }))

test('COPY that fails: at the server, and at the client', () =>
  withClient(async (client) => {
    await client.query('CREATE TABLE np_bad (i int)')
    assert.equal(await code(pipeline(Readable.from(['1\n', 'two\n', '3\n']), client.query(copyFrom('COPY np_bad FROM STDIN')))), '22P02')
    const breaks = new Readable({ read() { this.push('1\n'); this.destroy(new Error('no more')) } })
    await assert.rejects(pipeline(breaks, client.query(copyFrom('COPY np_bad FROM STDIN'))))
    assert.equal((await client.query('SELECT count(*)::int AS n FROM np_bad')).rows[0].n, 0)
    await client.query('DROP TABLE np_bad')
  }))

test('LISTEN and NOTIFY between clients, in order', async () => {
  const [listener, sender] = await Promise.all([pool.connect(), pool.connect()])
  const heard = []
  listener.on('notification', ({ channel, payload }) => heard.push([channel, payload]))
  try {
    await listener.query('LISTEN "np Channel"')
    for (let n = 0; n < 20; n++) await sender.query("SELECT pg_notify('np Channel', $1)", [`it's ${n}`])
    await listener.query("NOTIFY \"np Channel\", 'own'")
    for (let waited = 0; heard.length < 21 && waited < 50; waited++) await sleep(100)
    assert.deepEqual(heard, [...Array.from({ length: 20 }, (_, n) => ['np Channel', `it's ${n}`]), ['np Channel', 'own']])
    await listener.query('UNLISTEN *')
    await sender.query("NOTIFY \"np Channel\", 'unheard'")
    await sleep(200)
    assert.equal(heard.length, 21)
  } finally {
    listener.removeAllListeners('notification')
    listener.release()
    sender.release()
  }
})

test('a cancel request hits the query it is for', async () => {
  const [victim, other] = await Promise.all([pool.connect(), pool.connect()])
  try {
    const sleeping = code(victim.query('SELECT pg_sleep(20)'))
    const working = other.query('SELECT pg_sleep(0.5), 7 AS seven')
    await sleep(200)
    await new Promise((resolve, reject) => {
      const canceler = new pg.Connection()
      canceler.once('error', reject)
      canceler.once('end', resolve)
      canceler.once('connect', () => canceler.cancel(victim.processID, victim.secretKey))
      canceler.connect(Number(process.env.PGPORT), process.env.PGHOST)
    })
    assert.equal(await sleeping, '57014')
    assert.equal((await working).rows[0].seven, 7)
    assert.equal((await victim.query('SELECT 8 AS eight')).rows[0].eight, 8)
  } finally {
    victim.release()
    other.release()
  }
})

test('notices reach their client', () =>
  withClient(async (client) => {
    const heard = new Promise((resolve) => client.once('notice', resolve))
    await client.query("DO $$ BEGIN RAISE NOTICE 'look: %', 42; END $$")
    assert.equal((await heard).message, 'look: 42')
  }))

test('large values', async () => {
  const large = 'x'.repeat(20_000_000)
  const { rows } = await pool.query('SELECT $1::text AS v', [large])
  assert.equal(rows[0].v.length, large.length)
})

test('a result that is much larger than any buffer', async () => {
  const { rows } = await pool.query("SELECT g, repeat('y', 500) AS v FROM generate_series(1, 60000) g")
  assert.equal(rows.length, 60000)
  assert.ok(rows.every((row, n) => row.g === n + 1 && row.v.length === 500))
})

test('a table that changes under a prepared statement', () =>
  withClient(async (client) => {
    await client.query('CREATE TABLE np_change (a int)')
    await client.query('INSERT INTO np_change VALUES (1)')
    const ask = () => client.query({ name: 'np-change', text: 'SELECT * FROM np_change', values: [] })
    assert.deepEqual((await ask()).rows, [{ a: 1 }])
    await client.query("ALTER TABLE np_change ADD b text DEFAULT 'b'")
    assert.equal(await code(ask()), '0A000')
    await client.query('DROP TABLE np_change')
  }))

test('a wrong password and an unknown database', async () => {
  const wrong = new pg.Client({ password: 'wrong' })
  assert.equal(await code(wrong.connect()), '28P01')
  const unknown = new pg.Client({ database: 'np_no_such_database' })
  assert.equal(await code(unknown.connect()), '3D000')
})

test('connections come and go', async () => {
  for (let n = 0; n < 40; n++) {
    const client = new pg.Client()
    await client.connect()
    assert.equal((await client.query('SELECT $1::int AS n', [n])).rows[0].n, n)
    await client.end()
  }
})
