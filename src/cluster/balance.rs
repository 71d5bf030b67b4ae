//! Which of the eligible replicas takes the next read: the one with the fewest statements in flight
//! for its weight; equals take turns by a number the caller passes in.

/// Picks among `candidates` of (statements in flight, weight); `turn` spreads equals. `None` when empty.
pub fn pick(candidates: impl Iterator<Item = (u32, u32)> + Clone, turn: u32) -> Option<usize> {
    // Load after taking one more, per weight, compared by cross-multiplication: no division, no floats.
    let load = |(in_flight, weight): (u32, u32)| (u64::from(in_flight) + 1, u64::from(weight.max(1)));
    let less = |a: (u64, u64), b: (u64, u64)| a.0 * b.1 < b.0 * a.1;
    let best = candidates.clone().map(load).reduce(|a, b| if less(b, a) { b } else { a })?;
    let is_best = |candidate: &(u32, u32)| !less(best, load(*candidate));
    // Equals share by weight: a node of weight 2 gets two of the turns.
    let shares: u32 = candidates.clone().filter(is_best).map(|(_, weight)| weight.max(1)).sum();
    let mut turn = turn % shares.max(1);
    for (index, candidate) in candidates.enumerate() {
        if !is_best(&candidate) {
            continue;
        }
        let share = candidate.1.max(1);
        if turn < share {
            return Some(index);
        }
        turn -= share;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_loaded_for_its_weight() {
        assert_eq!(pick([].into_iter(), 0), None);
        assert_eq!(pick([(3, 1), (2, 1)].into_iter(), 0), Some(1));
        assert_eq!(pick([(3, 1), (4, 2)].into_iter(), 7), Some(1), "(4+1)/2 is less than (3+1)/1");
        let turns: Vec<_> = (0..4).filter_map(|turn| pick([(0, 1), (0, 1)].into_iter(), turn)).collect();
        assert_eq!(turns, [0, 1, 0, 1], "equals take turns");
    }
}
