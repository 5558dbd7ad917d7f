// SPDX-License-Identifier: GPL-2.0

//! What will happen, in the order of virtual time; at the same time in the order in which it was planned.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time in nanoseconds since the begin of the run.
pub type Nanos = u64;

#[derive(Clone, Debug)]
struct Entry<T> {
    at: Nanos,
    number: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Events to come.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    now: Nanos,
    number: u64,
}

impl<T> Queue<T> {
    /// Nothing to come, at time 0.
    pub fn new() -> Queue<T> {
        Queue {
            heap: BinaryHeap::new(),
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
        self.heap.push(Reverse(Entry {
            at: at.max(self.now),
            number: self.number,
            what,
        }));
    }

    /// Something happens after a while.
    pub fn after(&mut self, span: Nanos, what: T) {
        self.at(self.now.saturating_add(span), what);
    }

    /// Takes all that was planned, in the order in which it was, whatever its time: for a caller that decides itself
    /// what comes next.
    pub fn take_all(&mut self) -> Vec<(Nanos, T)> {
        let mut entries: Vec<Entry<T>> = self.heap.drain().map(|Reverse(entry)| entry).collect();
        entries.sort_by_key(|entry| entry.number);
        entries
            .into_iter()
            .map(|entry| (entry.at, entry.what))
            .collect()
    }

    /// It is this time now, or later.
    pub fn advance(&mut self, to: Nanos) {
        self.now = self.now.max(to);
    }

    /// Goes on to the next event.
    pub fn take(&mut self) -> Option<T> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.what)
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
