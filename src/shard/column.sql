WITH RECURSIVE col(nspname, relname, attname, typ, modifier, collation_oid) AS (
    SELECT n.nspname, c.relname, a.attname, a.atttypid, a.atttypmod, a.attcollation
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attname IN ({names}) AND a.attnum > 0 AND NOT a.attisdropped
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
        AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    UNION ALL
    SELECT nspname, relname, attname, t.typbasetype, t.typtypmod, collation_oid
    FROM col JOIN pg_catalog.pg_type t ON t.oid = typ WHERE t.typtype = 'd'
)
SELECT nspname, relname, attname, typ, modifier, pg_catalog.format_type(typ, modifier), l.collisdeterministic
FROM col JOIN pg_catalog.pg_type t ON t.oid = typ
LEFT JOIN pg_catalog.pg_collation l ON l.oid = collation_oid
WHERE t.typtype <> 'd'
