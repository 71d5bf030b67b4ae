-- One word that changes with any row that load.sql reads: each change of a row gives it another xmin, each new
-- or dropped one changes the sum. VACUUM and ANALYZE write their numbers in place and change nothing here.
SELECT string_agg(concat(n, ':', s), ' ' ORDER BY part) FROM (
    SELECT 1 AS part, count(*) AS n, sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) AS s FROM pg_catalog.pg_class WHERE relkind NOT IN ('i', 'I', 't')
    UNION ALL SELECT 2, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_proc WHERE oid >= 16384
    UNION ALL SELECT 3, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_namespace
    UNION ALL SELECT 4, count(*), sum(hashint8extended(inhrelid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_inherits
    UNION ALL SELECT 5, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_operator WHERE oid >= 16384
    UNION ALL SELECT 6, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_cast
    UNION ALL SELECT 7, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_trigger
    UNION ALL SELECT 8, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_rewrite
    UNION ALL SELECT 9, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_constraint
    UNION ALL SELECT 10, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_type WHERE typtype = 'd'
    UNION ALL SELECT 11, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_policy
    UNION ALL SELECT 12, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_attrdef
    UNION ALL SELECT 13, count(*), sum(hashint8extended(indexrelid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL SELECT 14, count(*), sum(hashint8extended(partrelid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_partitioned_table
    UNION ALL SELECT 15, count(*), sum(hashint8extended(aggfnoid::oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_aggregate WHERE aggfnoid >= 16384
    UNION ALL SELECT 16, count(*), sum(hashint8extended(oid::bigint << 32 | xmin::text::bigint, 1)::numeric) FROM pg_catalog.pg_extension
) AS parts
