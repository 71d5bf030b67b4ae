//! From raw settings to [`Config`]: defaults, bounds, and what must fit together.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::{ListenText, parse_listen, parse_socket_address};
use super::errors::{Complaint, ConfigErrors, Place, Problems};
use super::node::Node;
use super::password::readable;
use super::raw::{
    RawClientTls, RawConfig, RawHealth, RawLimits, RawPool, RawServerTls, RawSession, RawTimeouts, RawWorkers,
};
use super::read::{Bytes, Located, Read, Several, Time};
use super::units::{show_duration, show_size};
use super::{
    AuthSettings, ClientTls, ClientTlsMode, Config, Environment, HealthSettings, Limits, ListenAddress,
    PoolOverrides, PoolSettings, ServerTls, ServerTlsMode, SessionSettings, Timeouts, TlsSettings, databases,
    defaults, users,
};

/// What the configuration may ask of the world around it.
pub(super) struct Outside<'a> {
    pub environment: &'a Environment,
    /// Reads a file named in the configuration.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The configuration file; relative paths in it start from its directory.
    pub file: Option<&'a Path>,
}

impl Outside<'_> {
    /// A path as the configuration means it.
    pub fn path(&self, text: &str) -> PathBuf {
        self.file.and_then(Path::parent).map_or_else(|| text.into(), |directory| directory.join(text))
    }
}

/// Makes a configuration of a tree, or says everything that is wrong with it.
pub(super) fn resolve(mut root: Node, outside: &Outside<'_>) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::default();
    root.merge();
    outside.environment.override_keys(&mut root, &mut problems);
    let Some(raw) = RawConfig::read(&root, &Place::root(), &mut problems) else {
        return Err(problems.into_errors(outside.file));
    };
    let config = config(&raw, outside, &mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems.into_errors(outside.file)) }
}

fn config(raw: &RawConfig, outside: &Outside<'_>, problems: &mut Problems) -> Config {
    let pool = defaults::pool().with(&pool_overrides(raw.pool.as_ref(), problems));
    check_pool(&pool, raw.pool.as_ref(), problems);
    let routing = databases::routing(&defaults::routing(), raw.routing.as_ref(), problems);
    let (databases, wildcard_database) =
        databases::databases(raw.databases.as_ref(), &pool, &routing, problems);
    let method = raw.auth.as_ref().and_then(|a| a.value.method.as_ref());
    let mut config = Config {
        listen: listen(raw.listen.as_ref(), problems),
        http: raw
            .http
            .as_ref()
            .and_then(|http| problems.keep(&http.place, parse_socket_address(&http.value))),
        workers: workers(raw.workers.as_ref(), problems),
        auth: AuthSettings { method: method.map_or(defaults::AUTH_METHOD, |m| m.value) },
        tls: TlsSettings {
            client: client_tls(raw.tls.as_ref().and_then(|t| t.value.client.as_ref()), outside, problems),
            server: server_tls(raw.tls.as_ref().and_then(|t| t.value.server.as_ref()), outside, problems),
        },
        limits: limits(raw.limits.as_ref(), problems),
        timeouts: timeouts(raw.timeouts.as_ref(), problems),
        health: health(raw.health.as_ref(), problems),
        session: session(raw.session.as_ref()),
        pool,
        routing,
        databases,
        wildcard_database,
        users: BTreeMap::new(),
        admin: users::admin(raw.admin.as_ref()),
        source: outside.file.map(Path::to_path_buf),
    };
    config.users = users::users(raw, &config, outside, problems);
    users::check(raw, &config, problems);
    config
}

/// A number within its bounds, or the default.
pub(super) fn number(
    raw: Option<&Located<u64>>,
    range: &RangeInclusive<u64>,
    problems: &mut Problems,
) -> Option<usize> {
    let raw = raw?;
    if range.contains(&raw.value) {
        return usize::try_from(raw.value).ok();
    }
    let message = format!("must be from {} to {}", range.start(), range.end());
    problems.push(&raw.place, Complaint::new(message));
    None
}

/// A duration within its bounds.
pub(super) fn time(
    raw: Option<&Located<Time>>,
    range: &RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    let raw = raw?;
    let value = raw.value.0;
    if range.contains(&value) {
        return Some(value);
    }
    let message = if value > *range.end() {
        format!("must be at most {}", show_duration(*range.end()))
    } else {
        format!("must be at least {}", show_duration(*range.start()))
    };
    problems.push(&raw.place, Complaint::new(message));
    None
}

/// A size within its bounds, in bytes.
fn size(raw: Option<&Located<Bytes>>, range: &RangeInclusive<u64>, problems: &mut Problems) -> Option<usize> {
    let raw = raw?;
    if range.contains(&raw.value.0) {
        return usize::try_from(raw.value.0).ok();
    }
    let message = format!("must be from {} to {}", show_size(*range.start()), show_size(*range.end()));
    problems.push(&raw.place, Complaint::new(message));
    None
}

/// The pool settings a section sets.
pub(super) fn pool_overrides(raw: Option<&Located<RawPool>>, problems: &mut Problems) -> PoolOverrides {
    let Some(Located { value: raw, .. }) = raw else { return PoolOverrides::default() };
    PoolOverrides {
        mode: raw.mode.as_ref().map(|m| m.value),
        size: number(raw.size.as_ref(), &defaults::POOL_SIZES, problems),
        min_size: number(raw.min_size.as_ref(), &defaults::POOL_MIN_SIZES, problems),
        checkout_timeout: time(raw.checkout_timeout.as_ref(), &defaults::SOME_DURATION, problems),
        idle_timeout: time(raw.idle_timeout.as_ref(), &defaults::ANY_DURATION, problems),
        max_lifetime: time(raw.max_lifetime.as_ref(), &defaults::ANY_DURATION, problems),
        prepared_statements: number(
            raw.prepared_statements.as_ref(),
            &defaults::PREPARED_STATEMENT_COUNTS,
            problems,
        ),
        prepared_statement_bytes: size(
            raw.prepared_statement_memory.as_ref(),
            &defaults::PREPARED_SIZES,
            problems,
        ),
        debug_rotate: raw.debug_rotate.as_ref().map(|r| r.value),
        debug_check: raw.debug_check.as_ref().map(|r| r.value),
    }
}

/// Complains about settings that contradict each other once `raw` is laid over what is below it.
pub(super) fn check_pool(merged: &PoolSettings, raw: Option<&Located<RawPool>>, problems: &mut Problems) {
    let Some(raw) = raw else { return };
    let place = [&raw.value.min_size, &raw.value.size].into_iter().flatten().map(|l| &l.place).next();
    let Some(place) = place else { return };
    if merged.min_size > merged.size {
        let message = format!("min_size ({}) is larger than size ({})", merged.min_size, merged.size);
        problems.push(place, Complaint::new(message).hint("a pool cannot keep open more than it may have"));
    }
}

fn listen(raw: Option<&Located<Several<String>>>, problems: &mut Problems) -> Vec<ListenAddress> {
    let Some(raw) = raw else {
        return vec![ListenAddress::Tcp {
            host: defaults::LISTEN_HOST.to_owned(),
            port: defaults::LISTEN_PORT,
        }];
    };
    if raw.value.0.is_empty() && !problems.concern("listen") {
        let hint = format!("remove the key to listen on {}:{}", defaults::LISTEN_HOST, defaults::LISTEN_PORT);
        problems.push(&raw.place, Complaint::new("has no address: nobody could connect").hint(hint));
    }
    let mut parsed: Vec<ListenText> = Vec::new();
    for text in &raw.value.0 {
        let Some(listen) = problems.keep(&text.place, parse_listen(&text.value)) else { continue };
        // Port 0 is a different port each time.
        let is_any = matches!(listen, ListenText::Tcp { port: 0, .. });
        if !is_any && parsed.contains(&listen) {
            problems.push(&text.place, Complaint::new(format!("{:?} is given twice", text.value)));
        } else {
            parsed.push(listen);
        }
    }
    let tcp_port = parsed.iter().find_map(|l| match l {
        ListenText::Tcp { port, .. } if *port != 0 => Some(*port),
        _ => None,
    });
    let named = |l| match l {
        ListenText::Tcp { host, port } => ListenAddress::Tcp { host, port },
        ListenText::Unix(directory) => {
            ListenAddress::Unix { directory, port: tcp_port.unwrap_or(defaults::LISTEN_PORT) }
        }
    };
    parsed.into_iter().map(named).collect()
}

fn workers(raw: Option<&Located<RawWorkers>>, problems: &mut Problems) -> Option<NonZeroUsize> {
    let raw = raw?;
    let RawWorkers::Number(n) = raw.value else { return None };
    let raw = Located { value: n, place: raw.place.clone() };
    number(Some(&raw), &defaults::WORKERS, problems).and_then(NonZeroUsize::new)
}

fn client_tls(
    raw: Option<&Located<RawClientTls>>,
    outside: &Outside<'_>,
    problems: &mut Problems,
) -> ClientTls {
    let Some(Located { value: raw, place }) = raw else {
        return ClientTls { mode: ClientTlsMode::Disable, certificate: None, key: None };
    };
    let certificate = path(raw.certificate.as_ref(), outside, problems);
    let key = path(raw.key.as_ref(), outside, problems);
    let given = raw.certificate.is_some() || raw.key.is_some();
    let default = if given { ClientTlsMode::Prefer } else { ClientTlsMode::Disable };
    let mode = raw.mode.as_ref().map_or(default, |m| m.value);
    if mode != ClientTlsMode::Disable {
        let place = raw.mode.as_ref().map_or(place, |m| &m.place);
        for (name, missing) in [("certificate", raw.certificate.is_none()), ("key", raw.key.is_none())] {
            if missing {
                let complaint = Complaint::new(format!("TLS for clients needs tls.client.{name}"))
                    .hint("give certificate and key as PEM files, or set mode: disable");
                problems.push(place, complaint);
            }
        }
    }
    ClientTls { mode, certificate, key }
}

fn server_tls(
    raw: Option<&Located<RawServerTls>>,
    outside: &Outside<'_>,
    problems: &mut Problems,
) -> ServerTls {
    let Some(Located { value: raw, .. }) = raw else {
        return ServerTls { mode: defaults::SERVER_TLS_MODE, ca: None };
    };
    let ca = path(raw.ca.as_ref(), outside, problems);
    let mode = raw.mode.as_ref().map_or(defaults::SERVER_TLS_MODE, |m| m.value);
    if let (ServerTlsMode::VerifyCa | ServerTlsMode::VerifyFull, None, Some(located)) =
        (mode, &raw.ca, &raw.mode)
    {
        let complaint = Complaint::new(format!("{} needs tls.server.ca", mode.as_str()))
            .hint("give the PEM file of the authority that signed the servers' certificates");
        problems.push(&located.place, complaint);
    }
    ServerTls { mode, ca }
}

/// A path in the configuration, to a file that can be read.
fn path(raw: Option<&Located<String>>, outside: &Outside<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let raw = raw?;
    let path = outside.path(&raw.value);
    problems.keep(&raw.place, readable(&path, outside))?;
    Some(path)
}

fn limits(raw: Option<&Located<RawLimits>>, problems: &mut Problems) -> Limits {
    let default = defaults::limits();
    let Some(Located { value: raw, .. }) = raw else { return default };
    Limits {
        clients: number(raw.clients.as_ref(), &defaults::CLIENT_COUNTS, problems).unwrap_or(default.clients),
        clients_per_user: number(raw.clients_per_user.as_ref(), &defaults::CLIENT_COUNTS_OR_NONE, problems)
            .unwrap_or(default.clients_per_user),
        message_bytes: size(raw.message.as_ref(), &defaults::MESSAGE_SIZES, problems)
            .unwrap_or(default.message_bytes),
        statement_cache_bytes: size(raw.statement_cache.as_ref(), &defaults::CACHE_SIZES, problems)
            .unwrap_or(default.statement_cache_bytes),
        prepared_statements_per_client: number(
            raw.prepared_statements_per_client.as_ref(),
            &defaults::PREPARED_STATEMENT_COUNTS,
            problems,
        )
        .unwrap_or(default.prepared_statements_per_client),
        prepared_statement_bytes_per_client: size(
            raw.prepared_statement_memory_per_client.as_ref(),
            &defaults::PREPARED_SIZES,
            problems,
        )
        .unwrap_or(default.prepared_statement_bytes_per_client),
        pins: number(raw.pins.as_ref(), &defaults::PIN_COUNTS, problems).unwrap_or(default.pins),
        notification_bytes_per_client: size(
            raw.notifications_per_client.as_ref(),
            &defaults::NOTIFICATION_SIZES,
            problems,
        )
        .unwrap_or(default.notification_bytes_per_client),
        replication_connections: number(
            raw.replication_connections.as_ref(),
            &defaults::REPLICATION_COUNTS,
            problems,
        )
        .unwrap_or(default.replication_connections),
    }
}

fn timeouts(raw: Option<&Located<RawTimeouts>>, problems: &mut Problems) -> Timeouts {
    let default = defaults::timeouts();
    let Some(Located { value: raw, .. }) = raw else { return default };
    let mut any = |raw: Option<&_>, default| time(raw, &defaults::ANY_DURATION, problems).unwrap_or(default);
    let client_idle = any(raw.client_idle.as_ref(), default.client_idle);
    let idle_in_transaction = any(raw.idle_in_transaction.as_ref(), default.idle_in_transaction);
    let query = any(raw.query.as_ref(), default.query);
    let transaction = any(raw.transaction.as_ref(), default.transaction);
    let shutdown = any(raw.shutdown.as_ref(), default.shutdown);
    let mut some =
        |raw: Option<&_>, default| time(raw, &defaults::SOME_DURATION, problems).unwrap_or(default);
    Timeouts {
        client_login: some(raw.client_login.as_ref(), default.client_login),
        server_connect: some(raw.server_connect.as_ref(), default.server_connect),
        client_idle,
        idle_in_transaction,
        query,
        transaction,
        shutdown,
    }
}

fn session(raw: Option<&Located<RawSession>>) -> SessionSettings {
    let default = defaults::session();
    let sequences = raw.and_then(|raw| raw.value.sequences.as_ref()).map(|s| s.value);
    SessionSettings { sequences: sequences.unwrap_or(default.sequences) }
}

fn health(raw: Option<&Located<RawHealth>>, problems: &mut Problems) -> HealthSettings {
    let default = defaults::health();
    let Some(Located { value: raw, .. }) = raw else { return default };
    let recover_after = number(raw.recover_after.as_ref(), &defaults::PROBE_COUNTS, problems);
    let mut some =
        |raw: Option<&_>, default| time(raw, &defaults::SOME_DURATION, problems).unwrap_or(default);
    HealthSettings {
        recover_after: recover_after.map_or(default.recover_after, |count| count as u32),
        interval: some(raw.interval.as_ref(), default.interval),
        timeout: some(raw.timeout.as_ref(), default.timeout),
        dns_ttl: some(raw.dns_ttl.as_ref(), default.dns_ttl),
        user: raw.user.as_ref().map(|u| u.value.clone()),
    }
}
