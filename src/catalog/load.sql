-- What routing needs to know of a database, in one snapshot and one round trip. The first column says what a
-- row is; `src/catalog/raw.rs` reads them. Works from version 13 on, for any user: it reads no data.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL search_path = pg_catalog;

-- relation: oid, schema, name, kind, persistence
SELECT 'relation', c.oid, n.nspname, c.relname, c.relkind, c.relpersistence
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't';

-- inherits: child, parent
SELECT 'inherits', inhrelid, inhparent
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE relkind IN ('r', 'p', 'f');

-- function: oid, schema, name, volatility (v, s, i), language, extension. An aggregate is as volatile as the
-- functions it is made of: pg_proc calls all of them immutable. Trigger functions cannot be called.
WITH parts AS (
    SELECT a.aggfnoid::oid AS oid, max(CASE p.provolatile WHEN 'v' THEN 2 WHEN 's' THEN 1 ELSE 0 END) AS rank
    FROM pg_aggregate a JOIN pg_proc p ON p.oid IN (
        a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
        a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
    WHERE a.aggfnoid >= 16384 GROUP BY 1
)
SELECT 'function', p.oid, n.nspname, p.proname,
    CASE parts.rank WHEN 2 THEN 'v' WHEN 1 THEN 's' WHEN 0 THEN 'i' ELSE p.provolatile::text END,
    l.lanname, e.extname
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
LEFT JOIN parts ON parts.oid = p.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    AND d.refclassid = 'pg_extension'::regclass
LEFT JOIN pg_extension e ON e.oid = d.refobjid
WHERE (n.nspname <> 'pg_catalog' OR p.oid >= 16384) AND p.prokind <> 'p'
    AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype);

-- attribute: function that `row.name` may call: one argument, or others have defaults, and the first may be
-- a row.
SELECT 'attribute', p.oid
FROM pg_proc p JOIN pg_type t ON t.oid = p.proargtypes[0]
LEFT JOIN pg_type base ON base.oid = t.typbasetype
WHERE p.oid >= 16384 AND p.prokind IN ('f', 'w', 'a') AND p.pronargs >= 1
    AND p.pronargs - p.pronargdefaults <= 1
    AND (t.typtype IN ('c', 'p') OR base.typtype = 'c'
        OR EXISTS (SELECT FROM pg_cast c JOIN pg_type s ON s.oid = c.castsource
            WHERE c.casttarget = t.oid AND c.castcontext = 'i' AND s.typtype = 'c'));

-- operator: name, its function (OID, or name if built in)
SELECT 'operator', o.oprname, CASE WHEN p.oid >= 16384 THEN p.oid::text ELSE p.proname::text END
FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oid >= 16384;

-- cast: name of the target type, context (i implicit, a assignment, e explicit), oid of its function
SELECT 'cast', t.typname, c.castcontext, c.castfunc
FROM pg_cast c JOIN pg_type t ON t.oid = c.casttarget WHERE c.castfunc >= 16384;

-- trigger: table, name. Those whose function is built in change nothing but the row.
SELECT 'trigger', tgrelid, tgname FROM pg_trigger
WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgfoid >= 16384;

-- rule: table, name
SELECT 'rule', ev_class, rulename FROM pg_rewrite WHERE ev_type <> '1' AND ev_enabled <> 'D' AND oid >= 16384;

-- cascade: table referred to, table changed with it
SELECT DISTINCT 'cascade', confrelid, conrelid FROM pg_constraint
WHERE contype = 'f' AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'));

-- domain: oid, name, base type
SELECT 'domain', t.oid, t.typname, t.typbasetype FROM pg_type t WHERE t.typtype = 'd' AND t.oid >= 16384;

-- uses: kind of owner (view, policy, table, domain, function), its oid, what it uses (relation, call, locks,
-- time, domain), oid or, for built-in functions, name. The stored trees are read, not pg_depend: that does not list
-- what is built in.
WITH trees(kind, owner, tree) AS (
    SELECT 'view', r.ev_class, r.ev_action::text
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
    WHERE r.ev_type = '1' AND r.oid >= 16384 AND c.relkind = 'v'
    UNION ALL
    SELECT 'policy', polrelid, concat(polqual::text, polwithcheck::text) FROM pg_policy
    UNION ALL
    SELECT 'table', adrelid, adbin::text FROM pg_attrdef
    UNION ALL
    SELECT CASE WHEN contypid = 0 THEN 'table' ELSE 'domain' END,
        CASE WHEN contypid = 0 THEN conrelid ELSE contypid END, conbin::text
    FROM pg_constraint WHERE contype = 'c' AND oid >= 16384
    UNION ALL
    SELECT 'table', indrelid, concat(indexprs::text, indpred::text)
    FROM pg_index WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL
    SELECT 'table', partrelid, partexprs::text FROM pg_partitioned_table WHERE partexprs IS NOT NULL
    UNION ALL
    SELECT 'function', oid, proargdefaults::text FROM pg_proc WHERE proargdefaults IS NOT NULL AND oid >= 16384
), found AS (
    SELECT DISTINCT kind, owner, m[1] AS what, m[2]::oid AS id
    FROM trees, regexp_matches(tree,
        ':(relid|funcid|opno|opfuncid|aggfnoid|winfnoid|resulttype) ([0-9]+)', 'g') m
), calls AS (
    SELECT kind, owner, CASE f.what WHEN 'opno' THEN o.oprcode::oid ELSE f.id END AS id
    FROM found f LEFT JOIN pg_operator o ON f.what = 'opno' AND o.oid = f.id
    WHERE f.what NOT IN ('relid', 'resulttype')
)
SELECT 'uses', kind, owner, 'relation', id::text FROM found WHERE what = 'relid' AND id <> 0 AND id <> owner
UNION ALL
SELECT 'uses', kind, owner, 'domain', f.id::text FROM found f JOIN pg_type t ON t.oid = f.id
WHERE what = 'resulttype' AND t.typtype = 'd' AND t.oid >= 16384
UNION ALL
SELECT DISTINCT 'uses', kind, owner, 'call', CASE WHEN p.oid >= 16384 THEN p.oid::text ELSE p.proname::text END
FROM calls JOIN pg_proc p ON p.oid = calls.id
-- Of built-in functions behind a table's columns only those matter that write other tables.
WHERE p.oid >= 16384 OR (p.provolatile <> 'i' AND (kind <> 'table' OR p.proname ~ '^(lo_|query_to_xml)'))
UNION ALL
-- What tells one transaction from the next: CURRENT_TIMESTAMP and its kin, now(), conversions of text, among which
-- is 'now'.
SELECT 'uses', kind, owner, 'time', '' FROM trees
WHERE kind IN ('view', 'policy') AND tree ~ '{(SQLVALUEFUNCTION|COERCEVIAIO) '
UNION ALL
SELECT 'uses', kind, owner, 'time', '' FROM calls JOIN pg_proc p ON p.oid = calls.id
WHERE kind IN ('view', 'policy') AND p.oid < 16384
    AND p.proname ~ '^(now|transaction_timestamp|age|pg_backend_pid|setseed|(date|time|timetz|timestamp|timestamptz)_in)$'
UNION ALL
SELECT 'uses', kind, owner, 'locks', '' FROM trees WHERE tree LIKE '%{ROWMARKCLAUSE%';

COMMIT
