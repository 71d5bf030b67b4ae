//! One client, as others see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use crate::task::{AtomicMoment, Moment};

use super::ClientId;
use super::cancel::{CancelKey, CancelTarget, ServerIdentity};
use super::pin::Pin;

/// What never changes about a client.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// User it logged in as.
    pub user: String,
    /// Database it asked for.
    pub database: String,
    /// Its address; empty for unix sockets.
    pub address: String,
    /// Its port; 0 for unix sockets.
    pub port: u16,
    /// Our address that it connected to.
    pub local_address: String,
    /// Our port.
    pub local_port: u16,
    /// TLS version and cipher.
    pub tls: Option<Box<str>>,
    /// `application_name` at startup.
    pub application_name: String,
    /// A replication connection, and of which kind.
    pub replication: Option<Replication>,
    /// When it logged in.
    pub connected_at: SystemTime,
}

/// What a replication connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// Base backups and the log of the whole server.
    Physical,
    /// Logical decoding in one database; SQL, too.
    Logical,
}

impl Replication {
    /// The name shown in the console.
    pub fn label(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// What a client does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing.
    Idle,
    /// Waits for a server connection.
    Waiting,
    /// Holds a server connection.
    Active,
}

/// What others may tell a session. Later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Order {
    /// Go on.
    None = 0,
    /// Close when no transaction is open.
    Drain = 1,
    /// Close: idle for longer than allowed.
    IdleTimeout = 2,
    /// Close: idle in a transaction for longer than allowed.
    IdleInTransactionTimeout = 3,
    /// Close: the transaction took longer than allowed.
    TransactionTimeout = 4,
    /// Cancel the running query: it took longer than allowed.
    QueryTimeout = 5,
    /// Close now: more notifications wait for the client than it may have.
    NotificationOverflow = 6,
    /// Close now: the connection that receives its notifications is lost.
    ListenerLost = 7,
    /// Close now: its server connection leads to a node that is no longer the primary.
    PrimaryChanged = 8,
    /// Close now: an operator said so.
    Kill = 9,
    /// Close now: the process ends.
    Shutdown = 10,
}

impl Order {
    fn from_u8(code: u8) -> Self {
        match code {
            1 => Self::Drain,
            2 => Self::IdleTimeout,
            3 => Self::IdleInTransactionTimeout,
            4 => Self::TransactionTimeout,
            5 => Self::QueryTimeout,
            6 => Self::NotificationOverflow,
            7 => Self::ListenerLost,
            8 => Self::PrimaryChanged,
            9 => Self::Kill,
            10 => Self::Shutdown,
            _ => Self::None,
        }
    }
}

/// What a cancel request is to hit.
#[derive(Debug)]
enum Link {
    /// Nothing.
    None,
    /// The wait for a server connection, up to so many milliseconds after login.
    Waiting(u64),
    /// The session has yet to see that it was hit, or took too long.
    WaitEnded(WaitEnd),
    /// What this server connection runs.
    Server(CancelTarget),
}

/// Why a client does not wait for a server connection any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// It was canceled.
    Canceled,
    /// It took too long.
    TimedOut,
}

/// A client that is idle at so many sweeps in a row rests: its session gives back what it takes to run batches.
const SWEEPS_TO_REST: u8 = 10;
/// One whose request still runs at so many of them works long.
const SWEEPS_OF_LONG_WORK: u8 = 2;

/// A client's handle.
#[derive(Debug)]
pub struct ClientHandle {
    /// Its number.
    pub id: ClientId,
    /// Its cancel key.
    pub cancel_key: CancelKey,
    /// Who it is.
    pub info: ClientInfo,
    epoch: Instant,
    activity: AtomicU8,
    /// When the present request or wait began.
    since: AtomicMoment,
    order: AtomicU8,
    seldom: Mutex<Seldom>,
    /// Which waker is registered.
    registered: AtomicUsize,
    link: Mutex<Link>,
    /// Milliseconds after login at which `deadline_order` is due; 0 is never.
    deadline_ms: AtomicU64,
    deadline_order: AtomicU8,
    /// Sweeps since it began to work, up to [`SWEEPS_OF_LONG_WORK`] and, while it is idle, [`SWEEPS_TO_REST`].
    quiet: AtomicU8,
    /// Prepared statements it holds.
    pub prepared_statements: AtomicU32,
}

/// What is seldom looked at.
#[derive(Debug, Default)]
struct Seldom {
    /// Of the session's task. It stays: a session is polled far more often than it is woken by others.
    waker: Option<Waker>,
    /// Why the client keeps its server connection.
    pin: Option<Box<Pin>>,
}

impl ClientHandle {
    /// A handle for a client that logged in at `now`.
    pub fn new(cancel_key: CancelKey, info: ClientInfo, now: Instant) -> Self {
        Self {
            id: cancel_key.id,
            cancel_key,
            info,
            epoch: now,
            activity: AtomicU8::new(0),
            since: AtomicMoment::new(Moment::of(now)),
            order: AtomicU8::new(0),
            seldom: Mutex::default(),
            registered: AtomicUsize::new(0),
            link: Mutex::new(Link::None),
            deadline_ms: AtomicU64::new(0),
            deadline_order: AtomicU8::new(0),
            quiet: AtomicU8::new(0),
            prepared_statements: AtomicU32::new(0),
        }
    }

    /// Why it keeps its server connection, if it does.
    pub fn pin(&self) -> Option<Pin> {
        self.seldom.lock().pin.as_deref().cloned()
    }

    /// Shows or hides that it keeps its server connection.
    pub fn set_pin(&self, pin: Option<Pin>) {
        self.seldom.lock().pin = pin.map(Box::new);
    }

    /// What it does now.
    pub fn activity(&self) -> Activity {
        match self.activity.load(Ordering::Relaxed) {
            1 => Activity::Waiting,
            2 => Activity::Active,
            _ => Activity::Idle,
        }
    }

    /// Its request runs, since `now`.
    pub fn works(&self, now: Moment) {
        self.begins(Activity::Active, now);
    }

    /// It waits for a server connection, since `now`.
    pub fn waits(&self, now: Moment) {
        self.begins(Activity::Waiting, now);
    }

    /// It asks for nothing.
    pub fn idles(&self) {
        self.activity.store(Activity::Idle as u8, Ordering::Relaxed);
    }

    fn begins(&self, activity: Activity, now: Moment) {
        self.activity.store(activity as u8, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
        self.quiet.store(0, Ordering::Relaxed);
    }

    /// Whether it has been idle for about a second.
    #[inline]
    pub fn rests(&self) -> bool {
        self.quiet.load(Ordering::Relaxed) >= SWEEPS_TO_REST
    }

    /// Whether its request, or wait, has taken longer than most do: more than a tenth of a second.
    #[inline]
    pub fn works_long(&self) -> bool {
        self.quiet.load(Ordering::Relaxed) >= SWEEPS_OF_LONG_WORK
    }

    /// Counts a sweep, and wakes a session that may rest, or works long, from now on.
    fn count_quiet(&self) {
        let limit = match self.activity() {
            Activity::Idle => SWEEPS_TO_REST,
            Activity::Waiting | Activity::Active => SWEEPS_OF_LONG_WORK,
        };
        let quiet = self.quiet.load(Ordering::Relaxed);
        if quiet < limit {
            // A session that begins or ends its work meanwhile rests, or is woken, a little early: no harm.
            self.quiet.store(quiet + 1, Ordering::Relaxed);
            if quiet + 1 == limit {
                self.wake();
            }
        }
    }

    /// When the present request or wait began (or the last one, when idle).
    pub fn since(&self) -> Instant {
        self.since.load(Ordering::Relaxed).instant()
    }

    /// When it logged in.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// Tells the session something; a stronger order stays.
    pub fn order(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.wake();
    }

    /// Wakes the session: there is something for it.
    pub fn wake(&self) {
        if let Some(waker) = &self.seldom.lock().waker {
            waker.wake_by_ref();
        }
    }

    /// What the session was told. With `cx`, it is woken when that changes.
    pub fn pending_order(&self, cx: Option<&Context<'_>>) -> Order {
        if let Some(cx) = cx {
            self.register(cx.waker());
        }
        Order::from_u8(self.order.load(Ordering::Acquire))
    }

    /// The session alone calls it.
    #[inline]
    fn register(&self, waker: &Waker) {
        // As long as the waker is kept, no other has its address.
        let which = waker.data().addr() ^ std::ptr::from_ref(waker.vtable()).addr();
        if self.registered.load(Ordering::Relaxed) != which {
            self.seldom.lock().waker = Some(waker.clone());
            self.registered.store(which, Ordering::Relaxed);
        }
    }

    /// Takes back an order that was carried out and that leaves the session alive.
    pub fn clear_order(&self, order: Order) {
        let _ = self.order.compare_exchange(order as u8, 0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Links the server connection that a cancel request must go to.
    pub fn link(&self, server: CancelTarget) {
        *self.link.lock() = Link::Server(server);
    }

    /// Removes the link; from here on no cancel request reaches that server connection.
    pub fn unlink(&self) {
        *self.link.lock() = Link::None;
    }

    /// The client waits for a server connection, until `until` at most (which the sweeper sees to): a cancel request
    /// ends the wait.
    pub fn begin_wait(&self, until: Option<Instant>) {
        *self.link.lock() = Link::Waiting(until.map_or(u64::MAX, |until| self.millis(until)));
    }

    /// Why the wait is over, if it is.
    pub fn wait_end(&self) -> Option<WaitEnd> {
        match &*self.link.lock() {
            Link::WaitEnded(end) => Some(*end),
            _ => None,
        }
    }

    /// The client waits no longer; answers whether somebody else has ended the wait.
    pub fn end_wait(&self) -> Option<WaitEnd> {
        match std::mem::replace(&mut *self.link.lock(), Link::None) {
            Link::WaitEnded(end) => Some(end),
            _ => None,
        }
    }

    /// Milliseconds from its login to `at`.
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// Looks up the linked server connection and marks it canceled; ends the wait of a client that has none yet.
    pub fn cancel_target(&self) -> Option<CancelTarget> {
        let mut link = self.link.lock();
        match &*link {
            Link::None | Link::WaitEnded(_) => None,
            Link::Waiting(_) => {
                *link = Link::WaitEnded(WaitEnd::Canceled);
                drop(link);
                self.wake();
                None
            }
            Link::Server(target) => {
                target.mark_canceled();
                Some(Arc::clone(target))
            }
        }
    }

    /// The linked server connection, for the console.
    pub fn linked(&self) -> Option<Arc<ServerIdentity>> {
        match &*self.link.lock() {
            Link::Server(server) => Some(Arc::clone(server)),
            _ => None,
        }
    }

    /// Asks the sweeper to give `order` at `at`, instead of what was asked before.
    pub fn set_deadline(&self, order: Order, at: Instant) {
        self.deadline_order.store(order as u8, Ordering::Relaxed);
        self.deadline_ms.store(self.millis(at).max(1), Ordering::Release);
    }

    /// Withdraws the deadline.
    pub fn clear_deadline(&self) {
        if self.deadline_ms.load(Ordering::Relaxed) != 0 {
            self.deadline_ms.store(0, Ordering::Release);
        }
    }

    /// Ends the wait that takes too long, gives the order whose deadline has passed, and notices who rests; the sweeper
    /// calls it.
    pub fn sweep(&self, now: Instant) {
        self.count_quiet();
        if self.activity() == Activity::Waiting {
            self.sweep_wait(self.millis(now));
        }
        let due = self.deadline_ms.load(Ordering::Acquire);
        if due == 0 {
            return;
        }
        if due <= self.millis(now)
            && self.deadline_ms.compare_exchange(due, 0, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            self.order(Order::from_u8(self.deadline_order.load(Ordering::Relaxed)));
        }
    }

    fn sweep_wait(&self, now_ms: u64) {
        let mut link = self.link.lock();
        if matches!(*link, Link::Waiting(until) if until <= now_ms) {
            *link = Link::WaitEnded(WaitEnd::TimedOut);
            drop(link);
            self.wake();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in crate::clients) fn handle() -> ClientHandle {
        let info = ClientInfo {
            user: "u".into(),
            database: "d".into(),
            address: String::new(),
            port: 0,
            local_address: String::new(),
            local_port: 0,
            tls: None,
            application_name: String::new(),
            replication: None,
            connected_at: SystemTime::UNIX_EPOCH,
        };
        ClientHandle::new(CancelKey { id: ClientId(1), secret: vec![1, 2, 3, 4] }, info, Instant::now())
    }

    #[test]
    fn a_cancel_marks_what_it_hits_and_hits_nothing_after_unlink() {
        let handle = handle();
        let server = Arc::new(ServerIdentity::new("h".into(), 1, 2, vec![], 3));
        assert!(handle.cancel_target().is_none());
        handle.link(Arc::clone(&server));
        assert!(handle.cancel_target().is_some() && server.is_canceled());
        handle.unlink();
        assert!(handle.cancel_target().is_none());
    }

    #[test]
    fn a_cancel_ends_a_wait_once() {
        let handle = handle();
        handle.begin_wait(None);
        assert_eq!(handle.wait_end(), None);
        assert!(handle.cancel_target().is_none() && handle.wait_end() == Some(WaitEnd::Canceled));
        assert_eq!([handle.end_wait(), handle.end_wait()], [Some(WaitEnd::Canceled), None]);
        handle.begin_wait(None);
        assert_eq!(handle.end_wait(), None);
        assert!(handle.cancel_target().is_none() && handle.wait_end().is_none());
    }

    #[test]
    fn a_wait_ends_when_it_takes_too_long() {
        let (handle, second) = (handle(), Duration::from_secs(1));
        let now = Instant::now();
        handle.waits(Moment::of(now));
        handle.begin_wait(Some(now + second));
        handle.sweep(now);
        assert_eq!(handle.wait_end(), None);
        handle.sweep(now + second);
        assert_eq!(handle.end_wait(), Some(WaitEnd::TimedOut));
        handle.sweep(now + second);
        assert_eq!(handle.wait_end(), None, "nobody waits any longer");
        handle.begin_wait(None);
        handle.sweep(now + 1_000_000 * second);
        assert_eq!(handle.wait_end(), None, "without a limit");
    }

    #[test]
    fn deadlines_become_orders_once() {
        let handle = handle();
        let now = Instant::now();
        handle.set_deadline(Order::QueryTimeout, now);
        handle.sweep(now + std::time::Duration::from_secs(1));
        assert_eq!(handle.pending_order(None), Order::QueryTimeout);
        handle.clear_order(Order::QueryTimeout);
        handle.sweep(now + std::time::Duration::from_secs(2));
        assert_eq!(handle.pending_order(None), Order::None);
    }

    #[test]
    fn a_client_rests_after_a_second_of_silence() {
        let handle = handle();
        let now = Instant::now();
        let sweep = |times: u8| (0..times).for_each(|_| handle.sweep(now));
        handle.works(Moment::of(now));
        sweep(SWEEPS_OF_LONG_WORK - 1);
        assert!(!handle.works_long());
        sweep(100);
        assert!(handle.works_long() && !handle.rests());
        handle.works(Moment::of(now));
        assert!(!handle.works_long(), "the next request");
        handle.idles();
        sweep(SWEEPS_TO_REST - 1);
        assert!(!handle.rests());
        sweep(100);
        assert!(handle.rests());
        handle.works(Moment::of(now));
        assert!(!handle.rests());
    }

    #[test]
    fn the_stronger_order_stays() {
        let handle = handle();
        handle.order(Order::Kill);
        handle.order(Order::Drain);
        assert_eq!(handle.pending_order(None), Order::Kill);
    }
}
