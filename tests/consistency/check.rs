//! A run from its beginning to its end: servers, pgweir, phases, and the judgment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pgweir::cli::local_cluster::{APP_DATABASE, APP_PASSWORD, APP_USER};
use tokio_postgres::Config;

use crate::client::{Client, STUCK};
use crate::disturb::{Disturbance, Told, disturb};
use crate::nodes::Nodes;
use crate::options::Options;
use crate::phase::{Phase, Run};
use crate::reads::Read;
use crate::registers::Registers;
use crate::report::{Fault, HEADER, Stats};
use crate::schema;
use crate::support::Pgweir;

/// What clients may hear while servers and connections are lost: that, and what they may try again.
const EXPECTED: &[&str] = &["08", "57P01", "57P02", "57P03", "40001", "40P01", "53300"];

/// Two of ten tables are written all the time, the others not at all: replicas must serve these.
const SHARE_AT_LEAST: f64 = 0.7;

/// How a run ended.
pub struct Outcome {
    pub stale: u64,
    /// What must not have happened.
    pub complaints: Vec<String>,
}

/// Starts everything, checks, tells what it found.
pub fn run(options: &Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(check(options))
}

async fn check(options: &Options) -> Outcome {
    let seed = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_millis() as u64 % 1_000_000_007
    });
    let (whole, each) = options.times();
    println!("seed {seed}, level {}, {} clients", options.level, options.clients);
    let families = if options.share { schema::SHARE_FAMILIES } else { schema::FAMILIES };
    let nodes = Nodes::start().await;
    let sql = schema::sql(families, schema::PER_FAMILY);
    nodes
        .blocking(move |nodes| {
            nodes.cluster().access().psql_as_app(0, APP_DATABASE, &sql)?;
            nodes.cluster().wait_caught_up()?;
            // A replica that is killed begins from here, not from before there were tables.
            (0..nodes.count())
                .try_for_each(|node| nodes.cluster().psql(node, "postgres", "CHECKPOINT").map(drop))
        })
        .await;
    let yaml = nodes.yaml(&options.level);
    let pgweir = tokio::task::spawn_blocking(move || Pgweir::start(&yaml)).await.unwrap();
    let registers = Arc::new(Registers::new(families, schema::PER_FAMILY));
    let run = Run {
        seed,
        share: options.share,
        writes: chosen(&options.writes),
        // The cheap ones more often.
        reads: if options.reads.is_empty() {
            [Read::value_variants(), &[Read::Table; 6], &[Read::Pipelined; 4]].concat().into()
        } else {
            chosen(&options.reads)
        },
        per_mille: options.per_mille,
        operations: Arc::new(AtomicU64::new(0)),
        limit: options.operations.unwrap_or(u64::MAX),
        primary: Arc::clone(&nodes.primary),
    };
    let mut config = Config::new();
    config.host("127.0.0.1").port(pgweir.port).user(APP_USER).password(APP_PASSWORD).dbname(APP_DATABASE);

    let disturbances = options.disturbances();
    let mut judge = Judge::new(&options.level);
    let begun = Instant::now();
    let mut number = options.phase.unwrap_or(0);
    println!("{HEADER}");
    // Seconds of checking: what mending takes after a phase does not count.
    let mut spent = 0.0;
    while spent + 0.2 < whole && run.operations_done() < run.limit {
        let disturbance = disturbances[number as usize % disturbances.len()];
        let left = whole - spent;
        let phase =
            Arc::new(Phase::new(&run, number, disturbance, Duration::from_secs_f64(each.min(left).max(0.1))));
        let (mut stats, seconds, told) =
            one_phase(&phase, &nodes, &config, &registers, options.clients).await;
        spent += seconds;
        lost_writes(&nodes, &registers, &mut stats).await;
        println!("{}", stats.line(&format!("{} {}", phase.number, phase.disturbance.name()), seconds));
        judge.phase(&phase, &stats, &told);
        if options.phase.is_some() {
            break;
        }
        number += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", judge.all.line("all", seconds));
    println!("{}", judge.all.details());
    println!("{}", routes(&pgweir));
    let reads = judge.all.read_count();
    println!(
        "seed {seed}, level {}: {} operations in {seconds:.0} s, {} reads of {} versions, {} writes",
        options.level,
        judge.all.operations(),
        reads.operations,
        reads.versions,
        judge.all.writes.values().sum::<u64>(),
    );
    for fault in Fault::ALL {
        println!("{fault}: {}", judge.all.faults(fault));
    }
    println!("versions read from replicas: {:.1} %", 100.0 * reads.replica_share());
    let mut complaints = judge.complaints(options.clients, options.share);
    if options.share && reads.replica_share() < SHARE_AT_LEAST {
        complaints.push(format!("replicas served only {:.1} % of the reads", 100.0 * reads.replica_share()));
    }
    if !complaints.is_empty() {
        let log = pgweir.log();
        let lines: Vec<&str> =
            log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
        println!("\nthe last warnings of pgweir:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"));
    }
    tokio::task::spawn_blocking(move || drop((pgweir, nodes))).await.unwrap();
    Outcome { stale: judge.all.faults(Fault::Stale), complaints }
}

/// These ways, or all that there are.
fn chosen<T: clap::ValueEnum>(named: &[T]) -> Arc<[T]> {
    if named.is_empty() { T::value_variants().into() } else { named.into() }
}

/// All clients work while one disturbance is at work, too.
async fn one_phase(
    phase: &Arc<Phase>,
    nodes: &Arc<Nodes>,
    config: &Config,
    registers: &Arc<Registers>,
    clients: u64,
) -> (Stats, f64, Vec<Told>) {
    let trouble = tokio::spawn(disturb(Arc::clone(phase), Arc::clone(nodes), Arc::clone(registers)));
    // Until the last client has ended, which may be one that waits for a row that such a transaction holds.
    let (all_ended, mut ended) = tokio::sync::watch::channel(false);
    let sweeper = tokio::spawn({
        let nodes = Arc::clone(nodes);
        async move {
            while tokio::time::timeout(Duration::from_secs(2), ended.changed()).await.is_err() {
                nodes
                    .blocking(|nodes| {
                        nodes.sweep_prepared();
                        Ok(())
                    })
                    .await;
            }
        }
    });
    let working: Vec<_> = (1..=clients)
        .map(|number| {
            tokio::spawn(Client::new(number, config.clone(), Arc::clone(registers), Arc::clone(phase)).run())
        })
        .collect();
    let mut stats = Stats::default();
    for client in working {
        stats.add(&client.await.unwrap());
    }
    let seconds = phase.elapsed().as_secs_f64();
    phase.end();
    drop(all_ended);
    sweeper.await.unwrap();
    let told = trouble.await.unwrap();
    for (fault, text) in told.iter().flat_map(|one| &one.faults) {
        stats.fault(*fault, || text.clone());
    }
    (stats, seconds, told)
}

/// Looks at every register on the primary itself, now that all is quiet.
async fn lost_writes(nodes: &Arc<Nodes>, registers: &Arc<Registers>, stats: &mut Stats) {
    let mut parts = Vec::new();
    for (number, family) in registers.families().iter().enumerate() {
        let (table, value) = (family.table, family.value);
        parts.push(format!("SELECT {number}, id, {value} FROM {table} {}", family.group_by()));
    }
    let sql = parts.join(" UNION ALL ");
    let answer = nodes
        .blocking(move |nodes| nodes.cluster().access().psql_as_app(nodes.primary(), APP_DATABASE, &sql))
        .await;
    let mut found = 0;
    for line in answer.lines() {
        let fields: Vec<i64> = line.split('|').map(|field| field.parse().unwrap()).collect();
        let register = registers.at(fields[0] as usize, fields[1] as i32);
        let (expected, version) = (registers.acknowledged(register), fields[2]);
        found += 1;
        if version < expected {
            let table = registers.families()[fields[0] as usize].table;
            stats.fault(Fault::Lost, || {
                format!("{table} id {}: {expected} was acknowledged, {version} is there", fields[1])
            });
        }
    }
    assert_eq!(found, registers.len(), "registers are gone");
}

/// Adds up, and knows what a level promises.
struct Judge {
    level: String,
    all: Stats,
    /// Errors that nothing explains: how many, and of which ways.
    unexpected: BTreeMap<String, (u64, BTreeSet<String>)>,
    complaints: Vec<String>,
}

impl Judge {
    fn new(level: &str) -> Self {
        Self {
            level: level.to_owned(),
            all: Stats::default(),
            unexpected: BTreeMap::new(),
            complaints: Vec::new(),
        }
    }

    fn phase(&mut self, phase: &Phase, stats: &Stats, told: &[Told]) {
        for one in told {
            println!("    {}", one.text);
            if !one.well {
                self.complaints.push(one.text.clone());
            }
        }
        let quiet = matches!(
            phase.disturbance,
            Disturbance::Calm | Disturbance::Delay | Disturbance::Slow | Disturbance::Pause
        );
        for (error, count) in &stats.errors {
            let (way, text) = error.split_once(": ").unwrap_or(("", error));
            let expected = text.starts_with("connection lost")
                || EXPECTED.iter().any(|state| text.starts_with(state)) && !text.starts_with(STUCK);
            if quiet || !expected {
                let key = format!("{}: {text}", phase.disturbance.name());
                let one = self.unexpected.entry(key).or_default();
                one.0 += count;
                one.1.insert(way.to_owned());
            }
        }
        self.all.add(stats);
    }

    fn complaints(&self, clients: u64, share: bool) -> Vec<String> {
        let forbidden: &[Fault] = match self.level.as_str() {
            "eventual" => &[Fault::NeverWritten, Fault::TornSnapshot, Fault::Lost, Fault::TakenTwice],
            "session" => &Fault::ALL[1..],
            _ => &Fault::ALL,
        };
        let mut complaints = self.complaints.clone();
        complaints.extend(
            forbidden
                .iter()
                .filter(|fault| self.all.faults(**fault) > 0)
                .map(|fault| format!("{} {fault} under {}", self.all.faults(*fault), self.level)),
        );
        complaints.extend(self.unexpected.iter().map(|(error, (count, ways))| {
            let ways: Vec<&str> = ways.iter().map(String::as_str).collect();
            format!("{count} errors that nothing explains: {error} ({})", ways.join(", "))
        }));
        let reads = self.all.read_count();
        if reads.operations < clients || self.all.writes.is_empty() {
            complaints.push(format!("only {} operations: nothing is shown", self.all.operations()));
        } else if reads.by_replicas == 0 {
            complaints.push("nothing was read from a replica: nothing is shown".into());
        } else if reads.hot_by_replicas == 0 && !share {
            complaints
                .push("no register that was just written was read from a replica: nothing is shown".into());
        }
        complaints
    }
}

/// pgweir's own view: decisions by target and reason.
fn routes(pgweir: &Pgweir) -> String {
    let (_, metrics) = pgweir.get("/metrics");
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let mut routes: BTreeMap<(String, String), f64> = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("pgweir_routes_total{")) {
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        if let (Some(target), Some(reason)) = (label(line, "target"), label(line, "reason"))
            && count > 0.0
        {
            *routes.entry((target, reason)).or_default() += count;
        }
    }
    let all: f64 = routes.values().sum();
    let mut text = String::from("decisions of pgweir\n");
    for ((target, reason), count) in routes {
        text.push_str(&format!("  {target:<8} {reason:<24} {count:>9} {:>5.1} %\n", 100.0 * count / all));
    }
    text
}
