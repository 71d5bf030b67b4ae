//! Generated statements over two sharded tables, `event` and `item`, with the key `tenant_id`, and one that is
//! everywhere, `country`: joins, subqueries, CTEs, set operations and writes, with conditions that bind the key in
//! many forms, and decoys that only look as if.

/// Their keys are 1 to this.
pub const TENANTS: u64 = 9;

/// xorshift: the same statements for the same seed everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
    pub fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.next(choices.len() as u64) as usize]
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }
    pub fn tenant(&mut self) -> u64 {
        self.next(TENANTS) + 1
    }
}

/// Statements; at most one parameter, the tenant.
pub struct Generator {
    pub random: Random,
    pub tenant: u64,
    pub parameter: bool,
}

impl Generator {
    /// The tenant's number, in one of the forms it can have.
    fn value(&mut self) -> String {
        let tenant = self.tenant;
        if self.parameter {
            self.parameter = false;
            return "$1".to_owned();
        }
        match self.random.next(7) {
            0 => format!("'{tenant}'"),
            1 => format!("{tenant}::bigint"),
            2 => format!("'{tenant}'::int"),
            3 => format!("CAST({tenant} AS bigint)"),
            _ => tenant.to_string(),
        }
    }

    /// A condition that binds the key of `alias`.
    fn binding(&mut self, alias: &str) -> String {
        let column = format!("{alias}.tenant_id");
        match self.random.next(9) {
            6 => {
                format!("({column}, {alias}.n) IN (({0}, 1), ({1}, 2), ({1}, -3))", self.value(), self.tenant)
            }
            7 => format!("({alias}.n, {column}) = (2, {})", self.value()),
            8 => {
                let list = self.random.of(&["k.tenant_id", "k.tenant_id, k.n", "k.id"]);
                let row = if list.contains(',') { format!("({column}, {alias}.n)") } else { column };
                format!("{row} IN (SELECT {list} FROM item k WHERE k.tenant_id = {})", self.value())
            }
            0 => format!("{column} IN ({})", self.value()),
            1 => format!("{} = {column}", self.value()),
            2 if !self.parameter => format!("{column} = ANY('{{{0},{0}}}')", self.tenant),
            3 if !self.parameter => format!("{column} IN ({0}, {0}, NULL)", self.tenant),
            _ => format!("{column} = {}", self.value()),
        }
    }

    /// A condition that binds nothing, though it looks as if.
    fn decoy(&mut self, alias: &str) -> String {
        let other = self.random.tenant();
        let column = format!("{alias}.tenant_id");
        match self.random.next(12) {
            8 => format!("({column}, {alias}.n) NOT IN (({other}, 1), ({other}, 2))"),
            9 => format!("{column} IN (({other}), ({}))", self.tenant),
            10 => format!("({column}, {alias}.n) IN (({other}, 1), ({}, 2))", self.tenant),
            0 => format!("({column} = {other} OR {alias}.n > 3)"),
            1 => format!("NOT ({column} = {other} AND {alias}.n = 1)"),
            2 => format!("CASE WHEN {column} = {other} THEN {alias}.n > 1 ELSE true END"),
            3 => format!("{column} + 0 <> {other}"),
            4 => format!("({column} = {other}) IS NOT NULL"),
            5 => format!("coalesce({column} = {other}, true)"),
            6 => format!("{alias}.n BETWEEN 0 AND {other}"),
            7 => format!("{column} NOT IN ({other}, 77)"),
            _ => format!("{column} >= {other} - 100"),
        }
    }

    fn conditions(&mut self, alias: &str, bound: u64) -> String {
        let mut conditions = Vec::new();
        if self.random.chance(bound) {
            conditions.push(self.binding(alias));
        }
        while self.random.chance(40) {
            conditions.push(self.decoy(alias));
        }
        if conditions.is_empty() {
            conditions.push(format!("{alias}.n >= 0"));
        }
        if self.random.chance(50) {
            conditions.reverse();
        }
        conditions.join(" AND ")
    }

    fn select_list(&mut self, alias: &str) -> String {
        let other = self.random.tenant();
        match self.random.next(7) {
            0 => "count(*)".to_owned(),
            1 => format!("{alias}.id, {alias}.tenant_id = {other}"),
            2 => format!("count(*) FILTER (WHERE {alias}.tenant_id = {other})"),
            3 => format!("{alias}.id, CASE WHEN {alias}.tenant_id = {other} THEN 'a' ELSE 'b' END"),
            4 => format!("sum({alias}.n), min({alias}.id)"),
            _ => format!("{alias}.id, {alias}.n"),
        }
    }

    fn join(&mut self) -> String {
        let kind =
            self.random.of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "INNER JOIN", "FULL JOIN", "LEFT JOIN"]);
        let other = self.random.tenant();
        let on = match self.random.next(8) {
            0 => "ON e.id = i.id".to_owned(),
            1 => format!("ON e.tenant_id = {other}"),
            2 => "USING (tenant_id)".to_owned(),
            3 => format!("ON e.tenant_id = i.tenant_id AND i.tenant_id = {other}"),
            4 if kind != "FULL JOIN" => "ON e.tenant_id = i.tenant_id OR e.n = i.n".to_owned(),
            _ => "ON i.tenant_id = e.tenant_id AND e.n = i.n".to_owned(),
        };
        format!("{kind} item i {on}")
    }

    pub fn query(&mut self) -> String {
        let alias = self.random.of(&["e", "e", "i"]);
        match self.random.next(12) {
            0 | 1 => {
                let (list, join) = (self.select_list("e"), self.join());
                let conditions = self.conditions(alias, 85);
                format!("SELECT {list} FROM event e {join} WHERE {conditions}")
            }
            2 => {
                let (list, left) = (self.select_list("e"), self.conditions("e", 85));
                let other = self.random.tenant();
                let right = match self.random.next(10) {
                    0..=5 => "i.tenant_id = e.tenant_id".to_owned(),
                    // A condition of the subquery on the query around it decides nothing there.
                    6 | 7 => format!("e.tenant_id = {other} AND i.tenant_id = {other}"),
                    _ => self.conditions("i", 50),
                };
                let exists = self.random.of(&["EXISTS", "NOT EXISTS"]);
                format!(
                    "SELECT {list} FROM event e WHERE {left} AND {exists} (SELECT 1 FROM item i WHERE {right} AND i.n = e.n)"
                )
            }
            3 => {
                let (inner, outer) = (self.conditions("e", 80), self.conditions("i", 60));
                let join = self.random.of(&["x.tenant_id = i.tenant_id", "x.n = i.n"]);
                format!(
                    "WITH x AS (SELECT * FROM event e WHERE {inner}) SELECT x.id, i.id FROM x JOIN item i ON {join} WHERE {outer}"
                )
            }
            4 => {
                let (left, right) = (self.conditions("e", 85), self.conditions("i", 85));
                let set = self.random.of(&["UNION ALL", "UNION", "EXCEPT", "INTERSECT"]);
                format!("SELECT e.n FROM event e WHERE {left} {set} SELECT i.n FROM item i WHERE {right}")
            }
            5 => {
                let conditions = self.conditions("e", 85);
                let join = self.random.of(&["JOIN", "LEFT JOIN"]);
                format!(
                    "SELECT c.name, count(e.id) FROM country c {join} event e ON e.n = c.id WHERE {conditions} GROUP BY c.name HAVING count(*) > 0"
                )
            }
            6 => {
                let conditions = self.conditions("e", 85);
                let scalar = self.random.of(&["i.tenant_id = e.tenant_id", "i.n = e.n", "i.tenant_id = 3"]);
                format!(
                    "SELECT e.id, (SELECT count(*) FROM item i WHERE {scalar}) FROM event e WHERE {conditions}"
                )
            }
            7 => {
                let conditions = self.conditions("e", 85);
                format!(
                    "SELECT * FROM (SELECT * FROM event e WHERE {conditions}) d WHERE d.tenant_id > 0 AND d.n < 5"
                )
            }
            8 => {
                let conditions = self.conditions("e", 85);
                format!(
                    "SELECT e.id FROM event e WHERE {conditions} AND e.n IN (SELECT id FROM country) ORDER BY e.tenant_id = 3, e.id LIMIT 5"
                )
            }
            9 => {
                let (a, b) = (self.random.tenant(), self.random.tenant());
                format!("SELECT e.id FROM event e WHERE e.tenant_id IN ({a}, {b})")
            }
            _ => {
                let (list, conditions) = (self.select_list("e"), self.conditions("e", 85));
                format!("SELECT {list} FROM event e WHERE {conditions}")
            }
        }
    }

    pub fn write(&mut self) -> String {
        match self.random.next(7) {
            6 => {
                let other = self.random.tenant();
                let keys = match self.random.next(4) {
                    0 => format!("{},{other}", self.tenant),
                    1 => self.tenant.to_string(),
                    _ => format!("{0},{0}", self.tenant),
                };
                let cast = self.random.of(&["", "::int2[]", "::bigint[]"]);
                format!(
                    "INSERT INTO event (id, tenant_id, n) SELECT * FROM UNNEST('{{1001,1002}}'::bigint[], ('{{{keys}}}'{cast})::bigint[], '{{1,2}}'::bigint[]) RETURNING *"
                )
            }
            0 => {
                let conditions = self.conditions("e", 85);
                format!("UPDATE event e SET n = e.n + 1 WHERE {conditions} RETURNING e.id, e.n")
            }
            1 => {
                let conditions = self.conditions("e", 85);
                let join = self.random.of(&["i.tenant_id = e.tenant_id AND ", ""]);
                format!(
                    "UPDATE event e SET n = 7 FROM item i WHERE {join}i.id = e.id AND {conditions} RETURNING e.id"
                )
            }
            2 => {
                let conditions = self.conditions("e", 85);
                format!("DELETE FROM event e WHERE {conditions} RETURNING e.id, e.tenant_id")
            }
            3 => {
                let conditions = self.conditions("i", 85);
                format!(
                    "WITH gone AS (DELETE FROM item i WHERE {conditions} RETURNING i.n) SELECT count(*), sum(n) FROM gone"
                )
            }
            4 => {
                let (a, b) = (self.value(), self.random.tenant());
                format!(
                    "INSERT INTO event (id, n, tenant_id) VALUES (1001, 1, {a}), (1002, abs(-2), {b}) RETURNING id, tenant_id"
                )
            }
            _ => {
                let value = self.value();
                format!("INSERT INTO item (tenant_id, id, n) VALUES ({value}, 1001, 2 + 1) RETURNING *")
            }
        }
    }
}
