// SPDX-License-Identifier: GPL-2.0

//! A state of the model: a world, what may happen in it, and what is left of the budget.
//!
//! Two things are done at once, not chosen, because when they are done makes no difference to anybody else: a thread that
//! has nothing to ask goes to sleep, and (if so bounded) a write of metadata ends. A timer fires only when nothing else
//! can happen but that a session is made again or a member starts (both take as long as they like), or from a budget:
//! networks and disks are faster than timers, but for those that hang.

use crate::bounds::Bounds;
use crate::bounds::Budget;
use crate::choice::Choice;
use rmr_sim::driven::Cut;
use rmr_sim::env::Event;
use rmr_sim::fingerprint;
use rmr_sim::network::Event as NetworkEvent;
use rmr_sim::network::Host;
use rmr_sim::run::Report;
use rmr_sim::run::Wrong;
use rmr_sim::world::World;

/// Steps until a pool is served, at most.
const BEGIN: usize = 10_000;

/// A state.
#[derive(Clone)]
pub struct State {
    world: World,
    pending: Vec<Event>,
    left: Budget,
    slow_metadata: bool,
}

impl State {
    /// The first state. `None` if a pool that nothing happens to does not come up.
    pub fn first(bounds: &Bounds) -> Option<State> {
        let (world, next) = World::driven(bounds.plan(), bounds.requests());
        let mut state = State {
            world,
            pending: Vec::new(),
            left: bounds.budget,
            slow_metadata: bounds.slow_metadata,
        };
        state.note(next);
        // Members have started, and are connected.
        state.calm_down();
        if bounds.serving {
            state.take(&Choice::Open);
            for _ in 0..BEGIN {
                state.calm_down();
                if state.world.is_whole() {
                    break;
                }
                let timer = state.timers().into_iter().next()?;
                state.take(&timer);
            }
            if !state.world.is_whole() {
                return None;
            }
            state.left = Budget {
                clients: bounds.budget.clients.saturating_sub(1),
                ..bounds.budget
            };
        }
        Some(state)
    }

    /// Everything that is pending happens, in order, but for what applications want.
    fn calm_down(&mut self) {
        for _ in 0..BEGIN {
            let ready =
                |event: &Event| self.world.is_possible(event) && !matches!(event, Event::Work(..));
            match self.pending.iter().position(ready) {
                Some(place) => self.take(&Choice::Happens(place)),
                None => return,
            }
        }
    }

    /// Prints all that happens from now on.
    pub fn make_loud(&mut self) {
        self.world.make_loud();
    }

    /// What stands for it.
    pub fn fingerprint(&self) -> u64 {
        let pending = fingerprint::of_bag(&self.pending);
        fingerprint::of(&(&self.world, pending, self.left))
    }

    /// What is wrong with it.
    pub fn wrong(&mut self) -> Option<Wrong> {
        self.world.wrong()
    }

    /// All that can be next.
    pub fn choices(&self) -> Vec<Choice> {
        let pending = self.pending.iter().enumerate();
        let mut choices: Vec<Choice> = pending
            .filter(|(_, event)| self.world.is_possible(event))
            .map(|(place, _)| Choice::Happens(place))
            .collect();
        if self.left.timers > 0 && (!self.is_busy() || self.left.early > 0) {
            choices.extend(self.timers());
        }
        choices.extend(self.world.members(false).map(Choice::Start));
        self.free_choices(&mut choices);
        choices
    }

    /// Whether something happens soon.
    fn is_busy(&self) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|event| {
            let waits = matches!(event, Event::Net(NetworkEvent::Connect { .. }));
            !waits && self.world.is_possible(event)
        })
    }

    /// The timers that are due first.
    fn timers(&self) -> Vec<Choice> {
        let timers = self.world.timers();
        let first = timers.iter().map(|(at, _)| *at).min();
        timers
            .into_iter()
            .filter(|(at, _)| Some(*at) == first)
            .map(|(at, event)| Choice::Timer(at, event))
            .collect()
    }

    fn free_choices(&self, choices: &mut Vec<Choice>) {
        let left = self.left;
        if left.clients > 0 {
            choices.push(Choice::Open);
        }
        if left.faults == 0 {
            return;
        }
        for member in self.world.members(true) {
            if left.power > 0 {
                choices.push(Choice::Cut(member, Cut::Power));
            }
            if left.crashes > 0 {
                choices.push(Choice::Cut(member, Cut::Crash));
            }
        }
        if left.client_crashes > 0 {
            choices.extend(self.world.openings().map(Choice::CutClient));
        }
        for (from, to) in self.world.sessions() {
            let left = match from {
                Host::Client(_) => left.breaks,
                Host::Member(_) => left.peer_breaks,
            };
            if left > 0 {
                choices.push(Choice::Break(from, to));
            }
        }
    }

    /// Takes a step.
    pub fn take(&mut self, choice: &Choice) {
        let is_busy = self.is_busy();
        let left = &mut self.left;
        if choice.is_free() && !matches!(choice, Choice::Open) {
            left.faults = left.faults.saturating_sub(1);
        }
        let spend = |kind: &mut u8| *kind = kind.saturating_sub(1);
        let next = match choice {
            Choice::Happens(place) => {
                let event = self.pending.remove(*place);
                if self.world.is_late(&event) {
                    spend(&mut left.late);
                }
                self.world.line(format_args!("{}", describe(&event)));
                self.world.drive(event)
            }
            Choice::Timer(at, event) => {
                spend(&mut left.timers);
                if is_busy {
                    spend(&mut left.early);
                }
                self.world.advance(*at);
                self.world.line(format_args!("{choice}"));
                self.world.drive(event.clone())
            }
            Choice::Start(member) => self.world.drive(Event::Start(*member)),
            Choice::Cut(member, cut) => {
                match cut {
                    Cut::Power => spend(&mut left.power),
                    Cut::Crash => spend(&mut left.crashes),
                }
                self.world.cut(*member, *cut)
            }
            Choice::CutClient(opening) => {
                spend(&mut left.client_crashes);
                self.world.cut_client(*opening)
            }
            Choice::Open => {
                spend(&mut left.clients);
                self.world.drive(Event::Open(true))
            }
            Choice::Break(from, to) => {
                match from {
                    Host::Client(_) => spend(&mut left.breaks),
                    Host::Member(_) => spend(&mut left.peer_breaks),
                }
                self.world.line(format_args!("{choice}"));
                self.world.break_session(*from, *to)
            }
        };
        self.note(next);
    }

    /// These events may happen now. Those that are done at once are.
    fn note(&mut self, mut next: Vec<Event>) {
        loop {
            for event in next {
                let chosen = matches!(event, Event::Net(_) | Event::Disk(..) | Event::Work(..));
                if chosen && !self.is_known(&event) {
                    self.pending.push(event);
                }
            }
            let at_once = |event: &Event| {
                self.world.is_idle_thread(event)
                    || (!self.slow_metadata && self.world.is_metadata(event))
            };
            let Some(place) = self.pending.iter().position(at_once) else {
                break;
            };
            let event = self.pending.remove(place);
            next = self.world.drive(event);
        }
        let (world, late) = (&self.world, self.left.late > 0);
        self.pending
            .retain(|event| !world.is_past(event) && (late || !world.is_late(event)));
    }

    /// A session breaks, or is made again, once.
    fn is_known(&self, event: &Event) -> bool {
        let session = |event: &Event| match event {
            Event::Net(NetworkEvent::Break { from, to, session }) => {
                Some((false, *from, *to, *session))
            }
            Event::Net(NetworkEvent::Connect { from, to, session }) => {
                Some((true, *from, *to, *session))
            }
            _ => None,
        };
        let this = session(event);
        this.is_some() && self.pending.iter().any(|other| session(other) == this)
    }

    /// Goes on in the order of time, without faults, until all is well.
    pub fn finish(self) -> Report {
        self.world.finish(self.pending)
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::Net(NetworkEvent::Deliver { from, to, .. }) => format!("{from} -> {to}"),
        Event::Net(NetworkEvent::Answer { to, .. }) => format!("{to} <- answer"),
        Event::Net(NetworkEvent::Break { from, to, .. }) => format!("{from} -> {to} breaks"),
        Event::Net(NetworkEvent::Connect { from, to, .. }) => format!("{from} -> {to} again"),
        Event::Disk(member, ..) => format!("disk of m{member}"),
        Event::Work(opening, thread) => format!("thread {thread} of c{opening}"),
        other => format!("{other:?}"),
    }
}
