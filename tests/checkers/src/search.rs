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

/// What is under way, each operation in a slot of its own.
struct Open<'a> {
    items: &'a [Item],
    /// By slot, the index of the operation.
    slots: [usize; MAX_OPEN],
    /// A bit for each slot that has one.
    used: u64,
}

impl<'a> Open<'a> {
    /// False if there is no slot left.
    fn begin(&mut self, index: usize) -> bool {
        let slot = self.used.trailing_ones() as usize;
        let Some(place) = self.slots.get_mut(slot) else {
            return false;
        };
        *place = index;
        self.used |= 1 << slot;
        true
    }

    /// The operations, each with its bit.
    fn iter(&self) -> impl Iterator<Item = (&'a Item, u64)> + use<'a, '_> {
        self.slots()
            .filter_map(|(index, bit)| Some((self.items.get(index)?, bit)))
    }

    /// The bit of this operation.
    fn bit(&self, index: usize) -> Option<u64> {
        let mut slots = self.slots();
        slots.find(|&(op, _)| op == index).map(|(_, bit)| bit)
    }

    fn slots(&self) -> impl Iterator<Item = (usize, u64)> + use<'_> {
        let mut left = self.used;
        std::iter::from_fn(move || {
            let slot = self.slots.get(left.trailing_zeros() as usize)?;
            let bit = left & left.wrapping_neg();
            left ^= bit;
            Some((*slot, bit))
        })
    }
}

/// What the steps use again and again.
#[derive(Default)]
struct Scratch<'a> {
    writes: Vec<(&'a Item, u64)>,
    reads: Vec<(&'a Item, u64)>,
    before: FxHashSet<State>,
    seen: FxHashSet<State>,
    next: Vec<State>,
}

/// Looks for an order of `items` that starts with `initial`.
pub(crate) fn search(items: &[Item], initial: Option<u64>) -> Found {
    // Begins before ends at the same position: an operation may take effect at both its bounds.
    let mut steps: Vec<(usize, bool, usize)> = Vec::with_capacity(2 * items.len());
    for (index, item) in items.iter().enumerate() {
        steps.push((item.span.begin, false, index));
        steps.push((item.span.end, true, index));
    }
    steps.sort_unstable();
    let mut open = Open {
        items,
        slots: [0; MAX_OPEN],
        used: 0,
    };
    let mut scratch = Scratch::default();
    let mut states: FxHashSet<State> = FxHashSet::from_iter([(initial, 0)]);
    for (_, is_end, index) in steps {
        if !is_end {
            if !open.begin(index) {
                return Found::Undecided;
            }
            continue;
        }
        let (Some(bit), Some(item)) = (open.bit(index), items.get(index)) else {
            continue;
        };
        if !end(&open, &mut states, (item, bit), &mut scratch) {
            return Found::Undecided;
        }
        if states.is_empty() {
            return Found::None(item.span);
        }
        open.used &= !bit;
    }
    Found::Order
}

/// Makes `states` those after the end of `item`, whose bit is free afterwards. False: too many.
///
/// Operations take effect as late as they can: only here, where the one that ends needs it.
fn end<'a>(
    open: &Open<'a>,
    states: &mut FxHashSet<State>,
    (item, bit): (&Item, u64),
    scratch: &mut Scratch<'a>,
) -> bool {
    if open.used == bit {
        end_alone(states, (item, bit), &mut scratch.before);
        return true;
    }
    let Scratch {
        writes,
        reads,
        before,
        seen,
        next,
    } = scratch;
    reads.clear();
    reads.extend(open.iter().filter(|(item, _)| !item.write));
    writes.clear();
    writes.extend(open.iter().filter(|(item, _)| item.write));
    // Several may end at the same position: this one is the first of them.
    writes.sort_unstable_by_key(|(item, own)| (item.span.value, item.span.end, *own != bit));
    seen.clear();
    next.clear();
    std::mem::swap(states, before);
    for state in before.drain() {
        if item.optional && state.1 & bit == 0 {
            states.insert(state);
        }
        next.push(see(reads, state));
    }
    while let Some(state) = next.pop() {
        if state.1 & bit != 0 {
            states.insert((state.0, state.1 & !bit));
            continue;
        }
        if !seen.insert(state) {
            continue;
        }
        if seen.len() + states.len() > MAX_STATES {
            return false;
        }
        for same in writes.chunk_by(|(a, _), (b, _)| a.span.value == b.span.value) {
            let Some((write, own)) = same.iter().find(|(_, bit)| state.1 & bit == 0) else {
                continue;
            };
            let done = state.1 | own;
            let after = see(reads, (Some(write.span.value), done));
            // Another write follows at once: one that need not be, and is not seen, need not be here.
            if own == &bit || after.1 != done || !write.optional {
                next.push(after);
            }
        }
    }
    true
}

/// As [`end`], where nothing else is under way.
fn end_alone(
    states: &mut FxHashSet<State>,
    (item, bit): (&Item, u64),
    before: &mut FxHashSet<State>,
) {
    std::mem::swap(states, before);
    for (content, done) in before.drain() {
        let is_done = done & bit != 0 || !item.write && content == Some(item.span.value);
        if is_done || item.optional {
            states.insert((content, 0));
        }
        if item.write && !is_done {
            states.insert((Some(item.span.value), 0));
        }
    }
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
