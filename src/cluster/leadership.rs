//! Which of the nodes of a cluster takes writes now, for whoever routes: one atomic load.
//!
//! The verdict is [`roles::decide`]'s. It is published as one word of status, node and epoch. The epoch grows
//! each time that another node, or another timeline, takes the writes: positions and tickets of an older epoch
//! mean nothing any more. Shared by all databases with the same nodes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;

use super::node::{Node, NodeAddress, NodeState};
use super::roles::{self, Lineage, Remembered, Sight, Standing, Verdict};

/// Whether there is a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadStatus {
    /// Not all nodes were looked at yet.
    Undecided,
    /// There is one.
    Primary,
    /// None is known.
    None,
    /// Several claim to be it, and cannot be ordered.
    Ambiguous,
}

/// Who takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Whether there is a primary.
    pub status: LeadStatus,
    /// Which node it is, or was last: 0 is the configured primary, then the replicas in their order.
    pub index: usize,
    /// Grows with each change of node or timeline.
    pub epoch: u32,
}

impl Lead {
    /// Whether there is a primary.
    pub fn has_primary(self) -> bool {
        self.status == LeadStatus::Primary
    }

    fn pack(self) -> u64 {
        let status = match self.status {
            LeadStatus::Undecided => 0,
            LeadStatus::Primary => 1,
            LeadStatus::None => 2,
            LeadStatus::Ambiguous => 3,
        };
        (u64::from(self.epoch) << 32) | ((self.index as u64 & 0xff_ffff) << 8) | status
    }

    fn unpack(word: u64) -> Self {
        let status = match word & 0xff {
            1 => LeadStatus::Primary,
            2 => LeadStatus::None,
            3 => LeadStatus::Ambiguous,
            _ => LeadStatus::Undecided,
        };
        let index = usize::try_from((word >> 8) & 0xff_ffff).unwrap_or(0);
        Self { status, index, epoch: u32::try_from(word >> 32).unwrap_or(0) }
    }
}

/// Another node takes the writes, or the same one on another timeline.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who took them before.
    pub from: Option<Arc<Node>>,
    /// Who takes them now.
    pub to: Arc<Node>,
    /// Where that node is.
    pub lineage: Lineage,
    /// Where the one before was.
    pub before: Lineage,
}

#[derive(Debug)]
struct Member {
    node: Arc<Node>,
    standing: AtomicU8,
}

/// The nodes of a cluster and who leads them.
#[derive(Debug)]
pub struct Leadership {
    /// The first primary that was configured: what stays the same when the configuration follows a failover.
    origin: NodeAddress,
    members: Vec<Member>,
    word: AtomicU64,
    /// The status that the log knows of.
    told: AtomicU8,
    /// Grows with each change of anything here.
    version: AtomicU64,
    changes: AtomicU64,
    remembered: Mutex<Remembered>,
    /// An operator says that this one is the primary; the next look obeys.
    trusted: Mutex<Option<usize>>,
    /// Clients that wait for a change, by their numbers.
    waiting: Mutex<HashMap<u32, Waker>>,
}

/// How [`Standing::Replica`] is kept.
const FOLLOWS: u8 = 3;

impl Leadership {
    /// Of these nodes, the configured primary first. `before` is that of a configuration before with some of
    /// the same nodes.
    pub fn new(nodes: Vec<Arc<Node>>, before: Option<&Self>) -> Self {
        let undecided = Lead { status: LeadStatus::Undecided, index: 0, epoch: 0 };
        let primary = nodes.first().map(|node| node.address.clone());
        let origin = before.map(|before| before.origin.clone()).or(primary);
        let new = Self {
            origin: origin.unwrap_or(NodeAddress { host: String::new(), port: 0 }),
            members: nodes.into_iter().map(|node| Member { node, standing: AtomicU8::new(0) }).collect(),
            word: AtomicU64::new(undecided.pack()),
            told: AtomicU8::new(0),
            version: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            remembered: Mutex::default(),
            trusted: Mutex::default(),
            waiting: Mutex::default(),
        };
        if let Some(before) = before {
            let remembered = *before.remembered.lock();
            let primary = remembered.index.and_then(|index| before.members.get(index));
            let index = primary.and_then(|primary| new.position(&primary.node));
            // Where that primary is no longer listed, its successor still has to continue what it had.
            *new.remembered.lock() = Remembered { index, ..remembered };
            let lead = Lead { index: index.unwrap_or(0), epoch: before.lead().epoch + 1, ..undecided };
            new.word.store(lead.pack(), Ordering::Release);
            new.changes.store(before.changes(), Ordering::Relaxed);
        }
        new.reconsider(|_| {});
        new
    }

    /// Who takes writes.
    #[inline]
    pub fn lead(&self) -> Lead {
        Lead::unpack(self.word.load(Ordering::Acquire))
    }

    /// The primary that was configured first, before reloads with some of the same nodes.
    pub fn origin(&self) -> &NodeAddress {
        &self.origin
    }

    /// The nodes, the configured primary first.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.members.iter().map(|member| &member.node)
    }

    /// The node with this index.
    pub fn node(&self, index: usize) -> Option<&Arc<Node>> {
        self.members.get(index).map(|member| &member.node)
    }

    /// The index of a node.
    pub fn position(&self, node: &Arc<Node>) -> Option<usize> {
        self.members.iter().position(|member| Arc::ptr_eq(&member.node, node))
    }

    /// The primary, if there is one.
    pub fn primary(&self) -> Option<&Arc<Node>> {
        let lead = self.lead();
        if lead.has_primary() { self.node(lead.index) } else { None }
    }

    /// What the node with this index is good for.
    pub fn standing(&self, index: usize) -> Standing {
        match self.members.get(index).map_or(0, |member| member.standing.load(Ordering::Acquire)) {
            1 => Standing::Down,
            2 => Standing::Primary,
            FOLLOWS => Standing::Replica,
            4 => Standing::Unproven,
            5 => Standing::Fenced,
            6 => Standing::Foreign,
            _ => Standing::Unknown,
        }
    }

    /// Whether the node with this index may serve reads.
    #[inline]
    pub fn follows(&self, index: usize) -> bool {
        self.members.get(index).is_some_and(|member| member.standing.load(Ordering::Acquire) == FOLLOWS)
    }

    /// How often another node or timeline has taken the writes.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Looks at what is known of the nodes. `prepare` is called with the new primary before anybody is sent
    /// there; the change is returned for what is to be done afterwards.
    pub fn reconsider(&self, prepare: impl FnOnce(&Change)) -> Option<Change> {
        let mut remembered = self.remembered.lock();
        let sights: Vec<Sight> = self.members.iter().map(|member| member.node.sight()).collect();
        let trusted = self.trusted.lock().take();
        let verdict = match trusted.and_then(|index| sights.get(index).map(|sight| (index, sight))) {
            Some((index, Sight::Primary(_))) => Verdict::Primary(index),
            _ => roles::decide(&sights, *remembered),
        };
        let before = self.lead();
        let mut lead = before;
        let mut change = None;
        match verdict {
            Verdict::Undecided => lead.status = LeadStatus::Undecided,
            Verdict::None => lead.status = LeadStatus::None,
            Verdict::Ambiguous => lead.status = LeadStatus::Ambiguous,
            Verdict::Primary(index) => {
                let lineage = match sights.get(index) {
                    Some(Sight::Primary(lineage)) => *lineage,
                    // Believed: as it was.
                    _ if remembered.index == Some(index) => remembered.lineage,
                    _ => Lineage::default(),
                };
                lead = Lead { status: LeadStatus::Primary, index, epoch: before.epoch };
                if (remembered.index, remembered.lineage) != (Some(index), lineage) {
                    change = self.switch(&mut remembered, index, lineage, &mut lead);
                }
            }
        }
        // Only if it was obeyed.
        if trusted.is_some() && trusted == remembered.index && verdict == Verdict::Primary(lead.index) {
            remembered.trusted = true;
        }
        let mut changed = lead != before;
        for (member, standing) in self.members.iter().zip(roles::standings(&sights, verdict, *remembered)) {
            changed |= member.standing.swap(standing as u8, Ordering::AcqRel) != standing as u8;
        }
        if let Some(change) = &change {
            prepare(change);
        }
        self.word.store(lead.pack(), Ordering::Release);
        drop(remembered);
        if changed {
            self.tell();
        }
        if lead.status != before.status && !lead.has_primary() {
            self.hurry();
        }
        change
    }

    fn switch(
        &self,
        remembered: &mut Remembered,
        index: usize,
        lineage: Lineage,
        lead: &mut Lead,
    ) -> Option<Change> {
        let to = Arc::clone(self.node(index)?);
        let last = remembered.index.or((lead.epoch > 0).then_some(self.lead().index));
        let from = last.and_then(|index| self.node(index)).cloned();
        let was = remembered.lineage;
        *remembered = Remembered { index: Some(index), lineage, switched: from.is_some(), trusted: false };
        lead.epoch += 1;
        // Positions of another history.
        to.horizon.restart();
        to.history.lock().clear();
        self.nodes().for_each(|node| node.forget_wanted());
        if from.is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        Some(Change { from, to, lineage, before: was })
    }

    /// A connection to the primary was refused: nobody is sent there until a probe has succeeded.
    pub fn note_down(&self) {
        let remembered = self.remembered.lock();
        let lead = self.lead();
        let is_down = self.node(lead.index).is_some_and(|node| node.state() == NodeState::Down);
        if !lead.has_primary() || !is_down {
            return;
        }
        self.word.store(Lead { status: LeadStatus::None, ..lead }.pack(), Ordering::Release);
        if let Some(member) = self.members.get(lead.index) {
            member.standing.store(Standing::Down as u8, Ordering::Release);
        }
        drop(remembered);
        self.tell();
        self.hurry();
    }

    /// An operator says that this node is the primary, whatever its timeline: the next look obeys if it is out of
    /// recovery. Another one on a later timeline takes its place again.
    pub fn trust(&self, index: usize) {
        *self.trusted.lock() = Some(index);
        self.hurry();
    }

    /// Who leads, and whether that there is a primary, or none, is news since the last call.
    pub fn tell_news(&self) -> (Lead, bool) {
        let lead = self.lead();
        let status = (lead.pack() & 0xff) as u8;
        (lead, self.told.swap(status, Ordering::AcqRel) != status)
    }

    /// Whether the nodes are to be looked at often: clients may wait.
    pub fn is_urgent(&self) -> bool {
        !self.lead().has_primary()
    }

    fn hurry(&self) {
        self.nodes().for_each(|node| node.wake_probe());
    }

    /// A number that changes with everything here.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether something has changed since `seen` was the version; if not, the client is woken when it does.
    pub fn poll_changed(&self, client: u32, seen: u64, cx: &Context<'_>) -> bool {
        let mut waiting = self.waiting.lock();
        if self.version() != seen {
            return true;
        }
        waiting.insert(client, cx.waker().clone());
        false
    }

    /// The client no longer waits.
    pub fn stop_waiting(&self, client: u32) {
        self.waiting.lock().remove(&client);
    }

    /// How many clients wait.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    fn tell(&self) {
        let woken = {
            let mut waiting = self.waiting.lock();
            self.version.fetch_add(1, Ordering::AcqRel);
            std::mem::take(&mut *waiting)
        };
        woken.into_values().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Arc<Node> {
        Arc::new(Node::new(NodeAddress { host: "db".to_owned(), port }))
    }

    fn see(node: &Node, in_recovery: bool, timeline: u32) {
        node.set_observed(in_recovery, Lineage { system: 7, timeline });
        node.set_state(NodeState::Up);
    }

    #[test]
    fn a_failover_and_the_way_back() {
        let (a, b) = (node(1), node(2));
        let lead = Leadership::new(vec![Arc::clone(&a), Arc::clone(&b)], None);
        assert!(lead.lead().status == LeadStatus::Undecided && lead.primary().is_none());
        see(&a, false, 1);
        assert!(lead.reconsider(|_| {}).is_none(), "not before all were seen");
        see(&b, true, 1);
        let change = lead.reconsider(|_| {}).unwrap();
        assert!(change.from.is_none() && Arc::ptr_eq(&change.to, &a));
        let epoch = lead.lead().epoch;
        assert_eq!((lead.standing(0), lead.standing(1)), (Standing::Primary, Standing::Replica));
        assert!(lead.reconsider(|_| {}).is_none(), "nothing has changed");

        // Down and up again: the same primary, no new epoch.
        let version = lead.version();
        a.set_state(NodeState::Down);
        lead.note_down();
        assert!(lead.version() > version && lead.is_urgent());
        assert_eq!((lead.lead().status, lead.standing(1)), (LeadStatus::None, Standing::Replica));
        see(&a, false, 1);
        assert!(lead.reconsider(|_| {}).is_none());
        assert_eq!((lead.lead().epoch, lead.lead().has_primary()), (epoch, true));

        a.set_state(NodeState::Down);
        see(&b, false, 2);
        let published = lead.lead();
        let change = lead.reconsider(|_| assert_eq!(lead.lead(), published, "prepared first")).unwrap();
        assert!(Arc::ptr_eq(&change.to, &b) && change.from.is_some_and(|from| Arc::ptr_eq(&from, &a)));
        assert_eq!((lead.lead().index, lead.lead().epoch, lead.changes()), (1, epoch + 1, 1));

        see(&a, false, 1);
        lead.reconsider(|_| {});
        assert_eq!((lead.standing(0), lead.lead().index), (Standing::Fenced, 1));
        b.set_state(NodeState::Down);
        lead.reconsider(|_| {});
        assert_eq!(lead.lead().status, LeadStatus::None, "the old one is no stopgap");

        // A reload that lists the nodes the other way round remembers; an operator may know better.
        let reloaded = Leadership::new(vec![Arc::clone(&b), Arc::clone(&a)], Some(&lead));
        assert_eq!((reloaded.lead().status, reloaded.standing(1)), (LeadStatus::None, Standing::Fenced));
        assert!(reloaded.lead().epoch > lead.lead().epoch);
        reloaded.trust(1);
        assert!(reloaded.reconsider(|_| {}).is_some());
        assert_eq!((reloaded.lead().has_primary(), reloaded.lead().index), (true, 1));
        assert!(reloaded.reconsider(|_| {}).is_none(), "it stays so");
        assert_eq!((reloaded.lead().has_primary(), reloaded.lead().index), (true, 1));
    }
}
