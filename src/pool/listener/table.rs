//! Who listens to what: the channels of one listener connection and the mailboxes that get them. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::clients::Mailbox;

/// A channel's name, in the encoding of the connection.
pub type Channel = Box<[u8]>;

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    members: HashMap<Channel, Vec<Arc<Mailbox>>>,
    /// What the connection listens to, as far as the server has confirmed it.
    listening: BTreeSet<Channel>,
}

impl Table {
    /// From now on `mailbox` gets what comes on `channel`.
    pub(super) fn add(&mut self, channel: &Channel, mailbox: &Arc<Mailbox>) {
        let members = self.members.entry(channel.clone()).or_default();
        if !members.iter().any(|member| Arc::ptr_eq(member, mailbox)) {
            members.push(Arc::clone(mailbox));
        }
    }

    /// It no longer does.
    pub(super) fn remove(&mut self, channel: &[u8], mailbox: &Arc<Mailbox>) {
        if let Some(members) = self.members.get_mut(channel) {
            members.retain(|member| !Arc::ptr_eq(member, mailbox));
            if members.is_empty() {
                self.members.remove(channel);
            }
        }
    }

    /// It gets nothing more at all.
    pub(super) fn remove_all(&mut self, mailbox: &Arc<Mailbox>) {
        self.members.retain(|_, members| {
            members.retain(|member| !Arc::ptr_eq(member, mailbox));
            !members.is_empty()
        });
    }

    /// Who gets what comes on `channel`.
    pub(super) fn members(&self, channel: &[u8]) -> &[Arc<Mailbox>] {
        self.members.get(channel).map_or(&[], Vec::as_slice)
    }

    /// Every mailbox, as often as it has channels.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.members.values().flatten()
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Pairs of client and channel.
    pub(super) fn subscriptions(&self) -> usize {
        self.members.values().map(Vec::len).sum()
    }

    /// What the connection must listen to and must not any more, when these are wanted, too.
    pub(super) fn change(&self, also: &BTreeSet<&Channel>) -> Change {
        let wanted = |channel: &Channel| self.members.contains_key(channel) || also.contains(channel);
        let listen = self.members.keys().chain(also.iter().copied());
        let listen: BTreeSet<_> =
            listen.filter(|channel| !self.listening.contains(*channel)).cloned().collect();
        let unlisten = self.listening.iter().filter(|channel| !wanted(channel)).cloned().collect();
        Change { listen, unlisten }
    }

    /// The server has done it.
    pub(super) fn changed(&mut self, change: Change) {
        self.listening.retain(|channel| !change.unlisten.contains(channel));
        self.listening.extend(change.listen);
    }
}

/// The difference between what is listened to and what should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    listen: BTreeSet<Channel>,
    unlisten: BTreeSet<Channel>,
}

impl Change {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.listen.is_empty() && self.unlisten.is_empty()
    }

    /// The commands, of one transaction.
    pub(super) fn sql(&self) -> Vec<u8> {
        let mut sql = Vec::new();
        for channel in &self.listen {
            listen(&mut sql, channel);
        }
        for channel in &self.unlisten {
            command(&mut sql, b"UNLISTEN ", channel);
        }
        sql
    }
}

/// Appends LISTEN for a channel, whatever is in its name.
pub fn listen(sql: &mut Vec<u8>, channel: &[u8]) {
    command(sql, b"LISTEN ", channel);
}

/// A quote is no part of another character in any encoding that PostgreSQL takes from clients.
fn command(sql: &mut Vec<u8>, verb: &[u8], channel: &[u8]) {
    sql.extend_from_slice(verb);
    sql.push(b'"');
    for byte in channel {
        if *byte == b'"' {
            sql.push(b'"');
        }
        sql.push(*byte);
    }
    sql.extend_from_slice(b"\";");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::{CancelKey, ClientHandle, ClientId, ClientInfo};
    use std::time::{Instant, SystemTime};

    fn mailbox(id: u32) -> Arc<Mailbox> {
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
        let key = CancelKey { id: ClientId(id), secret: vec![] };
        Arc::new(Mailbox::new(Arc::new(ClientHandle::new(key, info, Instant::now())), 1000))
    }

    fn channel(name: &str) -> Channel {
        name.as_bytes().into()
    }

    fn sql(table: &Table, also: &[Channel]) -> String {
        String::from_utf8(table.change(&also.iter().collect()).sql()).unwrap()
    }

    #[test]
    fn names_are_quoted_whatever_they_hold() {
        let mut out = Vec::new();
        listen(&mut out, b"a\"; DROP TABLE t; --\\'\xe9");
        assert_eq!(out, b"LISTEN \"a\"\"; DROP TABLE t; --\\'\xe9\";");
    }

    #[test]
    fn the_connection_follows_its_members() {
        let (mut table, a, b) = (Table::default(), mailbox(1), mailbox(2));
        assert_eq!(sql(&table, &[channel("x")]), "LISTEN \"x\";");
        let change = table.change(&[&channel("x")].into_iter().collect());
        table.changed(change);
        table.add(&channel("x"), &a);
        table.add(&channel("x"), &a);
        table.add(&channel("x"), &b);
        assert_eq!((table.subscriptions(), sql(&table, &[]).as_str()), (2, ""));
        assert!(table.change(&[&channel("x")].into_iter().collect()).is_empty(), "listened to already");
        table.remove(b"x", &a);
        assert_eq!(table.members(b"x").len(), 1);
        assert!(table.members(b"X").is_empty());
        table.remove(b"x", &b);
        assert!(table.is_empty());
        table.add(&channel("z"), &a);
        table.remove_all(&a);
        assert!(table.is_empty());
        assert_eq!(sql(&table, &[channel("y")]), "LISTEN \"y\";UNLISTEN \"x\";");
        assert_eq!(sql(&table, &[channel("x")]), "", "wanted again before it was given up");
        let change = table.change(&BTreeSet::new());
        table.changed(change);
        assert!(table.change(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn what_the_server_refused_is_asked_for_again() {
        let (mut table, a) = (Table::default(), mailbox(1));
        table.add(&channel("x"), &a);
        let _ = table.change(&BTreeSet::new());
        assert_eq!(sql(&table, &[]), "LISTEN \"x\";");
    }
}
