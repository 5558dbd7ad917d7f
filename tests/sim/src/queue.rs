// SPDX-License-Identifier: GPL-2.0

//! What will happen, in the order of virtual time; at the same time in the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time in nanoseconds since the begin of the run.
pub type Nanos = u64;

/// Events to come.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    /// Time, number and place in `what`: that is less to move about than the events.
    heap: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    what: Vec<Option<T>>,
    /// Places in `what` that have nothing.
    free: Vec<usize>,
    now: Nanos,
    number: u64,
}

impl<T> Queue<T> {
    /// Nothing to come, at time 0.
    pub fn new() -> Queue<T> {
        Queue {
            heap: BinaryHeap::new(),
            what: Vec::new(),
            free: Vec::new(),
            now: 0,
            number: 0,
        }
    }

    /// The time of the last event taken.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Events taken and planned so far.
    pub fn planned(&self) -> u64 {
        self.number
    }

    /// Something happens at this time, or now if that is over.
    pub fn at(&mut self, at: Nanos, what: T) {
        self.number += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.what.push(None);
            self.what.len() - 1
        });
        self.what[place] = Some(what);
        let at = at.max(self.now);
        self.heap.push(Reverse((at, self.number, place)));
    }

    /// Something happens after a while.
    pub fn after(&mut self, span: Nanos, what: T) {
        self.at(self.now.saturating_add(span), what);
    }

    /// Takes all that was planned, in the order in which it was, whatever its time: for a caller that decides itself
    /// what comes next.
    pub fn take_all(&mut self) -> Vec<(Nanos, T)> {
        let mut entries: Vec<_> = self.heap.drain().map(|Reverse(entry)| entry).collect();
        entries.sort_unstable_by_key(|&(_, number, _)| number);
        let mut what = std::mem::take(&mut self.what);
        self.free.clear();
        let events = entries.into_iter();
        events
            .filter_map(|(at, _, place)| Some((at, what[place].take()?)))
            .collect()
    }

    /// It is this time now, or later.
    pub fn advance(&mut self, to: Nanos) {
        self.now = self.now.max(to);
    }

    /// Goes on to the next event.
    pub fn take(&mut self) -> Option<T> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.now = at;
        self.free.push(place);
        self.what[place].take()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        let mut queue = Queue::new();
        queue.at(5, 'b');
        queue.at(3, 'a');
        queue.at(5, 'c');
        assert_eq!(queue.take(), Some('a'));
        queue.at(1, 'x');
        assert_eq!(queue.take(), Some('x'));
        assert_eq!(queue.now(), 3);
        assert_eq!(queue.take(), Some('b'));
        assert_eq!(queue.take(), Some('c'));
        assert_eq!((queue.take(), queue.now()), (None, 5));
    }
}
