//! Which of the eligible replicas takes the next read: the one with the fewest statements in flight for its weight;
//! of equals the one that answers soonest, where that makes a difference; the rest take turns by a number the caller
//! passes in.

/// What speaks for a node, and against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Statements in flight.
    pub in_flight: u32,
    /// Its share.
    pub weight: u32,
    /// Microseconds to an answer; zero if nobody knows.
    pub latency: u32,
}

/// A difference that is smaller than this, or than the time itself, is none.
const LATENCY_SLACK_MICROS: u32 = 3000;

/// Picks among `candidates`, who are looked at up to three times; `turn` spreads equals. `None` when there are none.
pub fn pick<K>(candidates: impl Iterator<Item = (K, Load)> + Clone, turn: u32) -> Option<K> {
    // Load after taking one more, per weight, compared by cross-multiplication: no division, no floats.
    let is_less = |a: Load, b: Load| {
        (u64::from(a.in_flight) + 1) * u64::from(b.weight.max(1))
            < (u64::from(b.in_flight) + 1) * u64::from(a.weight.max(1))
    };
    let mut rest = candidates.clone();
    let (mut first, mut least) = rest.next()?;
    let (mut soonest, mut is_alone) = (least.latency, true);
    for (key, candidate) in rest {
        if is_less(candidate, least) {
            (first, least, soonest, is_alone) = (key, candidate, candidate.latency, true);
        } else if !is_less(least, candidate) {
            (soonest, is_alone) = (soonest.min(candidate.latency), false);
        }
    }
    if is_alone {
        return Some(first);
    }
    let bound = soonest.saturating_add(soonest.max(LATENCY_SLACK_MICROS));
    let best = candidates.filter(|(_, load)| load.latency <= bound && !is_less(least, *load));
    // Equals share by weight: a node of weight 2 gets two of the turns.
    let shares: u32 = best.clone().map(|(_, load)| load.weight.max(1)).sum();
    let mut turn = turn % shares.max(1);
    for (key, load) in best {
        let share = load.weight.max(1);
        if turn < share {
            return Some(key);
        }
        turn -= share;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick_of<const N: usize>(candidates: [(u32, u32, u32); N], turn: u32) -> Option<usize> {
        let load = |(in_flight, weight, latency)| Load { in_flight, weight, latency };
        pick(candidates.map(load).into_iter().enumerate(), turn)
    }

    #[test]
    fn least_loaded_for_its_weight() {
        assert_eq!(pick_of([], 0), None);
        assert_eq!(pick_of([(3, 1, 0), (2, 1, 0)], 0), Some(1));
        assert_eq!(pick_of([(3, 1, 0), (4, 2, 0)], 7), Some(1), "(4+1)/2 is less than (3+1)/1");
        let turns: Vec<_> = (0..4).filter_map(|turn| pick_of([(0, 1, 0), (0, 1, 0)], turn)).collect();
        assert_eq!(turns, [0, 1, 0, 1], "equals take turns");
    }

    #[test]
    fn of_equals_the_nearer_one() {
        let nodes = |latency| [(1, 1, latency), (1, 1, 500)];
        assert_eq!((0..4).map(|turn| pick_of(nodes(9_000), turn)).max(), Some(Some(1)));
        assert_eq!((0..4).map(|turn| pick_of(nodes(9_000), turn)).min(), Some(Some(1)));
        let turns: Vec<_> = (0..4).filter_map(|turn| pick_of(nodes(1_500), turn)).collect();
        assert_eq!(turns, [0, 1, 0, 1], "a millisecond more or less is the same");
        assert_eq!(pick_of([(0, 1, 90_000), (1, 1, 500)], 0), Some(0), "load counts first");
    }
}
