//! A client: it writes and reads what its seed says, and compares every version it reads with what it must be.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, Error};

use crate::phase::{Phase, SLICE, Slice};
use crate::random::Random;
use crate::reads::{Read, prepared_table};
use crate::registers::{Claim, HOT_MS, Registers};
use crate::report::{Fault, Stats};
use crate::session::{Seen, Session, rows};
use crate::writes::Write;

/// No statement takes that long, whatever the disturbance: the client gives up and that is an error.
const PATIENCE: Duration = Duration::from_secs(30);
/// One connection at a time and what it knows.
pub struct Client {
    number: u64,
    config: Config,
    registers: Arc<Registers>,
    phase: Arc<Phase>,
    random: Random,
    session: Option<Session>,
    /// Newest version of each register this connection has written, and has read.
    own: Vec<i64>,
    seen: Vec<i64>,
    stats: Stats,
}

impl Client {
    pub fn new(number: u64, config: Config, registers: Arc<Registers>, phase: Arc<Phase>) -> Self {
        let random = Random::of(&[phase.seed, number]);
        let known = vec![i64::MIN; registers.len()];
        Self {
            number,
            config,
            random,
            session: None,
            own: known.clone(),
            seen: known,
            registers,
            phase,
            stats: Stats::default(),
        }
    }

    /// Works until the phase is over.
    pub async fn run(mut self) -> Stats {
        let phase = Arc::clone(&self.phase);
        let mut slice = Slice::of(&phase, 0);
        while !phase.over() {
            let number = phase.elapsed().as_millis() / SLICE.as_millis();
            if number != slice.number {
                slice = Slice::of(&phase, number);
                self.random = Random::of(&[phase.seed, self.number, number as u64]);
            }
            if self.session.is_none() {
                match in_time(Session::connect(&self.config)).await {
                    Ok(session) => {
                        self.session = Some(session);
                        // What another connection knew is not promised to this one.
                        self.own.fill(i64::MIN);
                        self.seen.fill(i64::MIN);
                    }
                    Err(error) => {
                        self.trouble("connect", error);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                }
            }
            let Some(session) = self.session.take() else { continue };
            self.session = if slice.writes_now(&phase, &mut self.random) {
                self.write(session, &slice).await
            } else {
                self.read(session, &slice).await
            };
        }
        self.stats
    }

    fn trouble(&mut self, what: &str, trouble: Trouble) {
        *self.stats.errors.entry(format!("{what}: {trouble}")).or_default() += 1;
    }

    /// After an error: the same connection if it still works, outside any transaction.
    async fn recover(&mut self, what: &str, session: Session, trouble: Trouble) -> Option<Session> {
        // What SQL has prepared may still be there.
        let usable =
            matches!(trouble, Trouble::Server(_)) && !session.client.is_closed() && what != "SqlPrepared";
        self.trouble(what, trouble);
        if usable && in_time(session.simple("ROLLBACK")).await.is_ok() { Some(session) } else { None }
    }

    fn done(&self, operations: u64) {
        self.phase.run.operations.fetch_add(operations, Ordering::Relaxed);
    }

    async fn write(&mut self, mut session: Session, slice: &Slice) -> Option<Session> {
        let registers = Arc::clone(&self.registers);
        if self.phase.run.share {
            let register = self.random.index(2 * registers.per_family());
            return match registers.claim(register) {
                Some(claim) => self.write_and_read(session, &claim, false).await,
                None => Some(session),
            };
        }
        let way = self.random.pick(&slice.ways);
        let mut claims = Vec::with_capacity(2);
        for family in way.families() {
            // Few registers, so that readers find what was just written.
            let among = if self.random.per_mille(700) { 6 } else { registers.per_family() };
            let id = 1 + self.random.index(among) as i32;
            match registers.claim(registers.at(*family, id)) {
                Some(claim) => claims.push(claim),
                // Somebody else writes it; another time.
                None => return self.read(session, slice).await,
            }
        }
        if way == Write::Update && self.random.per_mille(300) {
            return self.write_and_read(session, &claims[0], true).await;
        }
        let mut random = self.random.clone();
        let result = in_time(way.run(&mut session, &claims, &mut random)).await;
        self.random = random;
        if let Err(trouble) = result {
            self.stats.failed_writes += 1;
            return self.recover(&format!("{way:?}"), session, trouble).await;
        }
        if way.commits() {
            claims.iter().for_each(|claim| self.acknowledged(claim));
        }
        self.wrote(way);
        Some(session)
    }

    fn acknowledged(&mut self, claim: &Claim<'_>) {
        claim.acknowledge();
        self.own[claim.register] = claim.version;
    }

    fn wrote(&mut self, way: Write) {
        *self.stats.writes.entry(way).or_default() += 1;
        self.phase.wrote();
        self.done(1);
    }

    /// An update with, sent behind it before its answer has come, a read of the same register.
    async fn write_and_read(
        &mut self,
        mut session: Session,
        claim: &Claim<'_>,
        with_read: bool,
    ) -> Option<Session> {
        let registers = Arc::clone(&self.registers);
        let (id, version) = (claim.id(), claim.version);
        let table = registers.families()[registers.family(claim.register)].table;
        let sql = || format!("UPDATE {table} SET version = greatest(version, $2::int8) WHERE id = $1::int4");
        let expected = registers.acknowledged(claim.register);
        let result = in_time(async {
            let key = (true, 200, registers.family(claim.register) as u8);
            let update = session.prepared(key, sql).await?;
            if !with_read {
                return session.client.execute(&update, &[&id, &version]).await.map(|_| None);
            }
            let select = prepared_table(&mut session, claim.register, &registers).await?;
            let client = &session.client;
            // In this order on the wire: the first is polled first.
            let (values, key): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 1]) =
                ([&id, &version], [&id]);
            tokio::try_join!(client.execute(&update, &values), client.query(&select, &key))
                .map(|(_, rows)| Some(rows))
        })
        .await;
        match result {
            Err(trouble) => {
                self.stats.failed_writes += 1;
                self.recover("UpdateAndRead", session, trouble).await
            }
            Ok(read) => {
                self.acknowledged(claim);
                self.wrote(Write::Update);
                if let Some(read) = read {
                    let seen = rows(&read);
                    self.compare(
                        Read::Pipelined,
                        "behind its own write",
                        &[claim.register],
                        &[expected],
                        &seen,
                    );
                }
                Some(session)
            }
        }
    }

    async fn read(&mut self, mut session: Session, slice: &Slice) -> Option<Session> {
        let registers = Arc::clone(&self.registers);
        let way = match self.random.pick(&self.phase.run.reads) {
            _ if self.phase.run.share => Read::Table,
            way if way.hides_its_tables() && slice.narrow => Read::Table,
            way => way,
        };
        let recent = if self.phase.run.share || self.random.per_mille(300) {
            None
        } else {
            registers.recent(&mut self.random)
        };
        let first = recent.unwrap_or_else(|| self.random.index(registers.len()));
        let targets = way.targets(first, &registers, &mut self.random);
        let mut random = self.random.clone();
        // From here on the read has begun.
        let expected: Vec<i64> = targets.iter().map(|target| registers.acknowledged(*target)).collect();
        let result = in_time(way.run(&mut session, &targets, &registers, &mut random)).await;
        self.random = random;
        match result {
            Ok((seen, form)) => {
                self.compare(way, form, &targets, &expected, &seen);
                Some(session)
            }
            Err(trouble) => {
                self.stats.failed_reads += 1;
                self.recover(&format!("{way:?}"), session, trouble).await
            }
        }
    }

    fn compare(&mut self, way: Read, form: &str, targets: &[usize], expected: &[i64], seen: &[Seen]) {
        assert_eq!(seen.len(), targets.len(), "{way:?} {form} {targets:?}: {seen:?}");
        let registers = Arc::clone(&self.registers);
        let primary = self.phase.run.primary.load(Ordering::Relaxed);
        let count = self.stats.reads.entry(way).or_default();
        count.operations += 1;
        for (target, one) in targets.iter().zip(seen) {
            count.versions += 1;
            if one.node != primary {
                count.by_replicas += 1;
                count.hot_by_replicas += u64::from(registers.age_ms(*target).is_some_and(|age| age < HOT_MS));
            }
        }
        self.done(1);
        for ((target, expected), one) in targets.iter().zip(expected).zip(seen) {
            let (target, got) = (*target, one.version);
            let phase = Arc::clone(&self.phase);
            let client = self.number;
            let describe = |expected: String| {
                format!(
                    "{way:?} ({form}) of {} id {}: expected {expected}, got {got} from node {}, {} ms after the \
                     newest acknowledged write; client {client}, phase {} ({}) at {} ms",
                    registers.families()[registers.family(target)].table,
                    registers.id(target),
                    one.node,
                    registers.age_ms(target).unwrap_or(0),
                    phase.number,
                    phase.disturbance.name(),
                    phase.elapsed().as_millis(),
                )
            };
            let (own, before, newest) = (self.own[target], self.seen[target], registers.attempted(target));
            if got < *expected {
                self.stats.fault(Fault::Stale, || describe(format!("{expected} or more")));
            }
            if got < own {
                self.stats.fault(Fault::OwnWriteMissed, || describe(format!("{own} (its own)")));
            }
            if got < before {
                self.stats.fault(Fault::WentBack, || describe(format!("{before} (as before)")));
            }
            if got > newest {
                self.stats.fault(Fault::NeverWritten, || describe(format!("{newest} or less")));
            }
            self.seen[target] = before.max(got);
        }
        if way == Read::Snapshot && seen[0].version != seen[1].version {
            let client = self.number;
            self.stats.fault(Fault::TornSnapshot, || format!("client {client}: {seen:?}"));
        }
    }
}

/// Why an operation has no result.
#[derive(Debug)]
enum Trouble {
    /// The server, or pgweir, said so; SQLSTATE and text.
    Server(String),
    Lost(String),
    TooLate,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Server(text) => f.write_str(text),
            Self::Lost(text) => write!(f, "connection lost ({text})"),
            Self::TooLate => write!(f, "{STUCK} {PATIENCE:?}"),
        }
    }
}

/// How errors begin of operations that took too long.
pub const STUCK: &str = "no answer within";

async fn in_time<T>(what: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(PATIENCE, what).await {
        Err(_) => Err(Trouble::TooLate),
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match error.as_db_error() {
            Some(said) => Trouble::Server(format!("{} {}", said.code().code(), said.message())),
            None => Trouble::Lost(error.to_string()),
        }),
    }
}
