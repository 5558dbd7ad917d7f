// SPDX-License-Identifier: GPL-2.0

//! Linearizability of a register, values of which may be written more than once.
//!
//! Follows all orders at once: a state is the content and which of the operations under way have taken effect; an operation
//! that ends without having had effect takes it now, after any others that can take it first. Of writes of the same value that are under way,
//! the one that ends first takes effect first: in an order where it is the other way round, the two can change places. The
//! number of states is still exponential in the number of operations under way, so it is bounded.

use crate::zones::Span;
use rustc_hash::FxHashSet;

/// States followed at most.
const MAX_STATES: usize = 20_000;

/// Operations under way at most.
const MAX_OPEN: usize = 64;

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is an order.
    Order,
    /// There is none that lets this operation have taken effect at its end.
    None(Span),
    /// Too many states.
    Undecided,
}

/// An operation to be put in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) span: Span,
    pub(crate) write: bool,
    /// It may also never take effect.
    pub(crate) optional: bool,
}

/// Content (`None`: unknown, nothing that is read), and a bit for each open operation that took effect.
type State = (Option<u64>, u64);

/// Looks for an order of `items` that starts with `initial`.
pub(crate) fn search(items: &[Item], initial: Option<u64>) -> Found {
    // Begins before ends at the same position: an operation may take effect at both its bounds.
    let mut steps: Vec<(usize, bool, usize)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        steps.push((item.span.begin, false, index));
        steps.push((item.span.end, true, index));
    }
    steps.sort_unstable();
    let mut open: Vec<Option<usize>> = vec![None; MAX_OPEN];
    let mut states: FxHashSet<State> = FxHashSet::from_iter([(initial, 0)]);
    for (_, is_end, index) in steps {
        if !is_end {
            let Some(slot) = open.iter().position(Option::is_none) else {
                return Found::Undecided;
            };
            if let Some(place) = open.get_mut(slot) {
                *place = Some(index);
            }
            continue;
        }
        let Some(slot) = open.iter().position(|&op| op == Some(index)) else {
            continue;
        };
        let Some(item) = items.get(index) else {
            continue;
        };
        let Some(next) = end(items, &open, states, (item, 1 << slot)) else {
            return Found::Undecided;
        };
        states = next;
        if states.is_empty() {
            return Found::None(item.span);
        }
        if let Some(place) = open.get_mut(slot) {
            *place = None;
        }
    }
    Found::Order
}

/// The states after the end of `item`, whose bit is free afterwards. `None`: too many.
///
/// Operations take effect as late as they can: only here, where the one that ends needs it.
fn end(
    items: &[Item],
    open: &[Option<usize>],
    states: FxHashSet<State>,
    (item, bit): (&Item, u64),
) -> Option<FxHashSet<State>> {
    let (mut writes, reads): (Vec<_>, Vec<_>) =
        opened(items, open).partition(|(item, _)| item.write);
    // Several may end at the same position: this one is the first of them.
    writes.sort_unstable_by_key(|(item, own)| (item.span.value, item.span.end, *own != bit));
    let mut ended = FxHashSet::default();
    let mut seen = FxHashSet::default();
    let mut next: Vec<State> = Vec::new();
    for state in states {
        if item.optional && state.1 & bit == 0 {
            ended.insert(state);
        }
        next.push(see(&reads, state));
    }
    while let Some(state) = next.pop() {
        if state.1 & bit != 0 {
            ended.insert((state.0, state.1 & !bit));
            continue;
        }
        if !seen.insert(state) {
            continue;
        }
        if seen.len() + ended.len() > MAX_STATES {
            return None;
        }
        for same in writes.chunk_by(|(a, _), (b, _)| a.span.value == b.span.value) {
            let Some((write, own)) = same.iter().find(|(_, bit)| state.1 & bit == 0) else {
                continue;
            };
            let done = state.1 | own;
            let after = see(&reads, (Some(write.span.value), done));
            // Another write follows at once: one that need not be, and is not seen, need not be here.
            if own == &bit || after.1 != done || !write.optional {
                next.push(after);
            }
        }
    }
    Some(ended)
}

/// Lets all open reads of the content take effect: that forbids nothing later.
fn see(reads: &[(&Item, u64)], (content, mut done): State) -> State {
    for &(item, bit) in reads {
        if content == Some(item.span.value) {
            done |= bit;
        }
    }
    (content, done)
}

fn opened<'a>(
    items: &'a [Item],
    open: &'a [Option<usize>],
) -> impl Iterator<Item = (&'a Item, u64)> {
    let slots = open.iter().enumerate();
    slots.filter_map(|(slot, index)| {
        index
            .and_then(|index| items.get(index))
            .map(|item| (item, 1_u64 << slot))
    })
}
