-- What psql can do; its output must be the same directly and through pgweir.
\pset pager off
\set ON_ERROR_STOP off
\d
\d sales.customers
\d+ sales.orders
\dt+ sales.*
\di sales.*
\dv sales.*
\dm sales.*
\ds sales.*
\df sales.*
\dT sales.*
\dD sales.*
\dO sales.*
\dF sales.*
\do sales.*
\da sales.*
\dn+
\dx
\dp sales.*
\ddp
\dy
\dRp+
\dX
\dC sales.*
\dconfig work_mem
\sf sales.shout
\sv sales.happy
\l template*
\encoding
\copy (SELECT id, name FROM sales.customers ORDER BY id LIMIT 3) TO STDOUT WITH CSV
CREATE TABLE copied (i int, t text);
\copy copied FROM PROGRAM 'printf "1,one\n2,two\n"' WITH CSV
SELECT * FROM copied ORDER BY i;
COPY copied FROM STDIN;
3	three
\.
SELECT count(*) FROM copied;
\copy copied FROM PROGRAM 'printf "x,one\n"' WITH CSV
SELECT format('SELECT %s AS n', g) FROM generate_series(1, 3) g
\gexec
SELECT 42 AS answer, 'text' AS word
\gset my_
\echo :my_answer :'my_word'
SELECT g, g % 3 AS third, 'v' || g AS v FROM generate_series(1, 6) g
\crosstabview g third v
SELECT 1 AS a, 2 AS b
\gx
SELECT 1 AS a, 'x'::text AS b
\gdesc
SELECT 1 \; SELECT 2;
PREPARE p (int) AS SELECT $1 * 2 AS doubled;
EXECUTE p (21);
DEALLOCATE p;
EXECUTE p (21);
BEGIN;
SAVEPOINT a;
SELECT 1 / 0;
\errverbose
ROLLBACK TO a;
SELECT 'still here' AS x;
COMMIT;
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1 / 0;
SELECT 'rolled back by psql' AS x;
COMMIT;
\set ON_ERROR_ROLLBACK off
\set AUTOCOMMIT off
INSERT INTO copied VALUES (9, 'nine');
ROLLBACK;
\set AUTOCOMMIT on
SELECT count(*) FROM copied;
\set FETCH_COUNT 2
SELECT g FROM generate_series(1, 5) g;
\unset FETCH_COUNT
SET work_mem = '7MB';
SHOW work_mem;
RESET work_mem;
\lo_list
\timing off
LISTEN chatter;
NOTIFY chatter, 'hello';
UNLISTEN chatter;
DO $$ BEGIN RAISE NOTICE 'noticed'; RAISE WARNING 'warned'; END $$;
SELECT 'SELECT 1 AS watched' AS q \gset
DROP TABLE copied;
\conninfo_not_there
