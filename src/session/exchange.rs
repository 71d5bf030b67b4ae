//! What the server still owes: a queue of expected answers, and what becomes of each message. Pure.
//!
//! Every request sent adds an entry; every answer moves the front. Answers to what we sent on our own
//! are dropped, answers we know without asking are injected at their place in the order. After an error
//! the server skips everything up to the next Sync, and so does this queue, undoing what the skipped
//! requests would have changed in the client's and the server's statements.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use smallvec::SmallVec;

use crate::protocol::{BackendTag, ErrorResponse, backend, raw_error};
use crate::server::Definition;

use super::owed::Owed;
use super::statements::Entry;

/// A client's name for a statement; short ones need no memory of their own.
pub(super) type Name = SmallVec<[u8; 16]>;

/// What is taken back when a request turns out not to have happened.
#[derive(Debug)]
pub(super) enum Undo {
    /// Nothing.
    Nothing,
    /// The client's statement of this name was something else before.
    Client {
        /// The client's name for it.
        name: Box<[u8]>,
        /// What it was.
        previous: Option<Entry>,
    },
}

/// The client's statement that an answer describes.
#[derive(Debug)]
pub(super) struct Described {
    /// The client's name for it.
    pub(super) name: Name,
    /// Its definition.
    pub(super) id: u64,
}

/// One expected answer.
#[derive(Debug, Default)]
pub(super) enum Expect {
    /// A Query of the client's: everything up to ReadyForQuery. It drops the unnamed statement.
    Query(Undo),
    /// A Query of our own in front of the batch: swallowed up to ReadyForQuery.
    OwnQuery,
    /// The same, for the settings of the client: where it fails, the transaction it began makes the rest fail, too.
    OwnSettings,
    /// The same behind a batch, where an error is the batch's. Its ReadyForQuery is the client's: that of the
    /// batch itself is swallowed.
    OwnTry,
    /// ParseComplete for a definition; swallowed unless `visible`.
    Parse {
        /// The client asked for it.
        visible: bool,
        /// The definition, to be taken from the server's set if it fails; `None` for the unnamed one.
        definition: Option<Arc<Definition>>,
        /// The client's side.
        undo: Undo,
    },
    /// ParseComplete of a statement under the client's own name.
    ParseByName {
        /// The name was not on the server before.
        added: bool,
        /// The client's side.
        undo: Undo,
    },
    /// ParseComplete that we give ourselves: the server has the statement.
    InjectParse(Undo),
    /// BindComplete, for the client's statement with this name.
    Bind(Name),
    /// CloseComplete of a portal, or of a statement under the client's own name.
    Close(Undo),
    /// CloseComplete of a statement that is of no use any more: swallowed.
    OwnClose(Arc<Definition>),
    /// CloseComplete of the unnamed statement of somebody else: swallowed.
    OwnDrop,
    /// CloseComplete that we give ourselves: the statement stays on the server for others.
    InjectClose(Undo),
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement(Option<Described>),
    /// RowDescription or NoData.
    DescribePortal(Option<Described>),
    /// ParseComplete, or an error, for a statement under this name, the client's own: swallowed.
    OwnParse(Box<[u8]>),
    /// ParseComplete of the statement that is in the way of a name: swallowed.
    Decoy,
    /// An error: a Parse for a name that the client has given to another statement.
    Taken(Name),
    /// ReadyForQuery after those, or after a batch that is tried again: swallowed.
    OwnReady,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    #[default]
    Execute,
    /// An error: the message makes no sense, and the server says so.
    Malformed,
    /// An error that the server is made to raise and that we word ourselves.
    Fail(Box<Failure>),
    /// ReadyForQuery for the client's Sync.
    Sync,
    /// ReadyForQuery for a Sync of our own: swallowed.
    OwnSync,
    /// FunctionCallResponse and ReadyForQuery.
    FunctionCall,
    /// The answers to Syncs among the data of a COPY that has failed, as far as there are any, and to the Sync
    /// and the empty Query that we sent to find out.
    Probe {
        /// ReadyForQuery so far.
        ready: usize,
        /// The Query has been reached.
        ended: bool,
    },
}

/// An error that we word.
#[derive(Debug)]
pub(super) enum Failure {
    /// Our own.
    Ours(ErrorResponse),
    /// As a server has sent it, or would.
    Raw(Vec<u8>),
}

impl From<ErrorResponse> for Failure {
    fn from(error: ErrorResponse) -> Self {
        Self::Ours(error)
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// To the client as it is.
    Forward,
    /// Not for the client.
    Drop,
    /// Makes no sense here: the connection is out of step.
    Unexpected,
}

/// What the session must do besides.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    /// Requests that did not happen.
    pub(super) undone: Vec<Expect>,
    /// The error came where a Query of our own was expected.
    pub(super) own_failure: bool,
    /// The error came where the client's settings were to be made.
    pub(super) settings_failed: bool,
    /// The error is nobody's business.
    pub(super) is_ours: bool,
}

impl Aftermath {
    /// The client's name of the statement that the error is about.
    pub(super) fn blamed(&self) -> Option<Name> {
        match self.undone.first() {
            Some(Expect::Bind(name) | Expect::Taken(name)) => Some(name.clone()),
            Some(Expect::DescribeStatement(Some(described))) => Some(described.name.clone()),
            _ => None,
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    queue: Owed<Expect>,
    /// Messages to be put between the server's, in order.
    pub(super) injected: BytesMut,
    /// Everything is skipped up to a Sync that the client has not sent yet.
    pub(super) skipping: bool,
    /// So does the server: it must be sent that Sync before it is of use to anybody.
    pub(super) server_skips: bool,
    /// The next ParameterDescription was sent to the client before, when the batch was tried first.
    pub(super) describes_again: bool,
    /// The server waits for COPY data.
    pub(super) copy_in: bool,
    /// Syncs passed on among that data. The server ignores them, unless the COPY has failed before.
    pub(super) copy_syncs: usize,
    /// The COPY has failed, and it is to be found out which of those Syncs are answered.
    pub(super) wants_probe: bool,
    /// One of them was.
    pub(super) answered_sync: bool,
    /// The type of a message of the client's that does not belong into the COPY, which was given up over it.
    pub(super) stray: Option<u8>,
}

impl Exchange {
    /// Adds an expected answer.
    pub(super) fn push(&mut self, expect: Expect) {
        self.queue.push(expect);
    }

    /// Nothing of what is owed will come. Answers what was asked for, and whether the client has asked for a
    /// ReadyForQuery; if not, the rest is skipped until it does.
    pub(super) fn abandon(&mut self) -> (Vec<Expect>, bool) {
        let owed = std::mem::take(self).queue.take();
        let is_asked =
            owed.iter().any(|e| matches!(e, Expect::Query(_) | Expect::Sync | Expect::FunctionCall));
        self.skipping = !is_asked;
        (owed, is_asked)
    }

    /// Gives back what it needs only while something is owed.
    pub(super) fn rest(&mut self) {
        if self.queue.is_empty() && self.injected.is_empty() {
            (self.queue, self.injected) = (Owed::default(), BytesMut::new());
        }
    }

    /// Whether nothing is owed.
    pub(super) fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether bulk messages (rows, COPY data) go to the client now.
    pub(super) fn passes_bulk(&self) -> bool {
        matches!(self.queue.front(), Some(Expect::Query(_) | Expect::Execute | Expect::FunctionCall))
    }

    /// Whether COPY data goes on in the extended protocol, where nothing is flushed by itself.
    pub(super) fn in_extended(&self) -> bool {
        matches!(self.queue.front(), Some(Expect::Execute))
    }

    /// Whether what comes now answers a request of our own.
    pub(super) fn is_ours(&self) -> bool {
        matches!(
            self.queue.front(),
            Some(
                Expect::OwnQuery
                    | Expect::OwnSettings
                    | Expect::OwnTry
                    | Expect::OwnParse(_)
                    | Expect::OwnReady
                    | Expect::Probe { .. }
            )
        )
    }

    /// Whether a BindComplete is expected.
    pub(super) fn expects_bind(&self) -> bool {
        matches!(self.queue.front(), Some(Expect::Bind(_)))
    }

    /// The client's statement of which it is about to be told what it gives back.
    pub(super) fn describes(&self) -> Option<&Described> {
        match self.queue.front() {
            Some(Expect::DescribeStatement(of) | Expect::DescribePortal(of)) => of.as_ref(),
            _ => None,
        }
    }

    /// The ReadyForQuery that is expected next is not for the client. False when none is.
    pub(super) fn swallow_sync(&mut self) -> bool {
        match self.queue.front_mut() {
            Some(front @ (Expect::Sync | Expect::OwnSync)) => {
                *front = Expect::OwnReady;
                // A Sync of ours: the client has not been told of an error.
                self.skipping = false;
                true
            }
            _ => false,
        }
    }

    /// Whether the server goes on behind the statements under the client's own names if one of them fails.
    fn own_parses_are_synced(&self) -> bool {
        let next = self.queue.iter().find(|expect| !matches!(expect, Expect::OwnParse(_)));
        matches!(next, Some(Expect::OwnReady))
    }

    /// Emits what is to be injected at the front.
    #[inline]
    pub(super) fn settle(&mut self) {
        if matches!(self.queue.front(), Some(Expect::InjectParse(_) | Expect::InjectClose(_))) {
            self.inject();
        }
    }

    fn inject(&mut self) {
        loop {
            match self.queue.front() {
                Some(Expect::InjectParse(_)) => backend::bare(&mut self.injected, BackendTag::PARSE_COMPLETE),
                Some(Expect::InjectClose(_)) => backend::bare(&mut self.injected, BackendTag::CLOSE_COMPLETE),
                _ => return,
            }
            self.queue.pass();
        }
    }

    /// Takes one message that goes to the client as it is and of which nobody has to know more; false if it may be
    /// another. What [`Self::on_message`] would say of the usual ones, for less.
    #[inline]
    pub(super) fn passes(&mut self, tag: BackendTag) -> bool {
        use BackendTag as T;
        match (self.queue.front(), tag) {
            (Some(Expect::Query(_)), T::ROW_DESCRIPTION | T::COMMAND_COMPLETE) => return true,
            (Some(Expect::Parse { visible: true, definition: None, .. }), T::PARSE_COMPLETE)
            | (Some(Expect::Bind(_)), T::BIND_COMPLETE)
            | (Some(Expect::DescribePortal(None)), T::ROW_DESCRIPTION | T::NO_DATA) => {}
            (Some(Expect::Execute), T::COMMAND_COMPLETE) if !self.copy_in && self.copy_syncs == 0 => {}
            _ => return false,
        }
        self.queue.pass();
        self.settle();
        true
    }

    /// Takes one message (not ErrorResponse, and not ParameterStatus, NoticeResponse or NotificationResponse, which
    /// may come at any time).
    pub(super) fn on_message(&mut self, tag: BackendTag) -> Verdict {
        use BackendTag as T;
        let Some(front) = self.queue.front_mut() else { return Verdict::Unexpected };
        let (verdict, done) = match front {
            Expect::Query(_) => match tag {
                T::COPY_IN_RESPONSE => {
                    self.copy_in = true;
                    self.copy_syncs = 0;
                    (Verdict::Forward, false)
                }
                T::READY_FOR_QUERY => {
                    self.copy_in = false;
                    (Verdict::Forward, true)
                }
                T::PARSE_COMPLETE | T::BIND_COMPLETE | T::CLOSE_COMPLETE | T::COPY_BOTH_RESPONSE => {
                    (Verdict::Unexpected, false)
                }
                _ => (Verdict::Forward, false),
            },
            Expect::OwnQuery | Expect::OwnSettings => (Verdict::Drop, tag == T::READY_FOR_QUERY),
            Expect::OwnTry if tag == T::READY_FOR_QUERY => (Verdict::Forward, true),
            Expect::OwnTry => (Verdict::Drop, false),
            Expect::Parse { visible, definition, .. } => match tag {
                T::PARSE_COMPLETE => {
                    if let Some(definition) = definition {
                        definition.is_valid.store(true, Ordering::Release);
                    }
                    (if *visible { Verdict::Forward } else { Verdict::Drop }, true)
                }
                _ => (Verdict::Unexpected, false),
            },
            Expect::ParseByName { .. } => expect_only(tag, T::PARSE_COMPLETE),
            Expect::Bind(_) => expect_only(tag, T::BIND_COMPLETE),
            Expect::Close(_) => expect_only(tag, T::CLOSE_COMPLETE),
            Expect::OwnClose(_) | Expect::OwnDrop => match tag {
                T::CLOSE_COMPLETE => (Verdict::Drop, true),
                _ => (Verdict::Unexpected, false),
            },
            Expect::OwnParse(_) | Expect::Decoy => match tag {
                T::PARSE_COMPLETE => (Verdict::Drop, true),
                _ => (Verdict::Unexpected, false),
            },
            Expect::DescribeStatement(_) | Expect::DescribePortal(_) => match tag {
                T::PARAMETER_DESCRIPTION if matches!(front, Expect::DescribeStatement(_)) => {
                    // The client has it from the first try already.
                    let again = std::mem::take(&mut self.describes_again);
                    (if again { Verdict::Drop } else { Verdict::Forward }, false)
                }
                T::ROW_DESCRIPTION | T::NO_DATA => (Verdict::Forward, true),
                _ => (Verdict::Unexpected, false),
            },
            Expect::Execute => match tag {
                T::COMMAND_COMPLETE | T::EMPTY_QUERY_RESPONSE | T::PORTAL_SUSPENDED => {
                    self.copy_in = false;
                    self.copy_syncs = 0;
                    (Verdict::Forward, true)
                }
                T::COPY_IN_RESPONSE => {
                    self.copy_in = true;
                    self.copy_syncs = 0;
                    // The server reads a Sync that is on its way already as part of the COPY, and ignores it.
                    self.queue.keep_first();
                    (Verdict::Forward, false)
                }
                T::DATA_ROW | T::COPY_OUT_RESPONSE | T::COPY_DATA | T::COPY_DONE => (Verdict::Forward, false),
                _ => (Verdict::Unexpected, false),
            },
            Expect::Sync => expect_only(tag, T::READY_FOR_QUERY),
            Expect::OwnSync | Expect::OwnReady => match tag {
                T::READY_FOR_QUERY => (Verdict::Drop, true),
                _ => (Verdict::Unexpected, false),
            },
            Expect::FunctionCall => match tag {
                T::FUNCTION_CALL_RESPONSE => (Verdict::Forward, false),
                T::READY_FOR_QUERY => (Verdict::Forward, true),
                _ => (Verdict::Unexpected, false),
            },
            Expect::Probe { ready, ended } => match tag {
                T::EMPTY_QUERY_RESPONSE => {
                    *ended = true;
                    (Verdict::Drop, false)
                }
                T::READY_FOR_QUERY if *ended => {
                    self.server_skips = false;
                    (Verdict::Drop, true)
                }
                T::READY_FOR_QUERY => {
                    *ready += 1;
                    // The last one is ours; that there is another was the client's.
                    if *ready > 1 {
                        self.answered_sync = true;
                        self.skipping = false;
                    }
                    (Verdict::Drop, false)
                }
                _ => (Verdict::Unexpected, false),
            },
            Expect::Malformed
            | Expect::Taken(_)
            | Expect::Fail(_)
            | Expect::InjectParse(_)
            | Expect::InjectClose(_) => (Verdict::Unexpected, false),
        };
        if done {
            self.queue.pass();
            if tag == T::READY_FOR_QUERY && matches!(self.queue.front(), Some(Expect::OwnTry)) {
                return Verdict::Drop;
            }
            self.settle();
        }
        verdict
    }

    /// Takes an ErrorResponse.
    pub(super) fn on_error(&mut self) -> (Verdict, Aftermath) {
        let mut aftermath = Aftermath::default();
        let verdict = self.fail(&mut aftermath);
        self.settle();
        (verdict, aftermath)
    }

    fn fail(&mut self, aftermath: &mut Aftermath) -> Verdict {
        self.copy_in = false;
        let uncertain = std::mem::take(&mut self.copy_syncs) > 0;
        if uncertain && matches!(self.queue.front(), Some(Expect::Query(_))) {
            self.push_probe();
        }
        match self.queue.front() {
            // In the simple protocol ReadyForQuery follows by itself. An error that nothing asked for comes
            // from a server that is about to close.
            Some(Expect::Query(_) | Expect::FunctionCall) | None => return Verdict::Forward,
            Some(Expect::OwnQuery) => {
                aftermath.own_failure = true;
                return Verdict::Drop;
            }
            Some(Expect::OwnSettings) => {
                aftermath.settings_failed = true;
                return Verdict::Drop;
            }
            Some(Expect::OwnTry) => {
                aftermath.is_ours = true;
                return Verdict::Drop;
            }
            Some(Expect::OwnParse(_)) if self.own_parses_are_synced() => {
                // What cannot be prepared is not there; the statement that needs it will be told.
                aftermath.undone = self.leave_while(|expect| matches!(expect, Expect::OwnParse(_)));
                aftermath.is_ours = true;
                return Verdict::Drop;
            }
            Some(_) => {}
        }
        let mut verdict = Verdict::Forward;
        if let Some(Expect::Fail(error)) = self.queue.front() {
            match &**error {
                Failure::Ours(error) => error.write(&mut self.injected),
                Failure::Raw(body) => raw_error(&mut self.injected, body),
            }
            verdict = Verdict::Drop;
        }
        aftermath.undone = self.leave_while(|expect| !matches!(expect, Expect::Sync | Expect::OwnSync));
        match self.queue.front() {
            Some(Expect::Sync) => return verdict,
            Some(_) => {
                // The server is in step again after it, but the client has yet to send its own Sync.
                self.skipping = true;
                return verdict;
            }
            None => {}
        }
        self.skipping = true;
        self.server_skips = true;
        if uncertain {
            self.push_probe();
        }
        verdict
    }

    /// Takes out what is at the front as long as it is of this kind.
    fn leave_while(&mut self, is_such: impl Fn(&Expect) -> bool) -> Vec<Expect> {
        let count = self.queue.iter().take_while(|expect| is_such(expect)).count();
        self.queue.split(count)
    }

    fn push_probe(&mut self) {
        self.wants_probe = true;
        self.push(Expect::Probe { ready: 0, ended: false });
    }
}

fn expect_only(tag: BackendTag, only: BackendTag) -> (Verdict, bool) {
    if tag == only { (Verdict::Forward, true) } else { (Verdict::Unexpected, false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BackendTag as T;

    fn run(exchange: &mut Exchange, tags: &[BackendTag]) -> (Vec<Verdict>, Aftermath) {
        let mut last = Aftermath::default();
        let verdicts = tags.iter().map(|tag| {
            if *tag != T::ERROR_RESPONSE {
                return exchange.on_message(*tag);
            }
            let (verdict, aftermath) = exchange.on_error();
            last = aftermath;
            verdict
        });
        (verdicts.collect(), last)
    }

    fn own_parse() -> Expect {
        Expect::Parse { visible: false, definition: None, undo: Undo::Nothing }
    }

    /// The short table says nothing but what the whole judgment says.
    #[test]
    fn what_passes_would_be_forwarded() {
        let expects: [fn() -> Expect; 8] = [
            || Expect::Query(Undo::Nothing),
            || Expect::Parse { visible: true, definition: None, undo: Undo::Nothing },
            own_parse,
            || Expect::Bind(Name::new()),
            || Expect::DescribePortal(None),
            || Expect::Execute,
            || Expect::Sync,
            || Expect::OwnQuery,
        ];
        let mut passed = 0;
        for (expect, tag) in expects.iter().flat_map(|expect| (0..=u8::MAX).map(move |tag| (expect, tag))) {
            let (mut short, mut whole) = (Exchange::default(), Exchange::default());
            for exchange in [&mut short, &mut whole] {
                exchange.push(expect());
                exchange.push(Expect::InjectParse(Undo::Nothing));
                exchange.push(Expect::Sync);
            }
            if short.passes(BackendTag(tag)) {
                passed += 1;
                assert_eq!(whole.on_message(BackendTag(tag)), Verdict::Forward);
            }
            let is_untouched = short.queue.len() == 3 && short.injected.is_empty();
            assert!(
                is_untouched || (short.queue.len(), &short.injected) == (whole.queue.len(), &whole.injected)
            );
        }
        assert_eq!(passed, 7);
    }

    #[test]
    fn our_own_answers_are_dropped_and_known_ones_injected_in_order() {
        let mut exchange = Exchange::default();
        for expect in [
            Expect::OwnQuery,
            Expect::InjectParse(Undo::Nothing),
            own_parse(),
            Expect::Bind(Name::new()),
            Expect::Execute,
            Expect::Sync,
        ] {
            exchange.push(expect);
        }
        let (verdicts, _) =
            run(&mut exchange, &[T::ROW_DESCRIPTION, T::DATA_ROW, T::COMMAND_COMPLETE, T::READY_FOR_QUERY]);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Drop));
        assert_eq!(&exchange.injected[..1], b"1", "injected once the own query is done");
        let (verdicts, _) = run(
            &mut exchange,
            &[T::PARSE_COMPLETE, T::BIND_COMPLETE, T::DATA_ROW, T::COMMAND_COMPLETE, T::READY_FOR_QUERY],
        );
        assert_eq!(verdicts[0], Verdict::Drop);
        assert!(verdicts[1..].iter().all(|verdict| *verdict == Verdict::Forward));
        assert!(exchange.is_done());
    }

    #[test]
    fn an_error_skips_to_the_sync_and_tells_what_did_not_happen() {
        let mut exchange = Exchange::default();
        for expect in [
            own_parse(),
            Expect::Bind(Name::new()),
            Expect::Execute,
            Expect::Sync,
            Expect::Bind(Name::new()),
            Expect::Sync,
        ] {
            exchange.push(expect);
        }
        let (verdicts, aftermath) =
            run(&mut exchange, &[T::PARSE_COMPLETE, T::ERROR_RESPONSE, T::READY_FOR_QUERY]);
        assert_eq!(verdicts, [Verdict::Drop, Verdict::Forward, Verdict::Forward]);
        assert_eq!(aftermath.undone.len(), 2, "the Parse had happened; Bind and Execute had not");
        assert!(!exchange.skipping && !exchange.is_done());
    }

    #[test]
    fn an_error_without_a_sync_leaves_the_server_skipping() {
        let mut exchange = Exchange::default();
        exchange.push(Expect::Bind(Name::new()));
        run(&mut exchange, &[T::ERROR_RESPONSE]);
        assert!(exchange.skipping && exchange.is_done());
    }

    #[test]
    fn a_sync_sent_before_copy_data_is_not_answered() {
        let mut exchange = Exchange::default();
        exchange.push(Expect::Execute);
        exchange.push(Expect::Sync);
        run(&mut exchange, &[T::COPY_IN_RESPONSE]);
        assert!(exchange.copy_in);
        run(&mut exchange, &[T::COMMAND_COMPLETE]);
        assert!(exchange.is_done() && !exchange.copy_in);
    }

    #[test]
    fn what_makes_no_sense_is_noticed() {
        let mut exchange = Exchange::default();
        assert_eq!(run(&mut exchange, &[T::DATA_ROW]).0, [Verdict::Unexpected]);
        exchange.push(Expect::Bind(Name::new()));
        assert_eq!(run(&mut exchange, &[T::READY_FOR_QUERY]).0, [Verdict::Unexpected]);
    }

    #[test]
    fn an_error_of_ours_replaces_the_servers() {
        let mut exchange = Exchange::default();
        let error = ErrorResponse::error(crate::protocol::SqlState::DUPLICATE_PREPARED_STATEMENT, "exists");
        exchange.push(Expect::Fail(Box::new(error.into())));
        exchange.push(Expect::Sync);
        assert_eq!(run(&mut exchange, &[T::ERROR_RESPONSE]).0, [Verdict::Drop]);
        assert_eq!(exchange.injected[0], b'E');
    }

    #[test]
    fn whether_a_sync_among_copy_data_was_answered_is_found_out() {
        for (answered, tags) in [
            (false, &[T::READY_FOR_QUERY, T::EMPTY_QUERY_RESPONSE, T::READY_FOR_QUERY][..]),
            (true, &[T::READY_FOR_QUERY, T::READY_FOR_QUERY, T::EMPTY_QUERY_RESPONSE, T::READY_FOR_QUERY]),
        ] {
            let mut exchange = Exchange::default();
            exchange.push(Expect::Execute);
            run(&mut exchange, &[T::COPY_IN_RESPONSE]);
            exchange.copy_syncs = 1;
            run(&mut exchange, &[T::ERROR_RESPONSE]);
            assert!(exchange.wants_probe && !exchange.is_done());
            let (verdicts, _) = run(&mut exchange, tags);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Drop));
            assert!(exchange.is_done());
            assert_eq!((exchange.answered_sync, exchange.skipping), (answered, !answered));
        }
    }
}
