//! Who is the primary: one pure function over what the probes saw.
//!
//! What counts is what nodes say of themselves, not what the configuration says of them. A node out of
//! recovery is a candidate; of several, the one on the latest timeline, since each promotion begins a new one.
//! Invariant: a node that is not known to continue what was written to the primary before it is none.

/// Of which database system a node is, and on which branch of its history. Zero is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// `system_identifier`: the same for all copies that come from one initdb.
    pub system: u64,
    /// Grows with each promotion. Of a standby it is the least that it can be on.
    pub timeline: u32,
}

impl Lineage {
    /// Not known to be of another system.
    pub fn may_be_kin(self, other: Self) -> bool {
        self.system == 0 || other.system == 0 || self.system == other.system
    }
}

/// What is seen of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Nothing yet.
    Unseen,
    /// It does not answer.
    Down,
    /// It answers, but does not let the probe in.
    Mute,
    /// It is out of recovery.
    Primary(Lineage),
    /// It is in recovery.
    Standby(Lineage),
}

/// What the sights come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not all nodes were seen yet.
    Undecided,
    /// This one.
    Primary(usize),
    /// None.
    None,
    /// Several, and nothing tells which one is right.
    Ambiguous,
}

/// What a node is good for, by the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is known of it.
    Unknown,
    /// It does not answer.
    Down,
    /// Takes writes.
    Primary,
    /// Follows the primary.
    Replica,
    /// In recovery, but not seen on the primary's timeline: it may have what the primary has not.
    Unproven,
    /// Out of recovery, but not the primary: what it has may be old, what it is given would be lost.
    Fenced,
    /// Of another database system.
    Foreign,
}

impl Standing {
    /// The name shown in the console and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Down => "down",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unproven => "unproven",
            Self::Fenced => "fenced",
            Self::Foreign => "foreign",
        }
    }
}

/// What is remembered of the last primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Which node it was; `None` before the first.
    pub index: Option<usize>,
    /// Where it was.
    pub lineage: Lineage,
    /// Whether there was another one before it.
    pub switched: bool,
    /// An operator said that it is the right one: of several on its timeline, it is.
    pub trusted: bool,
}

/// Decides by what is seen of each node, the configured primary first.
pub fn decide(sights: &[Sight], remembered: Remembered) -> Verdict {
    let known = remembered.lineage;
    // The first decision waits until all were looked at: a later timeline may yet turn up.
    let complete = remembered.index.is_some() || !sights.contains(&Sight::Unseen);
    let candidates: Vec<(usize, Lineage)> = sights
        .iter()
        .enumerate()
        .filter_map(|(index, sight)| match sight {
            Sight::Primary(lineage) => Some((index, *lineage)),
            _ => None,
        })
        .collect();
    let is_believed = match sights.first() {
        // A primary that does not let the probe in can only be believed.
        Some(Sight::Mute) => remembered.index.unwrap_or(0) == 0,
        // A standby on its own that never was a primary is meant to be read; it refuses writes itself.
        Some(Sight::Standby(_)) => sights.len() == 1 && known == Lineage::default(),
        _ => false,
    };
    if candidates.is_empty() {
        return match (complete, is_believed) {
            (false, _) => Verdict::Undecided,
            (true, true) => Verdict::Primary(0),
            (true, false) => Verdict::None,
        };
    }
    if is_believed && known == Lineage::default() {
        return Verdict::Ambiguous;
    }
    let kin: Vec<_> = candidates.iter().copied().filter(|(_, lineage)| lineage.may_be_kin(known)).collect();
    let Some(&(mut chosen, mut best)) = kin.first() else {
        // The server at the primary's address was replaced by another (an upgrade, a restore).
        return match *candidates {
            [(index, _)] if remembered.index == Some(index) => Verdict::Primary(index),
            _ => Verdict::None,
        };
    };
    let mut equals = 1;
    for &(index, lineage) in kin.iter().skip(1) {
        if !lineage.may_be_kin(best) {
            return Verdict::Ambiguous;
        }
        match lineage.timeline.cmp(&best.timeline) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => equals += 1,
            std::cmp::Ordering::Greater => {
                (chosen, best, equals) = (index, lineage, 1);
            }
        }
    }
    if !complete {
        return Verdict::Undecided;
    }
    let is_settled = remembered.trusted
        && best.timeline == known.timeline
        && kin.iter().any(|(index, _)| remembered.index == Some(*index));
    if is_settled && let Some(index) = remembered.index {
        return Verdict::Primary(index);
    }
    if remembered.index == Some(chosen) && equals == 1 {
        // Its own timeline cannot go back, unless it was restored from a backup under the same address.
        return if best.timeline < known.timeline { Verdict::None } else { Verdict::Primary(chosen) };
    }
    // On the timeline of the last primary, but another node: it was not promoted from what that one wrote.
    let is_later = remembered.index.is_none() || best.timeline > known.timeline;
    if best.timeline < known.timeline || (equals == 1 && !is_later) {
        return Verdict::None;
    }
    if equals > 1 {
        return Verdict::Ambiguous;
    }
    let is_outdated = sights
        .iter()
        .any(|sight| matches!(sight, Sight::Standby(l) if l.may_be_kin(best) && l.timeline > best.timeline));
    if is_outdated { Verdict::None } else { Verdict::Primary(chosen) }
}

/// What each node is good for. `remembered` is as of after the verdict.
pub fn standings(sights: &[Sight], verdict: Verdict, remembered: Remembered) -> Vec<Standing> {
    let mut of = remembered.lineage;
    if of == Lineage::default() {
        // Nobody has seen a primary: those that are furthest are followed.
        for sight in sights {
            if let Sight::Standby(lineage) = sight
                && lineage.timeline > of.timeline
            {
                of = *lineage;
            }
        }
    }
    let standing = |(index, sight): (usize, &Sight)| match sight {
        _ if verdict == Verdict::Primary(index) => Standing::Primary,
        Sight::Unseen | Sight::Mute => Standing::Unknown,
        Sight::Down => Standing::Down,
        Sight::Primary(lineage) | Sight::Standby(lineage) if !lineage.may_be_kin(of) => Standing::Foreign,
        Sight::Primary(_) => Standing::Fenced,
        Sight::Standby(lineage) if lineage.timeline == of.timeline => Standing::Replica,
        // A server that does not tell is taken at its word until there is something to be wrong about.
        Sight::Standby(Lineage { timeline: 0, .. }) if !remembered.switched => Standing::Replica,
        Sight::Standby(_) => Standing::Unproven,
    };
    sights.iter().enumerate().map(standing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn on(timeline: u32) -> Lineage {
        Lineage { system: 7, timeline }
    }

    const OTHER: Lineage = Lineage { system: 8, timeline: 9 };
    const UNSEEN: Sight = Sight::Unseen;
    const DOWN: Sight = Sight::Down;
    const MUTE: Sight = Sight::Mute;

    fn p(timeline: u32) -> Sight {
        Sight::Primary(on(timeline))
    }

    fn s(timeline: u32) -> Sight {
        Sight::Standby(on(timeline))
    }

    fn was(index: usize, timeline: u32) -> Remembered {
        Remembered { index: Some(index), lineage: on(timeline), switched: false, trusted: false }
    }

    #[test]
    fn the_table() {
        use Verdict::{Ambiguous, Primary, Undecided};
        const NEW: Remembered = Remembered {
            index: None,
            lineage: Lineage { system: 0, timeline: 0 },
            switched: false,
            trusted: false,
        };
        let trusted = |index, timeline| Remembered { trusted: true, ..was(index, timeline) };
        let none = Verdict::None;
        let foreign = Sight::Primary(OTHER);
        let cases: &[(&str, &[Sight], Remembered, Verdict)] = &[
            // At the start.
            ("nothing seen", &[UNSEEN, UNSEEN], NEW, Undecided),
            ("not all seen", &[p(1), UNSEEN], NEW, Undecided),
            ("as configured", &[p(1), s(1), s(1)], NEW, Primary(0)),
            ("alone", &[p(1)], NEW, Primary(0)),
            ("a standby alone", &[s(1)], NEW, Primary(0)),
            ("a primary that has become a standby", &[s(1)], was(0, 1), none),
            ("a replica is down", &[p(1), DOWN], NEW, Primary(0)),
            ("all down", &[DOWN, DOWN], NEW, none),
            ("nobody out of recovery", &[s(1), s(1)], NEW, none),
            ("switched over long ago", &[s(3), p(3), s(3)], NEW, Primary(1)),
            ("failed over long ago", &[DOWN, p(2), s(2)], NEW, Primary(1)),
            ("the configured one is the old one", &[p(1), p(2)], NEW, Primary(1)),
            ("two on one timeline", &[p(2), p(2), s(2)], NEW, Ambiguous),
            ("two below a third", &[p(1), p(1), p(2)], NEW, Primary(2)),
            ("two systems", &[p(1), foreign], NEW, Ambiguous),
            ("a replica knows of a later one", &[p(1), s(2)], NEW, none),
            ("it does not let us in", &[MUTE, s(1)], NEW, Primary(0)),
            ("it does not let us in, and another is one", &[MUTE, p(2)], NEW, Ambiguous),
            ("it does not let us in, others unseen", &[MUTE, UNSEEN], NEW, Undecided),
            ("a replica does not let us in", &[p(1), MUTE], NEW, Primary(0)),
            // Afterwards.
            ("nothing has changed", &[p(1), s(1)], was(0, 1), Primary(0)),
            ("it is down", &[DOWN, s(1)], was(0, 1), none),
            ("a replica was promoted", &[DOWN, p(2)], was(0, 1), Primary(1)),
            ("and the old one still runs", &[p(1), p(2)], was(0, 1), Primary(1)),
            ("and the old one follows", &[s(2), p(2)], was(1, 2), Primary(1)),
            ("the old one is back, the new one down", &[p(1), DOWN], was(1, 2), none),
            ("the old one is back as it was", &[p(1), p(2)], was(1, 2), Primary(1)),
            ("back to the first", &[p(3), s(2)], was(1, 2), Primary(0)),
            ("two were promoted", &[DOWN, p(2), p(2)], was(0, 1), Ambiguous),
            ("another was promoted to the same timeline", &[DOWN, p(2), p(2)], was(1, 2), Ambiguous),
            ("one of them is gone again", &[DOWN, p(2), DOWN], was(1, 2), Primary(1)),
            ("started without standby.signal", &[DOWN, p(1)], was(0, 1), none),
            ("both on the timeline of the first", &[p(1), p(1)], was(0, 1), Ambiguous),
            ("a strange system appears", &[p(1), foreign], was(0, 1), Primary(0)),
            ("a strange system alone", &[DOWN, foreign], was(0, 1), none),
            ("the primary's server was replaced", &[foreign, DOWN], was(0, 1), Primary(0)),
            ("a replica follows somebody else", &[p(1), s(2)], was(0, 1), Primary(0)),
            ("a new node is looked at", &[p(1), UNSEEN], was(0, 1), Primary(0)),
            ("the primary was restored from an old backup", &[p(1), DOWN], was(0, 2), none),
            ("one of two is trusted", &[DOWN, p(2), p(2)], trusted(2, 2), Primary(2)),
            ("the old one is trusted", &[p(1), DOWN, s(2)], trusted(0, 1), Primary(0)),
            ("trusted, but another is later", &[p(1), p(2)], trusted(0, 1), Primary(1)),
            ("the trusted one is down", &[DOWN, p(2), DOWN], trusted(2, 2), none),
            ("not let in any more", &[MUTE, s(1)], was(0, 1), Primary(0)),
            ("not let in any more, and succeeded", &[MUTE, p(2)], was(0, 1), Primary(1)),
            ("not let in, but it was not the last", &[MUTE, s(2)], was(1, 2), none),
        ];
        for (name, sights, remembered, verdict) in cases {
            assert_eq!(decide(sights, *remembered), *verdict, "{name}");
        }
    }

    #[test]
    fn what_nodes_are_good_for() {
        use Standing::{Down, Fenced, Foreign, Primary, Replica, Unknown, Unproven};
        let switched = Remembered { switched: true, ..was(1, 2) };
        let none = Verdict::None;
        let unread = Sight::Standby(Lineage { system: 7, timeline: 0 });
        let cases: &[(&[Sight], Verdict, Remembered, &[Standing])] = &[
            (&[p(1), s(1), DOWN], Verdict::Primary(0), was(0, 1), &[Primary, Replica, Down]),
            (&[p(1), p(2), s(1), s(2)], Verdict::Primary(1), switched, &[Fenced, Primary, Unproven, Replica]),
            (&[DOWN, s(1)], none, was(0, 1), &[Down, Replica]),
            (&[p(1), DOWN, s(2)], none, switched, &[Fenced, Down, Replica]),
            (&[p(2), p(2), s(2)], Verdict::Ambiguous, was(0, 1), &[Fenced, Fenced, Unproven]),
            (&[p(1), Sight::Standby(OTHER)], Verdict::Primary(0), was(0, 1), &[Primary, Foreign]),
            (&[p(1), Sight::Primary(OTHER)], Verdict::Primary(0), was(0, 1), &[Primary, Foreign]),
            (&[DOWN, s(1), s(2)], none, Remembered::default(), &[Down, Unproven, Replica]),
            (&[p(1), unread], Verdict::Primary(0), was(0, 1), &[Primary, Replica]),
            (&[DOWN, p(2), unread], Verdict::Primary(1), switched, &[Down, Primary, Unproven]),
            (&[MUTE, MUTE, UNSEEN], Verdict::Primary(0), Remembered::default(), &[Primary, Unknown, Unknown]),
            (&[p(1), s(2)], Verdict::Primary(0), was(0, 1), &[Primary, Unproven]),
        ];
        for (index, (sights, verdict, remembered, expected)) in cases.iter().enumerate() {
            assert_eq!(standings(sights, *verdict, *remembered), *expected, "case {index}");
        }
    }
}
