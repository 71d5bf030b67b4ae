//! The accept loop of one listening socket.

use std::sync::Arc;
use std::time::Duration;

use crate::net::listen::Listener;
use crate::session::{self, SessionContext};
use crate::task;

/// After an accept that failed for want of something (file descriptors), before the next.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until dropped; each client gets a task.
pub(super) async fn accept(listener: Listener, context: Arc<SessionContext>) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                failing = false;
                task::spawn("session", session::serve(Arc::clone(&context), socket, peer));
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
