WITH RECURSIVE rel(oid, own) AS (
    SELECT pg_catalog.to_regclass({table})::pg_catalog.oid, true
    UNION
    SELECT d.refobjid, false
    FROM rel JOIN pg_catalog.pg_rewrite r ON r.ev_class = rel.oid
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
        AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    WHERE d.refobjid <> rel.oid
), col AS (
    SELECT a.attrelid, a.attnum, a.attname, a.attgenerated, d.oid AS def, rel.own,
        CASE WHEN d.oid IS NULL THEN t.typdefaultbin::pg_catalog.text ELSE d.adbin::pg_catalog.text END AS tree,
        pg_catalog.row_number() OVER (PARTITION BY rel.oid, rel.own ORDER BY a.attnum) AS place
    FROM rel JOIN pg_catalog.pg_attribute a ON a.attrelid = rel.oid
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped
), filled AS (
    SELECT * FROM col WHERE attgenerated = '' AND (NOT own OR {chosen})
), counts AS (
    SELECT f.attrelid, f.attnum, f.attname, s.seqrelid, s.seqcache, s.seqstart, s.seqincrement
    FROM filled f JOIN pg_catalog.pg_depend d
        ON (d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.refobjid = f.attrelid AND d.refobjsubid = f.attnum AND d.deptype = 'i')
    JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
    UNION
    SELECT f.attrelid, f.attnum, f.attname, s.seqrelid, s.seqcache, s.seqstart, s.seqincrement
    FROM filled f JOIN pg_catalog.pg_depend d
        ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.def
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.refobjid
), called AS (
    SELECT f.attrelid, f.attnum, f.attname, m[1] AS what, m[2]::pg_catalog.oid AS id
    FROM filled f, pg_catalog.regexp_matches(f.tree,
        ':(funcid|opfuncid|opno|aggfnoid|winfnoid) ([0-9]+)', 'g') m
), differs AS (
    SELECT c.attname
    FROM called c LEFT JOIN pg_catalog.pg_operator o ON c.what = 'opno' AND o.oid = c.id
    JOIN pg_catalog.pg_proc p ON p.oid = CASE c.what WHEN 'opno' THEN o.oprcode::pg_catalog.oid ELSE c.id END
    WHERE p.provolatile <> 'i'
        -- nextval of a sequence that is known
        AND NOT (p.oid = 1574 AND EXISTS (SELECT FROM counts
            WHERE counts.attrelid = c.attrelid AND counts.attnum = c.attnum))
    UNION
    -- CURRENT_TIMESTAMP and its kin; the user is the same everywhere.
    SELECT attname FROM filled WHERE tree ~ '[{]SQLVALUEFUNCTION (?!:op (9|10|11|12) )'
    UNION
    -- A text that is read as a time: 'now' is one.
    SELECT attname FROM filled WHERE tree ~ '[{]COERCEVIAIO ' AND tree ~ ':resulttype (1082|1083|1114|1184|1266) '
)
SELECT 'differs', attname::pg_catalog.text, NULL, NULL, NULL, NULL FROM differs
UNION ALL
SELECT DISTINCT 'sequence', c.attname::pg_catalog.text, pg_catalog.format('%I.%I', n.nspname, s.relname),
    c.seqcache::pg_catalog.text, c.seqstart::pg_catalog.text, c.seqincrement::pg_catalog.text
FROM counts c JOIN pg_catalog.pg_class s ON s.oid = c.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
ORDER BY 1, 2
