//! Who is connected: a handle for each client, and the registry of them.
//!
//! The handle is how others see and reach a session: the console reads its fields, cancel requests
//! find its server through it, and [`ClientHandle::order`] tells it to stop. It owns no socket.

mod cancel;
mod handle;
mod mailbox;
mod pin;
mod registry;

pub use cancel::{CancelKey, CancelTarget, ServerIdentity};
pub use handle::{Activity, ClientHandle, ClientInfo, Order, Replication, WaitEnd};
pub use mailbox::{Mailbox, Notification, Put, channel as notification_channel};
pub use pin::{Pin, PinReason};
pub use registry::{ClientGuard, LoginGuard, Refused, Registry};

/// A client's number, unique in the process; also the process id it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub u32);
