//! What a statement leaves behind in the session, as a set of flags.

use std::fmt;

/// A set of marks that outlive the statement (or, for the local ones, would without a transaction's end).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SessionEffects(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $label:literal;)*) => {
        impl SessionEffects {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*
            const LABELS: &'static [(Self, &'static str)] = &[$((Self::$name, $label)),*];
        }
    };
}

flags! {
    /// A setting may have changed beyond the statement: SET, RESET, `set_config(…, false)`, SET ROLE.
    SETTING = 0, "setting";
    /// A setting changed until the transaction's end.
    SETTING_LOCAL = 1, "setting-local";
    /// PREPARE.
    SQL_PREPARE = 2, "prepare";
    /// EXECUTE.
    SQL_EXECUTE = 3, "execute";
    /// DEALLOCATE.
    DEALLOCATE = 4, "deallocate";
    /// LISTEN.
    LISTEN = 5, "listen";
    /// UNLISTEN.
    UNLISTEN = 6, "unlisten";
    /// NOTIFY or `pg_notify`.
    NOTIFY = 7, "notify";
    /// A temporary object was created or named.
    TEMP_OBJECT = 8, "temporary-object";
    /// DECLARE … WITH HOLD.
    HOLD_CURSOR = 9, "hold-cursor";
    /// DECLARE, FETCH, MOVE, CLOSE.
    CURSOR = 10, "cursor";
    /// A session-level advisory lock was asked for.
    ADVISORY_LOCK = 11, "advisory-lock";
    /// A session-level advisory lock was given back.
    ADVISORY_UNLOCK = 12, "advisory-unlock";
    /// LOAD.
    LOAD = 13, "load";
    /// DISCARD ALL.
    DISCARD_ALL = 14, "discard-all";
    /// DISCARD of something else.
    DISCARD_OTHER = 15, "discard";
    /// `currval` or `lastval`: the answer belongs to the server connection that called `nextval`.
    SEQUENCE_VALUE = 16, "sequence-value";
    /// DROP of a table, view or sequence, which may be a temporary one.
    DROP_MAYBE_TEMP = 17, "drop";
    /// CALL or DO: may have done any of these.
    UNKNOWN_PROCEDURE = 18, "procedure";
    /// A function that is not built in: it, too, may have done any of these.
    UNKNOWN_FUNCTION = 19, "unknown-function";
    /// `pg_listening_channels`: changes nothing, but shows what the session listens to.
    SHOWS_LISTENING = 20, "shows-listening";
}

impl SessionEffects {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// True if all of `other` are in.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if any of `other` is in.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes `other` out.
    pub fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if nothing is in.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The label of each flag that is in.
    pub fn labels(self) -> impl Iterator<Item = &'static str> {
        Self::LABELS.iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, label)| *label)
    }
}

impl fmt::Debug for SessionEffects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.labels()).finish()
    }
}
