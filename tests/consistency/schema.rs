//! The tables with registers, and everything through which they are read and written.

use std::fmt::Write as _;

/// A table whose rows are registers.
#[derive(Debug)]
pub struct Family {
    /// The table that is read.
    pub table: &'static str,
    /// The version of the register in the rows with its id.
    pub value: &'static str,
    /// The version there is at the beginning.
    pub first: i64,
    /// The last version it can have.
    pub last: i64,
    /// Columns after `id` and `version`, and constraints.
    columns: &'static str,
}

impl Family {
    /// What makes one row of each id.
    pub fn group_by(&self) -> &'static str {
        if self.value == "version" { "" } else { "GROUP BY id" }
    }
}

const fn family(table: &'static str) -> Family {
    Family { table, value: "version", first: 0, last: i64::MAX, columns: ", PRIMARY KEY (id)" }
}

/// Versions of a register that only gets newer by deleting.
const DELETABLE: i64 = 1000;

/// Registers of a table.
pub const PER_FAMILY: usize = 64;

/// Ids of one partition.
pub const PER_PARTITION: i32 = 16;

pub const PLAIN: usize = 0;
pub const UPSERT: usize = 1;
pub const CHILD: usize = 2;
pub const HEIR: usize = 3;
pub const NOTED: usize = 4;
pub const SEEN: usize = 5;
pub const RULED: usize = 6;
pub const FUNC: usize = 7;
pub const PROC: usize = 8;
pub const PART: usize = 9;
pub const LOG: usize = 10;
pub const MERGED: usize = 11;
pub const LATE: usize = 12;
pub const BLOCK: usize = 13;

/// What is checked, in the order of the numbers above.
pub const FAMILIES: &[Family] = &[
    family("plain"),
    family("upsert"),
    // Written only by the cascade of its foreign key.
    Family {
        columns: ", PRIMARY KEY (id), FOREIGN KEY (id, version) REFERENCES parent (id, version) ON UPDATE CASCADE",
        ..family("child")
    },
    Family {
        value: "min(version)",
        first: 1,
        last: DELETABLE,
        columns: ", PRIMARY KEY (id, version), \
                  FOREIGN KEY (id, version) REFERENCES ancestor (id, version) ON DELETE CASCADE",
        ..family("heir")
    },
    // Written only by triggers of other tables.
    family("noted"),
    // Written through two views.
    family("seen"),
    family("ruled"),
    family("func"),
    family("proc"),
    Family { columns: ", PRIMARY KEY (id)) PARTITION BY RANGE (id", ..family("part") },
    // Only grows; written by COPY.
    Family { value: "max(version)", columns: "", ..family("log") },
    family("merged"),
    // Written at COMMIT, by a deferred trigger.
    family("late"),
    family("block"),
];

/// What the measurement of shares reads; the first two are written.
pub const SHARE_FAMILIES: &[Family] = &[
    family("s0"),
    family("s1"),
    family("s2"),
    family("s3"),
    family("s4"),
    family("s5"),
    family("s6"),
    family("s7"),
    family("s8"),
    family("s9"),
];

/// What other tables, triggers, functions and rules there are for writing.
const WAYS: &str = "
CREATE VIEW seen_first AS SELECT id, version FROM seen;
CREATE VIEW seen_through AS SELECT id, version FROM seen_first;

CREATE TABLE watched (id int PRIMARY KEY, version bigint NOT NULL);
INSERT INTO watched SELECT g, 0 FROM generate_series(1, {n}) g;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE noted SET version = greatest(version, NEW.version) WHERE id = NEW.id;
    RETURN NEW;
END $$;
CREATE TRIGGER note AFTER UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION note();
CREATE VIEW window_on_noted AS SELECT id, version FROM watched;
CREATE TRIGGER note INSTEAD OF UPDATE ON window_on_noted FOR EACH ROW EXECUTE FUNCTION note();

CREATE TABLE slow (id int PRIMARY KEY, version bigint NOT NULL);
INSERT INTO slow SELECT g, 0 FROM generate_series(1, {n}) g;
CREATE FUNCTION note_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE late SET version = greatest(version, NEW.version) WHERE id = NEW.id;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER note_late AFTER UPDATE ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION note_late();

CREATE TABLE rules (id int PRIMARY KEY, version bigint NOT NULL);
INSERT INTO rules SELECT g, 0 FROM generate_series(1, {n}) g;
CREATE RULE also AS ON UPDATE TO rules DO ALSO
    UPDATE ruled SET version = greatest(ruled.version, NEW.version) WHERE ruled.id = NEW.id;
CREATE VIEW rules_instead AS SELECT id, version FROM ruled;
CREATE RULE instead AS ON UPDATE TO rules_instead DO INSTEAD
    UPDATE ruled SET version = greatest(ruled.version, NEW.version) WHERE ruled.id = OLD.id;

CREATE FUNCTION bump(i int, v bigint) RETURNS bigint LANGUAGE sql AS
    'UPDATE func SET version = greatest(version, v) WHERE id = i RETURNING version';
CREATE FUNCTION bump_many(i int, v bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY UPDATE func SET version = greatest(version, v) WHERE id = i RETURNING version;
END $$;
CREATE OPERATOR @+ (LEFTARG = int, RIGHTARG = bigint, FUNCTION = bump);

CREATE PROCEDURE raise_to(i int, v bigint) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE proc SET version = greatest(version, v) WHERE id = i;
END $$;
CREATE PROCEDURE raise_and_commit(i int, v bigint) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE proc SET version = greatest(version, v) WHERE id = i;
    COMMIT;
    PERFORM 1;
END $$;
";

/// SQL that makes the tables of `families`, with `n` registers each and all that belongs to them.
pub fn sql(families: &[Family], n: usize) -> String {
    let mut sql = String::new();
    let has = |name: &str| families.iter().any(|family| family.table == name);
    if has("child") {
        let _ = write!(
            sql,
            "CREATE TABLE parent (id int PRIMARY KEY, version bigint NOT NULL, UNIQUE (id, version));
             INSERT INTO parent SELECT g, 0 FROM generate_series(1, {n}) g;
             CREATE TABLE ancestor (id int, version bigint, PRIMARY KEY (id, version));
             INSERT INTO ancestor SELECT g, v FROM generate_series(1, {n}) g, generate_series(1, {DELETABLE}) v;\n"
        );
    }
    for family in families {
        let Family { table, value, first, columns, .. } = family;
        let _ = writeln!(sql, "CREATE TABLE {table} (id int NOT NULL, version bigint NOT NULL{columns});");
        if *table == "part" {
            for part in 0..partitions(n) {
                let (from, to) = (part * PER_PARTITION + 1, (part + 1) * PER_PARTITION + 1);
                let _ = writeln!(
                    sql,
                    "CREATE TABLE part_{part} PARTITION OF part FOR VALUES FROM ({from}) TO ({to});"
                );
            }
        }
        let versions = if *table == "heir" { DELETABLE } else { *first };
        let _ = write!(
            sql,
            "INSERT INTO {table} SELECT g, v FROM generate_series(1, {n}) g, generate_series({first}, {versions}) v;
             CREATE INDEX ON {table} (id, version);
             CREATE VIEW {table}_v AS SELECT id, {value} AS version FROM {table} {group};
             CREATE VIEW {table}_vv AS SELECT id, version FROM {table}_v WHERE id > 0;
             CREATE FUNCTION {table}_get(i int) RETURNS bigint STABLE LANGUAGE sql AS
                 'SELECT {value} FROM {table} WHERE id = i';
             CREATE FUNCTION {table}_look(i int) RETURNS bigint STABLE LANGUAGE plpgsql AS
                 'BEGIN RETURN (SELECT version FROM {table}_v WHERE id = i); END';\n",
            group = family.group_by(),
        );
    }
    if has("child") {
        sql.push_str(&WAYS.replace("{n}", &n.to_string()));
    }
    sql.push_str("ANALYZE;");
    sql
}

fn partitions(n: usize) -> i32 {
    (n as i32 + PER_PARTITION - 1) / PER_PARTITION
}

/// The partition with this id.
pub fn partition_of(id: i32) -> i32 {
    (id - 1) / PER_PARTITION
}
