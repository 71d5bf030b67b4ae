//! A queue that is emptied far more often than it grows long: entries in a row, and where its front is.
//!
//! What has left it stays where it is until the queue is empty or mostly gone, so that taking an entry costs no more
//! than a step.

/// The queue.
#[derive(Debug)]
pub(super) struct Owed<T> {
    all: Vec<T>,
    /// The first that is still there.
    next: usize,
}

/// So many that have left may stay without regard to how many are still there.
const GONE_MAX: usize = 64;

impl<T> Default for Owed<T> {
    fn default() -> Self {
        Self { all: Vec::new(), next: 0 }
    }
}

impl<T> Owed<T> {
    /// Adds one at the end.
    #[inline]
    pub(super) fn push(&mut self, one: T) {
        if self.next > GONE_MAX && self.next * 2 > self.all.len() {
            self.all.drain(..self.next);
            self.next = 0;
        }
        self.all.push(one);
    }

    /// The first.
    #[inline]
    pub(super) fn front(&self) -> Option<&T> {
        self.all.get(self.next)
    }

    /// The first, to be changed.
    #[inline]
    pub(super) fn front_mut(&mut self) -> Option<&mut T> {
        self.all.get_mut(self.next)
    }

    /// The first leaves.
    #[inline]
    pub(super) fn pass(&mut self) {
        self.advance(1);
    }

    /// Only the first stays.
    pub(super) fn keep_first(&mut self) {
        self.all.truncate(self.next + 1);
    }

    /// All that are there, in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter().skip(self.next)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.all.len() - self.next
    }

    /// Whether there are none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All that are there; none are left.
    pub(super) fn take(&mut self) -> Vec<T> {
        let mut all = std::mem::take(&mut self.all);
        all.drain(..std::mem::take(&mut self.next));
        all
    }

    /// The first so many leave, and are given back.
    pub(super) fn split(&mut self, count: usize) -> Vec<T>
    where
        T: Default,
    {
        let first = self.all.iter_mut().skip(self.next).take(count);
        let taken: Vec<_> = first.map(std::mem::take).collect();
        self.advance(taken.len());
        taken
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.next += count;
        if self.next >= self.all.len() {
            self.all.clear();
            self.next = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_queue(steps in prop::collection::vec((0_u8..8, 0_usize..4), 0..400)) {
            let (mut owed, mut queue) = (Owed::default(), VecDeque::new());
            for (number, (step, count)) in steps.into_iter().enumerate() {
                match step {
                    0..4 => {
                        owed.push(number);
                        queue.push_back(number);
                    }
                    4..6 if !queue.is_empty() => {
                        owed.pass();
                        queue.pop_front();
                    }
                    6 => {
                        let count = count.min(queue.len());
                        prop_assert_eq!(owed.split(count), queue.drain(..count).collect::<Vec<_>>());
                    }
                    7 if count == 0 => {
                        prop_assert_eq!(owed.take(), Vec::from(std::mem::take(&mut queue)));
                    }
                    7 if count == 1 => {
                        owed.keep_first();
                        queue.truncate(1);
                    }
                    _ => {}
                }
                prop_assert_eq!(owed.front(), queue.front());
                prop_assert_eq!((owed.len(), owed.is_empty()), (queue.len(), queue.is_empty()));
                prop_assert!(owed.iter().eq(queue.iter()));
            }
        }
    }

    #[test]
    fn what_has_left_a_queue_that_is_never_empty_takes_no_room() {
        let mut owed = Owed::default();
        owed.push(0);
        for number in 0..100_000 {
            owed.push(number);
            owed.pass();
        }
        assert!(owed.all.capacity() < 1000, "{}", owed.all.capacity());
    }
}
