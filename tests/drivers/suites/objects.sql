-- Some of everything that pg_dump knows.
CREATE EXTENSION hstore;
CREATE EXTENSION pg_trgm;
CREATE SCHEMA sales;
COMMENT ON SCHEMA sales IS 'quoted '' and "double"';
CREATE TYPE sales.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE sales.pair AS (a int, b text);
CREATE TYPE sales.span AS RANGE (subtype = numeric);
CREATE DOMAIN sales.positive AS int CHECK (VALUE > 0);
CREATE COLLATION sales.plain (provider = libc, locale = 'C');
CREATE SEQUENCE sales.numbers START 100 INCREMENT 5;
CREATE TABLE sales.customers (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL COLLATE sales.plain,
    mood sales.mood DEFAULT 'ok',
    attributes hstore,
    pairs sales.pair[],
    born date CHECK (born > '1900-01-01'),
    doubled int GENERATED ALWAYS AS (length(name) * 2) STORED,
    photo bytea,
    weight float8,
    UNIQUE (name, born)
);
CREATE TABLE sales.orders (
    id bigserial,
    customer int NOT NULL REFERENCES sales.customers ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    made timestamptz NOT NULL,
    amount sales.positive,
    during tstzrange,
    PRIMARY KEY (id, made)
) PARTITION BY RANGE (made);
CREATE TABLE sales.orders_2023 PARTITION OF sales.orders FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
CREATE TABLE sales.orders_rest PARTITION OF sales.orders DEFAULT;
CREATE TABLE sales.archive (LIKE sales.customers INCLUDING ALL EXCLUDING IDENTITY, archived timestamptz) WITH (fillfactor = 70);
CREATE TABLE sales.parent (a int);
CREATE TABLE sales.child (b int) INHERITS (sales.parent);
CREATE UNLOGGED TABLE sales.scratch (x int);
CREATE INDEX customers_lower ON sales.customers (lower(name)) WHERE mood <> 'sad';
CREATE INDEX customers_trgm ON sales.customers USING gin (name gin_trgm_ops);
CREATE INDEX orders_during ON sales.orders USING gist (during);
CREATE VIEW sales.happy AS SELECT id, name FROM sales.customers WHERE mood = 'happy' WITH LOCAL CHECK OPTION;
CREATE MATERIALIZED VIEW sales.totals AS SELECT customer, sum(amount) AS total FROM sales.orders GROUP BY customer;
CREATE FUNCTION sales.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT upper($1) || '!; --' $$;
CREATE FUNCTION sales.note() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.name := trim(NEW.name);
    RETURN NEW;
END
$body$;
CREATE PROCEDURE sales.clear() LANGUAGE sql AS 'DELETE FROM sales.scratch';
CREATE FUNCTION sales.rank(sales.mood) RETURNS int LANGUAGE sql IMMUTABLE AS $$ SELECT length($1::text) $$;
CREATE CAST (sales.mood AS int) WITH FUNCTION sales.rank(sales.mood);
CREATE AGGREGATE sales.product(int) (sfunc = int4mul, stype = int, initcond = '1');
CREATE OPERATOR sales.=~= (leftarg = text, rightarg = text, function = texteq);
CREATE TRIGGER trimmed BEFORE INSERT OR UPDATE ON sales.customers FOR EACH ROW EXECUTE FUNCTION sales.note();
CREATE RULE no_scratch AS ON DELETE TO sales.scratch DO INSTEAD NOTHING;
ALTER TABLE sales.customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON sales.customers FOR SELECT TO app USING (name = current_user);
GRANT USAGE ON SCHEMA sales TO app;
GRANT SELECT (id, name), UPDATE (mood) ON sales.customers TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT SELECT ON TABLES TO app;
CREATE STATISTICS sales.correlated (dependencies) ON name, born FROM sales.customers;
CREATE PUBLICATION published FOR TABLE sales.orders;
CREATE TEXT SEARCH CONFIGURATION sales.words (COPY = simple);
CREATE FUNCTION sales.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watched ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION sales.watch();
ALTER EVENT TRIGGER watched DISABLE;
SELECT lo_from_bytea(4711, '\x000102ff');
COMMENT ON LARGE OBJECT 4711 IS 'large';
INSERT INTO sales.customers (name, mood, attributes, pairs, born, photo, weight)
    SELECT E'  name\t' || g || E'\\ ü \n', (ARRAY['sad', 'ok', 'happy'])[1 + g % 3]::sales.mood, hstore('k', g::text),
        ARRAY[ROW(g, 'a,"b')::sales.pair], date '1970-01-01' + g, decode(lpad(to_hex(g), 8, '0'), 'hex'), g / 3.0
    FROM generate_series(1, 5000) g;
INSERT INTO sales.orders (customer, made, amount, during)
    SELECT g, timestamptz '2023-06-01' + g * interval '1 hour', g, tstzrange('2023-01-01', NULL) FROM generate_series(1, 5000) g;
INSERT INTO sales.parent VALUES (1), (NULL);
INSERT INTO sales.child VALUES (2, 3);
INSERT INTO sales.scratch VALUES (1);
SELECT nextval('sales.numbers');
REFRESH MATERIALIZED VIEW sales.totals;
