// postgres.js: it prepares everything under generated names, BEGIN too, and pipelines.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { pipeline } from 'node:stream/promises'
import { Readable } from 'node:stream'
import postgres from 'postgres'

const at = { host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER, password: process.env.PGPASSWORD, database: process.env.PGDATABASE }
const sql = postgres({ ...at, max: 8, onnotice: () => {} })

before(async () => {
  await sql`CREATE TABLE pj_items (id serial PRIMARY KEY, name text NOT NULL UNIQUE, n int, doc jsonb)`
  await sql`INSERT INTO pj_items (name, n) SELECT 'item ' || g, g FROM generate_series(1, 300) g`
})

after(async () => {
  await sql`DROP TABLE pj_items`
  await sql.end({ timeout: 5 })
})

const code = (promise) => promise.then(() => 'no error', (error) => error.code)

test('parameters and types', async () => {
  const when = new Date('2024-02-29T12:00:00Z')
  const [row] = await sql`SELECT ${1}::int i, ${'ü'}::text t, ${true}::bool b, ${null}::text n, ${sql.json({ a: [1] })}::jsonb j, ${when}::timestamptz d, ${[1, 2]}::int[] a, ${Buffer.from([0, 255])}::bytea x`
  assert.deepEqual({ ...row }, { i: 1, t: 'ü', b: true, n: null, j: { a: [1] }, d: when, a: [1, 2], x: Buffer.from([0, 255]) })
})

test('a pipeline on one connection', async () => {
  const one = await sql.reserve()
  try {
    const answers = await Promise.all(Array.from({ length: 200 }, (_, n) => one`SELECT ${n}::int AS n`))
    answers.forEach(([row], n) => assert.equal(row.n, n))
  } finally {
    one.release()
  }
})

test('a pipeline with errors in the middle', async () => {
  const one = await sql.reserve()
  try {
    const answers = await Promise.all(Array.from({ length: 40 }, (_, n) => (n % 7 === 3 ? code(one`SELECT ${n}::int / 0 AS n`) : one`SELECT ${n}::int AS n`.then(([row]) => row.n))))
    answers.forEach((answer, n) => assert.equal(answer, n % 7 === 3 ? '22012' : n))
  } finally {
    one.release()
  }
})

test('many queries over all connections', async () => {
  const answers = await Promise.all(Array.from({ length: 400 }, (_, n) => sql`SELECT n FROM pj_items WHERE id = ${(n % 300) + 1}`))
  answers.forEach(([row], n) => assert.equal(row.n, (n % 300) + 1))
})

test('transactions commit, roll back and nest', async () => {
  await sql.begin(async (tx) => {
    await tx`INSERT INTO pj_items (name) VALUES ('in transaction')`
    await tx.savepoint(async (inner) => {
      await inner`INSERT INTO pj_items (name) VALUES ('in savepoint')`
      throw new Error('undo')
    }).catch((error) => assert.equal(error.message, 'undo'))
    assert.equal((await tx`SELECT 1 FROM pj_items WHERE name LIKE 'in %'`).length, 1)
  })
  await assert.rejects(sql.begin(async (tx) => {
    await tx`DELETE FROM pj_items WHERE name = 'in transaction'`
    throw new Error('undo')
  }), /undo/)
  assert.equal((await sql`DELETE FROM pj_items WHERE name = 'in transaction'`).count, 1)
})

test('an error inside a transaction ends it', async () => {
  assert.equal(await code(sql.begin(async (tx) => {
    await tx`INSERT INTO pj_items (name) VALUES ('gone')`
    await tx`INSERT INTO pj_items (name) VALUES ('item 1')`
  })), '23505')
  assert.equal((await sql`SELECT 1 FROM pj_items WHERE name = 'gone'`).length, 0)
})

test('read only transactions', async () => {
  const [row] = await sql.begin('read only', (tx) => tx`SELECT count(*)::int AS n FROM pj_items WHERE n > 0`)
  assert.equal(row.n, 300)
  assert.equal(await code(sql.begin('read only', (tx) => tx`DELETE FROM pj_items`)), '25006')
})

test('own writes are read at once', async () => {
  const one = await sql.reserve()
  try {
    for (let n = 0; n < 40; n++) {
      await one`INSERT INTO pj_items (name) VALUES (${`own ${n}`})`
      assert.equal((await one`SELECT name FROM pj_items WHERE name = ${`own ${n}`}`).length, 1)
    }
    await one`DELETE FROM pj_items WHERE name LIKE 'own %'`
  } finally {
    one.release()
  }
})

test('helpers for many rows', async () => {
  const rows = Array.from({ length: 200 }, (_, n) => ({ name: `bulk ${n}`, n }))
  await sql`INSERT INTO pj_items ${sql(rows, 'name', 'n')}`
  const found = await sql`SELECT name FROM pj_items WHERE name IN ${sql(rows.map((row) => row.name))}`
  assert.equal(found.length, 200)
  assert.equal((await sql`DELETE FROM pj_items WHERE name LIKE 'bulk %'`).count, 200)
})

test('cursors', async () => {
  const seen = []
  await sql`SELECT g FROM generate_series(1, 95) g`.cursor(10, (rows) => { seen.push(...rows.map((row) => row.g)) })
  assert.deepEqual(seen, Array.from({ length: 95 }, (_, n) => n + 1))
  let early = 0
  await sql`SELECT g FROM generate_series(1, 10000) g`.cursor(25, (rows) => {
    early += rows.length
    return early >= 50 ? sql.CLOSE : undefined
  })
  assert.equal(early, 50)
  assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
})

test('rows one by one', async () => {
  let sum = 0
  await sql`SELECT g FROM generate_series(1, 5000) g`.forEach((row) => { sum += row.g })
  assert.equal(sum, 12502500)
})

test('COPY in and out', async () => {
  // A connection of its own: postgres.js sometimes forgets one that has read a COPY, directly too.
  const copier = postgres({ ...at, max: 1 })
  await copier`CREATE TABLE pj_copy (i int, t text)`
  const lines = Array.from({ length: 5000 }, (_, i) => `${i}\tline ${i}\n`)
  await pipeline(Readable.from(lines), await copier`COPY pj_copy FROM STDIN`.writable())
  const parts = []
  for await (const part of await copier`COPY (SELECT * FROM pj_copy ORDER BY i) TO STDOUT`.readable()) parts.push(part)
  assert.equal(Buffer.concat(parts).toString(), lines.join(''))
  await sql`DROP TABLE pj_copy`
  await copier.end({ timeout: 1 })
})

test('LISTEN and NOTIFY', async () => {
  const heard = []
  const { unlisten } = await sql.listen('pj_channel', (payload) => heard.push(payload))
  for (let n = 0; n < 10; n++) await sql.notify('pj_channel', `message ${n}`)
  for (let waited = 0; heard.length < 10 && waited < 50; waited++) await sleep(100)
  assert.deepEqual(heard, Array.from({ length: 10 }, (_, n) => `message ${n}`))
  await unlisten()
})

test('cancel', async () => {
  const query = sql`SELECT pg_sleep(20)`
  const ended = code(query)
  await sleep(300)
  query.cancel()
  assert.equal(await ended, '57014')
  assert.equal((await sql`SELECT 1 AS one`)[0].one, 1)
})

test('simple protocol with several statements', async () => {
  const results = await sql`SELECT 1 AS a; SELECT 2 AS b`.simple()
  assert.deepEqual(results.map((rows) => ({ ...rows[0] })), [{ a: 1 }, { b: 2 }])
})

test('describe without running', async () => {
  const { columns, types } = await sql`SELECT name, n FROM pj_items WHERE id = ${1}`.describe()
  assert.deepEqual([columns.map((column) => column.name), types], [['name', 'n'], [23]])
})

test('errors', async () => {
  assert.equal(await code(sql`SELECT * FROM pj_nothing`), '42P01')
  assert.equal(await code(sql`SELECT ${'x'}::text::int`), '22P02')
  const error = await sql`INSERT INTO pj_items (name) VALUES ('item 1')`.catch((caught) => caught)
  assert.deepEqual([error.code, error.constraint_name, error.table_name], ['23505', 'pj_items_name_key', 'pj_items'])
})

test('a client without prepared statements, and one with settings', async () => {
  const plain = postgres({ ...at, max: 2, prepare: false, connection: { application_name: 'pj plain', search_path: 'pg_catalog' } })
  const answers = await Promise.all(Array.from({ length: 30 }, (_, n) => plain`SELECT ${n}::int AS n, current_setting('application_name') AS a, current_setting('search_path') AS p`))
  answers.forEach(([row], n) => assert.deepEqual({ ...row }, { n, a: 'pj plain', p: 'pg_catalog' }))
  await plain.end()
})

test('large results', async () => {
  const rows = await sql`SELECT g, repeat('z', 1000) AS v FROM generate_series(1, 20000) g`
  assert.ok(rows.length === 20000 && rows.every((row, n) => row.g === n + 1 && row.v.length === 1000))
})
