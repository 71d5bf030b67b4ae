//! The accept loop of one listening socket.

use std::sync::Arc;
use std::time::Duration;

use crate::net::listen::Listener;
use crate::session::{self, SessionContext};
use crate::task::{self, Workers};

/// After an accept that failed for want of something (file descriptors), before the next.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until dropped; each client gets a task on the worker that has the fewest.
pub(super) async fn accept(listener: Listener, context: Arc<SessionContext>, workers: Workers) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                failing = false;
                let context = Arc::clone(&context);
                let worker = workers.least_loaded();
                if worker == task::home() {
                    workers.spawn_on(worker, move || session::serve(context, socket, peer));
                    continue;
                }
                match socket.detach() {
                    Ok(detached) => workers.spawn_on(worker, move || {
                        let served = detached.attach().map(|socket| session::serve(context, socket, peer));
                        async move {
                            match served {
                                Ok(served) => served.await,
                                Err(error) => {
                                    tracing::error!(%error, "a connection could not be moved to its worker");
                                }
                            }
                        }
                    }),
                    Err(error) => tracing::error!(%error, "a connection could not be moved to its worker"),
                }
            }
            Err(error) => {
                // Once, not at every attempt: a process out of descriptors must not fill the disk, too.
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "could not accept a connection; trying again");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
