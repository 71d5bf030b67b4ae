//! SIGHUP and signals: a new configuration without losing a client; the way out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::signal::unix::{SignalKind, signal};

use crate::admin::Controls;
use crate::auth::ScramCache;
use crate::config;
use crate::net::tls::ServerTlsConnector;
use crate::pool::Topology;
use crate::session::SessionContext;
use crate::task;

use super::drain::Shutdown;

/// Obeys signals until a shutdown is asked for: HUP reloads, TERM drains (a second one ends at once), INT
/// drains, QUIT ends at once.
pub(super) async fn obey(
    context: &Arc<SessionContext>,
    server_tls: Option<Arc<ServerTlsConnector>>,
    scram: Arc<ScramCache>,
    shutdown: Shutdown,
) {
    let listen = |kind| signal(kind).ok();
    let mut hangup = listen(SignalKind::hangup());
    task::spawn("signals", stop_on_signals(shutdown.clone()));
    let controls = Arc::clone(&context.console.controls);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = controls.shutdown.notified() => shutdown.drain(),
            Some(()) = asked_to_reload(&mut hangup, &controls) => {
                match reload(context, server_tls.as_ref(), &scram) {
                    Ok(report) => tracing::info!("{report}"),
                    Err(error) => tracing::error!("reload failed, the old configuration stays in force:\n{error}"),
                }
            }
        }
    }
}

/// By signal or from the console.
async fn asked_to_reload(
    hangup: &mut Option<tokio::signal::unix::Signal>,
    controls: &Controls,
) -> Option<()> {
    tokio::select! {
        asked = received(hangup) => asked,
        () = controls.reload.notified() => Some(()),
    }
}

async fn received(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

async fn stop_on_signals(shutdown: Shutdown) {
    let listen = |kind| signal(kind).ok();
    let mut terminate = listen(SignalKind::terminate());
    let mut interrupt = listen(SignalKind::interrupt());
    let mut quit = listen(SignalKind::quit());
    loop {
        tokio::select! {
            Some(()) = received(&mut terminate) => shutdown.drain(),
            Some(()) = received(&mut interrupt) => shutdown.drain(),
            Some(()) = received(&mut quit) => shutdown.stop(),
        }
    }
}

/// Reads the configuration file again and puts it in force: users, pool sizes, nodes, certificates.
///
/// # Errors
/// What is wrong with the file; nothing has changed then.
pub(crate) fn reload(
    context: &Arc<SessionContext>,
    server_tls: Option<&Arc<ServerTlsConnector>>,
    scram: &Arc<ScramCache>,
) -> Result<String, String> {
    let present = context.topology.load_full();
    let Some(path) = &present.config.source else {
        return Err("there is no configuration file: pgweir was started from flags".to_owned());
    };
    let new = config::load(path, &config::Environment::of_process()).map_err(|errors| errors.to_string())?;
    if let Some(acceptor) = context.tls.load().as_ref() {
        acceptor.reload(&new.tls.client).map_err(|error| error.to_string())?;
    }
    if let Some(connector) = server_tls {
        connector.reload(&new.tls.server).map_err(|error| error.to_string())?;
    }
    let difference = config::diff(&present.config, &new);
    let topology = Topology::build(Arc::new(new), server_tls.cloned(), Arc::clone(scram), Some(&present));
    let version = topology.version;
    let topology = Arc::new(topology);
    context.topology.store(Arc::clone(&topology));
    context.topology_version.store(version, Ordering::Release);
    topology.apply(&context.pools);
    derive_passwords(context);
    if difference.is_empty() {
        return Ok("configuration reloaded: nothing has changed".to_owned());
    }
    let mut report = vec!["configuration reloaded".to_owned()];
    report.extend(difference.changed);
    if !difference.needs_restart.is_empty() {
        report.push(format!("at the next start: {}", difference.needs_restart.join(", ")));
    }
    Ok(report.join("; "))
}

/// Derives the keys of plain passwords before anybody logs in: no login waits for it, and none can be
/// told by its time from that of a user who does not exist.
pub(super) fn derive_passwords(context: &Arc<SessionContext>) {
    let context = Arc::clone(context);
    task::spawn_blocking(move || {
        let config = Arc::clone(&context.topology.load().config);
        for user in config.users.values() {
            if let Some(work) =
                user.password.as_ref().and_then(|p| context.authenticator.prepare(&user.name, p))
            {
                work.run();
            }
        }
    });
}
