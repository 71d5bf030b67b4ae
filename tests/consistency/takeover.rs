//! Who took which write, around a promotion: what two nodes have taken, and what only the old primary has.
//!
//! A commit is known by its transaction's id and the microsecond it was made in, which a replica has from the WAL
//! (`track_commit_timestamp`). What the old primary has committed and the new one knows nothing of, it took alone: that
//! is nobody's fault while nobody was told. But the same version of a register must not be the new primary's own, too,
//! and must not have been acknowledged.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use pgweir::cli::local_cluster::{APP_DATABASE, LocalClusterError};

use crate::nodes::Nodes;
use crate::registers::Registers;
use crate::report::Fault;
use crate::schema;

/// A transaction: its id, and when it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Commit {
    id: String,
    at: String,
}

/// One version of a register: the number of its family, its id, the version.
type Version = (usize, i32, i64);

/// What the new primary was seen to have since it was promoted.
#[derive(Debug, Default)]
pub struct Takeover {
    seen: HashMap<Version, HashSet<Commit>>,
}

/// What was found in the end.
#[derive(Debug, Default)]
pub struct Found {
    pub faults: Vec<(Fault, String)>,
    /// Writes that only the old primary has.
    pub alone: usize,
    /// Versions compared.
    pub compared: usize,
}

impl Takeover {
    /// Notes what the new primary has now.
    pub fn look(
        &mut self,
        nodes: &Nodes,
        new: usize,
        registers: &Registers,
    ) -> Result<(), LocalClusterError> {
        for (version, commit) in versions(nodes, new, registers)? {
            self.seen.entry(version).or_default().insert(commit);
        }
        Ok(())
    }

    /// Compares with what the old primary has, which runs again, or still.
    pub fn compare(
        &self,
        nodes: &Nodes,
        (old, new): (usize, usize),
        registers: &Registers,
    ) -> Result<Found, LocalClusterError> {
        let there = versions(nodes, old, registers)?;
        let known = committed(nodes, new, there.iter().map(|(_, commit)| commit))?;
        let mut found = Found { compared: there.len(), ..Found::default() };
        for (version, commit) in there.into_iter().filter(|(_, commit)| !known.contains(commit)) {
            found.alone += 1;
            let (family, id, number) = version;
            let table = registers.families()[family].table;
            let here =
                format!("{table} id {id} version {number}: transaction {} at {}", commit.id, commit.at);
            match self.seen.get(&version) {
                Some(theirs) => found
                    .faults
                    .push((Fault::TakenTwice, format!("{here} on node {old}, and on node {new} {theirs:?}"))),
                None if registers.acknowledged(registers.at(family, id)) == number => {
                    found.faults.push((Fault::Lost, format!("{here} only on node {old}, and acknowledged")));
                }
                None => {}
            }
        }
        Ok(found)
    }
}

/// The present version of each register on a node, with the transaction that made it. Not of those whose versions
/// are made by deleting rows: these tell nothing of it.
fn versions(
    nodes: &Nodes,
    node: usize,
    registers: &Registers,
) -> Result<Vec<(Version, Commit)>, LocalClusterError> {
    let mut parts = Vec::new();
    for (number, family) in registers.families().iter().enumerate() {
        let table = family.table;
        let from = match family.value {
            "version" => format!("SELECT id, version, xmin FROM {table}"),
            "max(version)" => {
                format!("SELECT DISTINCT ON (id) id, version, xmin FROM {table} ORDER BY id, version DESC")
            }
            _ => continue,
        };
        parts.push(format!(
            "SELECT {number}, id, version, xmin, extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM ({from}) t"
        ));
    }
    let answer = nodes.cluster().psql(node, APP_DATABASE, &parts.join(" UNION ALL "))?;
    let row = |line: &str| {
        let fields: Vec<&str> = line.split('|').collect();
        let version = (fields[0].parse().ok()?, fields[1].parse().ok()?, fields[2].parse().ok()?);
        Some((version, Commit { id: fields[3].to_owned(), at: fields[4].to_owned() }))
    };
    Ok(answer.lines().map(|line| row(line).unwrap_or_else(|| panic!("{line}"))).collect())
}

/// Those of some commits that a node has, too.
fn committed<'a>(
    nodes: &Nodes,
    node: usize,
    commits: impl Iterator<Item = &'a Commit>,
) -> Result<HashSet<Commit>, LocalClusterError> {
    let mut ids = String::new();
    for id in commits.map(|commit| &commit.id).collect::<HashSet<_>>() {
        let _ = write!(ids, "{}{id}", if ids.is_empty() { "" } else { "," });
    }
    let sql = format!(
        "SELECT id, extract(epoch FROM pg_xact_commit_timestamp(id::xid)) FROM unnest('{{{ids}}}'::text[]) id"
    );
    let answer = nodes.cluster().psql(node, APP_DATABASE, &sql)?;
    Ok(answer
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(id, at)| Commit { id: id.to_owned(), at: at.to_owned() })
        .collect())
}

/// Whether a write that two nodes have taken is found, and one that was acknowledged and is on the old primary alone:
/// both are written straight to the nodes here. What is wrong with the answer.
pub fn is_noticed() -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut found = runtime.block_on(async {
        let nodes = Nodes::start().await;
        let registers = Registers::new(schema::FAMILIES, 4);
        let found = nodes
            .blocking(move |nodes| {
                let sql = schema::sql(schema::FAMILIES, 4);
                nodes.cluster().access().psql_as_app(0, APP_DATABASE, &sql)?;
                let write = |node: usize, id: i32, version: i64| {
                    let sql = format!("UPDATE plain SET version = {version} WHERE id = {id}");
                    nodes.cluster().psql(node, APP_DATABASE, &sql).map(drop)
                };
                // Both have it, by replication.
                write(0, 1, 1)?;
                nodes.cluster().wait_caught_up()?;
                nodes.sever()?;
                let new = nodes.promote_best()?;
                write(0, 2, 1)?;
                write(new, 2, 1)?;
                // Nobody was told, and it went elsewhere again as another version.
                write(0, 3, 1)?;
                write(new, 3, 2)?;
                write(0, 4, 1)?;
                registers.claim(registers.at(schema::PLAIN, 4)).unwrap().acknowledge();
                let mut takeover = Takeover::default();
                takeover.look(nodes, new, &registers)?;
                takeover.compare(nodes, (0, new), &registers)
            })
            .await;
        tokio::task::spawn_blocking(move || drop(nodes)).await.unwrap();
        found
    });
    found.faults.sort();
    let faults: Vec<Fault> = found.faults.iter().map(|(fault, _)| *fault).collect();
    let mut complaints = Vec::new();
    if faults != [Fault::Lost, Fault::TakenTwice] || found.alone != 3 {
        complaints.push(format!("one of each was to be found: {found:?}"));
    }
    complaints
}
