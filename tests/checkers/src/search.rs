// SPDX-License-Identifier: GPL-2.0

//! Linearizability of a register, values of which may be written more than once.
//!
//! Follows all orders at once: a state is the content and which of the operations under way have taken effect; an operation
//! that ends without having had effect takes it now, in every possible way. The number of states is exponential in the
//! number of operations under way, so it is bounded.

use crate::zones::Span;
use std::collections::BTreeSet;

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
    let mut states: BTreeSet<State> = BTreeSet::from([(initial, 0)]);
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
        let Some(all) = closure(items, &open, states) else {
            return Found::Undecided;
        };
        let bit = 1_u64 << slot;
        states = all
            .into_iter()
            .filter(|&(_, done)| done & bit != 0 || item.optional)
            .map(|(content, done)| (content, done & !bit))
            .collect();
        if states.is_empty() {
            return Found::None(item.span);
        }
        if let Some(place) = open.get_mut(slot) {
            *place = None;
        }
    }
    Found::Order
}

/// All states that open operations lead to from these. `None`: too many.
fn closure(
    items: &[Item],
    open: &[Option<usize>],
    states: BTreeSet<State>,
) -> Option<BTreeSet<State>> {
    let opened: Vec<(&Item, u64)> = opened(items, open).collect();
    let mut all = BTreeSet::new();
    let mut next: Vec<State> = states
        .into_iter()
        .map(|state| see(&opened, state))
        .collect();
    while let Some(state) = next.pop() {
        if !all.insert(state) {
            continue;
        }
        if all.len() > MAX_STATES {
            return None;
        }
        for &(item, bit) in &opened {
            if item.write && state.1 & bit == 0 {
                next.push(see(&opened, (Some(item.span.value), state.1 | bit)));
            }
        }
    }
    Some(all)
}

/// Lets all open reads of the content take effect: that forbids nothing later.
fn see(opened: &[(&Item, u64)], (content, mut done): State) -> State {
    for &(item, bit) in opened {
        if !item.write && content == Some(item.span.value) {
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
