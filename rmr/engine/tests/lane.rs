// SPDX-License-Identifier: GPL-2.0

//! `lane` and `anticipation` driven as a lane is: arrivals, plugs, completions, a timer.

use proptest::prelude::*;
use rmr_engine::anticipation::Anticipation;
use rmr_engine::anticipation::Expiry;
use rmr_engine::lane::decide;
use rmr_engine::lane::Caps;
use rmr_engine::lane::Class;
use rmr_engine::lane::Decision;
use rmr_engine::lane::Event;
use rmr_engine::lane::Fill;
use rmr_engine::lane::Fit;
use rmr_engine::lane::Lane;
use rmr_engine::lane::Part;
use rmr_engine::lane::GAP;
use std::collections::VecDeque;

const CAPS: Caps = Caps {
    requests: 8,
    data: 64 << 10,
    segments: 16,
    in_flight: 8,
};

fn pages(n: u32) -> Part {
    Part {
        data: n * GAP,
        segments: n as u16,
        ..Part::default()
    }
}

/// Requests of two epochs do not share a message, even if they have no data.
#[test]
fn groups() {
    let of = |group| Part {
        group,
        ..Part::default()
    };
    let mut fill = Fill::new();
    assert_eq!(fill.add(&CAPS, &of(7)), Fit::Added);
    assert_eq!(fill.add(&CAPS, &of(7)), Fit::Added);
    assert_eq!(fill.add(&CAPS, &of(8)), Fit::Next);
    assert_eq!(fill.requests(), 2);
}

/// A lane with its queues, as a shell has it.
struct Shell {
    lane: Lane,
    small: VecDeque<(u32, Part)>,
    large: VecDeque<(u32, Part)>,
    messages: Vec<Vec<(u32, Part)>>,
    /// Messages not yet complete, the oldest first.
    in_flight: VecDeque<(Class, u16)>,
    next: u32,
    now: u64,
    timer: Option<u64>,
}

/// What a message takes here, in nanoseconds.
const ROUND_TRIP: u64 = 100_000;

impl Shell {
    fn new(caps: Caps) -> Self {
        Self {
            lane: Lane::new(caps),
            small: VecDeque::new(),
            large: VecDeque::new(),
            messages: vec![],
            in_flight: VecDeque::new(),
            next: 0,
            now: 1,
            timer: None,
        }
    }

    fn pump(&mut self, mut event: Event) {
        while let Some(take) = self.lane.decide(event) {
            assert!(take.requests > 0);
            let queue = match take.class {
                Class::Small => &mut self.small,
                Class::Large => &mut self.large,
            };
            let message = queue.drain(..usize::from(take.requests)).collect();
            self.messages.push(message);
            self.in_flight.push_back((take.class, take.requests));
            let rest = self.small.iter().map(|(_, part)| part);
            self.lane.sent(self.now, take.class, rest);
            event = Event::Kick;
        }
    }

    fn submit(&mut self, part: Part, last: bool) -> bool {
        let queue = match self.lane.queue(&part) {
            None => return false,
            Some(Class::Small) => &mut self.small,
            Some(Class::Large) => &mut self.large,
        };
        queue.push_back((self.next, part));
        self.next += 1;
        self.pump(Event::Arrival { last });
        true
    }

    fn complete(&mut self) {
        self.now += ROUND_TRIP;
        let (class, requests) = self.in_flight.pop_front().unwrap();
        let (event, wait) = self.lane.completed(self.now, class, requests);
        if let Some(wait) = wait {
            assert!(wait <= u64::from(CAPS.in_flight.max(5)) * ROUND_TRIP / 2);
            self.timer.get_or_insert(self.now + wait);
        }
        self.pump(event);
    }

    /// Time passes until the timer has run down, if it is set.
    fn wait(&mut self) {
        while let Some(at) = self.timer.take() {
            self.now = self.now.max(at);
            match self.lane.expired(self.now) {
                Expiry::AtRest => {}
                Expiry::Later(ns) => self.timer = Some(self.now + ns),
                Expiry::Over => self.pump(Event::Completion),
            }
        }
    }

    /// Something in flight or a timer will ask again, or nothing is queued.
    fn moves(&self) -> bool {
        self.lane.in_flight() > 0
            || self.lane.queued() == 0
            || self.lane.waits() && self.timer.is_some()
    }

    fn sizes(&self) -> Vec<usize> {
        self.messages.iter().map(Vec::len).collect()
    }
}

#[test]
fn depth_one_waits_for_nothing() {
    let mut shell = Shell::new(CAPS);
    for n in 1..=5 {
        assert!(shell.submit(pages(1), true));
        assert_eq!(shell.sizes(), vec![1; n]);
        shell.complete();
    }
}

#[test]
fn depth_gathers_while_one_is_in_flight() {
    let mut shell = Shell::new(CAPS);
    for _ in 0..6 {
        shell.submit(pages(1), true);
    }
    assert_eq!(shell.sizes(), [1]);
    shell.complete();
    // One was answered, so one more is expected; it does not come.
    assert_eq!(shell.sizes(), [1]);
    shell.wait();
    assert_eq!(shell.sizes(), [1, 5]);
}

#[test]
fn constant_depth_makes_messages_of_that_size() {
    let mut shell = Shell::new(CAPS);
    for _ in 0..6 {
        shell.submit(pages(1), true);
    }
    for _ in 0..10 {
        for _ in 0..shell.in_flight[0].1 {
            // The completions come first, then the submitter answers each.
            if shell.lane.in_flight() > 0 {
                shell.complete();
            }
            shell.submit(pages(1), true);
        }
    }
    assert_eq!(shell.sizes()[..4], [1, 6, 6, 6]);
    assert_eq!(shell.timer.is_some(), shell.lane.in_flight() > 0);
}

#[test]
fn who_does_not_answer_is_not_awaited_for_long() {
    let mut shell = Shell::new(CAPS);
    let mut waits = 0;
    for _ in 0..30 {
        for n in 1..=3 {
            shell.submit(pages(1), n == 3);
        }
        shell.complete();
        waits += u32::from(shell.lane.waits());
        shell.wait();
        assert_eq!(shell.lane.queued(), 0);
    }
    assert_eq!(waits, 3, "4, 2, 1: then there is no trust left");
    // A trial, much later.
    for _ in 0..10 {
        for n in 1..=3 {
            shell.submit(pages(1), n == 3);
        }
        shell.complete();
        waits += u32::from(shell.lane.waits());
        shell.wait();
    }
    assert_eq!(waits, 4);
}

#[test]
fn an_old_timer_does_not_end_a_new_wait() {
    let mut shell = Shell::new(CAPS);
    for n in 1..=3 {
        shell.submit(pages(1), n == 3);
    }
    shell.complete();
    let first = shell.timer;
    for _ in 0..3 {
        shell.submit(pages(1), true);
    }
    assert_eq!(shell.sizes(), [3, 3]);
    shell.complete();
    assert_eq!(shell.timer, first, "it is still set");
    shell.submit(pages(1), true);
    shell.now -= ROUND_TRIP / 8;
    let now = shell.now;
    assert_eq!(
        shell.lane.expired(now),
        Expiry::Later(ROUND_TRIP / 2 + ROUND_TRIP / 8)
    );
    shell.wait();
    assert_eq!(shell.sizes(), [3, 3, 1]);
    assert_eq!(shell.lane.expired(u64::MAX), Expiry::AtRest);
}

#[test]
fn full_messages_leave_up_to_the_cap() {
    let mut shell = Shell::new(CAPS);
    for _ in 0..41 {
        shell.submit(pages(1), true);
    }
    assert_eq!(shell.sizes(), [1, 8, 8, 8]);
    assert_eq!(shell.lane.in_flight(), 4);
    shell.complete();
    assert_eq!(shell.sizes(), [1, 8, 8, 8, 8]);
    assert_eq!(shell.lane.queued(), 8);
}

#[test]
fn large_requests_pass_small_ones() {
    let mut shell = Shell::new(CAPS);
    // The block layer split three requests of 17 pages, and one of 28.
    for _ in 0..3 {
        shell.submit(pages(16), true);
        shell.submit(pages(1), true);
    }
    shell.submit(pages(16), true);
    shell.submit(pages(12), true);
    assert_eq!(shell.sizes(), [1; 5], "one small and four large ones");
    assert_eq!((shell.large.len(), shell.small.len()), (1, 2));
    shell.complete();
    assert_eq!((shell.large.len(), shell.small.len()), (0, 2));
    // The small ones wait for the small one.
    shell.complete();
    shell.wait();
    assert_eq!(shell.sizes(), [1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(shell.lane.load(), 5);
}

#[test]
fn small_requests_pass_large_ones() {
    let mut shell = Shell::new(CAPS);
    for _ in 0..20 {
        shell.submit(pages(9), true);
    }
    assert_eq!(shell.lane.in_flight(), CAPS.in_flight / 2);
    shell.submit(pages(1), true);
    assert_eq!(shell.messages.last().unwrap()[0].1, pages(1));
    assert_eq!(shell.lane.load(), 4 + 16 + 1);
}

#[test]
fn a_plug_leaves_together() {
    let mut shell = Shell::new(CAPS);
    for n in 1..=5 {
        shell.submit(pages(1), n == 5);
    }
    assert_eq!(shell.sizes(), [5]);
    shell.complete();
    shell.wait();
    shell.submit(pages(1), false);
    shell.submit(pages(1), false);
    assert_eq!(shell.sizes(), [5]);
    shell.pump(Event::Kick);
    assert_eq!(shell.sizes(), [5, 2]);
}

#[test]
fn a_plug_that_fills_a_message_does_not_wait() {
    let mut shell = Shell::new(CAPS);
    for _ in 0..9 {
        shell.submit(pages(1), false);
    }
    assert_eq!(shell.sizes(), [8]);
}

/// The eighth request makes it full; so does one that does not fit any more, which is found out when it comes.
#[test]
fn a_message_is_full_by_count_or_by_what_comes_next() {
    let mut shell = Shell::new(CAPS);
    for n in 1..=8 {
        assert_eq!(shell.sizes(), [0; 0], "{n}");
        shell.submit(pages(1), false);
    }
    assert_eq!(shell.sizes(), [8]);
    let mut shell = Shell::new(CAPS);
    for _ in 0..3 {
        assert_eq!(shell.sizes(), [0; 0]);
        shell.submit(pages(6), false);
    }
    assert_eq!(shell.sizes(), [2]);
}

#[test]
fn full_in_each_way() {
    let with = |requests, data, segments| Caps {
        requests,
        data,
        segments,
        in_flight: 1,
    };
    let mut fill = Fill::new();
    for part in [pages(1), pages(2)] {
        assert_eq!(fill.add(&CAPS, &part), Fit::Added);
    }
    assert_eq!(fill.segments(), 3);
    assert!(!fill.is_full(&with(3, 4 * GAP, 4)));
    assert!(fill.is_full(&with(2, 4 * GAP, 4)));
    assert!(fill.is_full(&with(3, 3 * GAP, 4)));
    assert!(fill.is_full(&with(3, 4 * GAP, 3)));
    for (caps, data, fits) in [
        (with(3, 5 * GAP, 5), 2, Fit::Added),
        (with(3, 4 * GAP, 5), 2, Fit::Next),
        (with(3, 5 * GAP, 4), 1, Fit::Next),
        (with(2, 5 * GAP, 5), 1, Fit::Next),
    ] {
        let data = data * GAP;
        let part = Part { data, ..pages(2) };
        assert_eq!(fill.clone().add(&caps, &part), fits);
    }
}

/// What is left behind a message makes the next one, whole.
#[test]
fn what_is_left_is_counted_again() {
    let mut shell = Shell::new(CAPS);
    for _ in 0..4 * 8 + 12 {
        shell.submit(pages(1), false);
    }
    assert_eq!(shell.sizes(), [8; 4]);
    shell.complete();
    shell.complete();
    assert_eq!(shell.sizes(), [8, 8, 8, 8, 8, 4]);
}

/// A lane at rest whose messages take `ns`: one was sent at 0 and comes back now.
fn back_after(ns: u64, answered: u16, queued: u32) -> Option<u64> {
    let mut anticipation = Anticipation::new();
    anticipation.sent(0);
    anticipation.completed(ns, answered, queued, 8)
}

#[test]
fn what_is_worth_waiting_for() {
    assert_eq!(back_after(100_000, 2, 0), Some(50_000));
    assert_eq!(back_after(100_000, 1, 0), None);
    assert_eq!(back_after(100_000, 1, 1), Some(50_000));
    // A whole message is there.
    assert_eq!(back_after(100_000, 8, 8), None);
    assert_eq!(back_after(4_000, 2, 0), Some(2_000));
    assert_eq!(back_after(3_998, 2, 0), None);
    assert_eq!(back_after(1 << 40, 2, 0), Some(2_000_000));
}

/// Two misses in a row use up the trust of one hit; then every 32nd chance is a trial.
#[test]
fn trust_is_won_and_lost() {
    let mut now = 0;
    let mut anticipation = Anticipation::new();
    let mut chance = |anticipation: &mut Anticipation| {
        anticipation.sent(now);
        now += 100_000;
        let wait = anticipation.completed(now, 2, 0, 8);
        (now, wait)
    };
    for _ in 0..3 {
        let (at, wait) = chance(&mut anticipation);
        let over = at + wait.unwrap();
        assert_eq!(anticipation.expired(over), Expiry::Over);
    }
    for passed in 1..32 {
        assert_eq!(chance(&mut anticipation).1, None, "{passed}");
    }
    // The trial is a hit: one of trust, and one more.
    assert!(chance(&mut anticipation).1.is_some());
    assert!(!anticipation.reached(1));
    assert!(anticipation.reached(2));
    for left in [1, 0] {
        let (at, wait) = chance(&mut anticipation);
        let over = at + wait.unwrap();
        assert_eq!(anticipation.expired(over), Expiry::Over, "{left}");
    }
    assert_eq!(chance(&mut anticipation).1, None);
}

#[test]
fn gaps() {
    let part = |data, head, tail| Part {
        data,
        segments: 1,
        head,
        tail,
        group: 0,
    };
    let fits = |a: Part, b: Part| {
        let mut fill = Fill::new();
        assert_eq!(fill.add(&CAPS, &a), Fit::Added);
        fill.add(&CAPS, &b)
    };
    let whole = part(4096, 0, 0);
    let sector_at_end = part(512, 3584, 0);
    let sector_at_start = part(512, 0, 512);
    let flush = Part::default();
    assert_eq!(fits(whole, whole), Fit::Added);
    assert_eq!(fits(sector_at_end, sector_at_start), Fit::Added);
    assert_eq!(fits(sector_at_start, whole), Fit::Next);
    assert_eq!(fits(whole, sector_at_end), Fit::Next);
    assert_eq!(fits(sector_at_start, flush), Fit::Added);
    assert_eq!(fits(flush, sector_at_end), Fit::Added);
    // What has no data does not close a gap either.
    let mut fill = Fill::new();
    for part in [sector_at_start, flush] {
        assert_eq!(fill.add(&CAPS, &part), Fit::Added);
    }
    assert_eq!(fill.add(&CAPS, &whole), Fit::Next);
    assert_eq!((fill.requests(), fill.data(), fill.segments()), (2, 512, 1));
}

#[test]
fn nonsense() {
    let never = |caps, part| Fill::new().add(&caps, &part) == Fit::Never;
    assert!(never(CAPS, pages(17)));
    assert!(never(
        CAPS,
        Part {
            segments: 17,
            ..pages(1)
        }
    ));
    assert!(never(
        Caps {
            requests: 0,
            ..CAPS
        },
        pages(1)
    ));
    assert!(!Shell::new(CAPS).submit(pages(17), true));
    let huge = Caps {
        requests: u16::MAX,
        data: u32::MAX,
        segments: u16::MAX,
        in_flight: 0,
    };
    let most = Part {
        data: u32::MAX - 4095,
        segments: u16::MAX,
        ..Part::default()
    };
    let mut fill = Fill::new();
    assert_eq!(fill.add(&huge, &most), Fit::Added);
    assert_eq!(fill.add(&huge, &most), Fit::Next);
    let mut lane = Lane::new(huge);
    for class in [Class::Small, Class::Large] {
        assert_eq!(lane.completed(u64::MAX, class, 1).1, None);
    }
    assert_eq!(lane.decide(Event::Kick), None);
    assert_eq!(lane.queue(&most), Some(Class::Large));
    assert_eq!(lane.decide(Event::Kick).map(|take| take.requests), Some(1));
    assert_eq!(decide(0, 0, 1, true, Event::Kick), Decision::Wait);
}

#[derive(Clone, Debug)]
enum Step {
    Submit(Part, bool),
    Complete,
    Kick,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let part = prop_oneof![
        4 => (1u32..5).prop_map(pages),
        1 => (5u32..17).prop_map(pages),
        1 => Just(Part::default()),
        1 => (1u32..8).prop_map(|n| Part { data: n * 512, segments: 1, head: 0, tail: n * 512, group: 0 }),
        1 => (1u32..8).prop_map(|n| Part { data: n * 512, segments: 1, head: 4096 - n * 512, tail: 0, group: 1 }),
    ];
    let step = prop_oneof![
        5 => (part, prop::bool::weighted(0.7)).prop_map(|(part, last)| Step::Submit(part, last)),
        3 => Just(Step::Complete),
        1 => Just(Step::Kick),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn keeps_its_promises(steps in steps(), requests in 1u16..10, in_flight in 1u16..6) {
        let caps = Caps { requests, in_flight, ..CAPS };
        let mut shell = Shell::new(caps);
        let mut completed = 0;
        for step in steps {
            let idle = shell.lane.in_flight() == 0 && shell.lane.queued() == 0 && !shell.lane.waits();
            let sent = shell.messages.len();
            match step {
                Step::Submit(part, last) => {
                    prop_assert!(shell.submit(part, last));
                    if idle && last {
                        prop_assert_eq!(shell.messages.len(), sent + 1, "did not leave at once");
                    }
                    if last {
                        // No plug is open: something is in flight, or a timer runs.
                        prop_assert!(shell.lane.in_flight() > 0 || shell.timer.is_some());
                    }
                }
                Step::Complete => {
                    if shell.lane.in_flight() > 0 {
                        completed += 1;
                        shell.complete();
                        prop_assert!(shell.moves());
                    }
                }
                Step::Kick => {
                    shell.pump(Event::Kick);
                    prop_assert!(shell.moves());
                }
                Step::Wait => {
                    shell.wait();
                    prop_assert!(!shell.lane.waits());
                }
            }
            prop_assert_eq!(shell.lane.queued() as usize, shell.small.len() + shell.large.len());
            prop_assert!(shell.lane.in_flight() <= in_flight.max(2));
            let large = shell.in_flight.iter().filter(|(class, _)| *class == Class::Large).count();
            let share = usize::from(in_flight / 2).max(1);
            prop_assert!(large <= share);
            prop_assert!(shell.large.is_empty() || large == share, "a large one waits for nothing");
            prop_assert_eq!(usize::from(shell.lane.in_flight()), shell.messages.len() - completed);
        }
        // The end of the last plug, then every completion: all leaves.
        shell.wait();
        shell.pump(Event::Kick);
        while shell.lane.in_flight() > 0 {
            shell.complete();
            shell.wait();
        }
        prop_assert!(shell.small.is_empty() && shell.large.is_empty());
        // Nothing lost, nothing twice, each class in order, each message within bounds and without gaps.
        let (large, small): (Vec<_>, Vec<_>) = shell
            .messages
            .iter()
            .flatten()
            .partition(|(_, part)| part.data > CAPS.data / 2);
        let mut all = vec![];
        for class in [large, small] {
            let order: Vec<u32> = class.iter().map(|(n, _)| *n).collect();
            prop_assert!(order.is_sorted());
            all.extend(order);
        }
        all.sort_unstable();
        prop_assert_eq!(all, (0..shell.next).collect::<Vec<_>>());
        for message in &shell.messages {
            let parts: Vec<Part> = message.iter().map(|(_, part)| *part).collect();
            prop_assert!(parts.len() <= usize::from(requests));
            prop_assert!(parts.iter().map(|p| p.data).sum::<u32>() <= caps.data);
            prop_assert!(parts.iter().map(|p| p.segments).sum::<u16>() <= caps.segments);
            let data: Vec<&Part> = parts.iter().filter(|p| p.data > 0).collect();
            for pair in data.windows(2) {
                prop_assert_eq!((pair[0].tail % GAP, pair[1].head % GAP), (0, 0));
            }
        }
    }
}
