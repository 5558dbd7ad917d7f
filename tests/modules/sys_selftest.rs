// SPDX-License-Identifier: GPL-2.0

//! Tests the crate `rmr_sys` in the kernel; `tests/vm/sys.sh` tells it what to do.
//!
//! `/sys/class/rmr-selftest/ctl/run` takes the name of a test of this file and answers by success or an error;
//! the log says which check failed. The other files there are themselves what is tested of sysfs.

use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr_engine::sync::Guarded;
use rmr_proto::MacKey;
use rmr_sys::bh;
use rmr_sys::crc::KernelCrc;
use rmr_sys::gate::Gate;
use rmr_sys::hmac::HmacKey;
use rmr_sys::key;
use rmr_sys::leases::Leases;
use rmr_sys::lock::IrqLock;
use rmr_sys::lock::IrqLocks;
use rmr_sys::percpu;
use rmr_sys::percpu::Counter;
use rmr_sys::percpu::Counters;
use rmr_sys::percpu::PerCpu;
use rmr_sys::rand;
use rmr_sys::slots::Park;
use rmr_sys::slots::Slots;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Class;
use rmr_sys::sysfs::Dir;
use rmr_sys::time;
use rmr_sys::wait::Event;
use rmr_sys::wait::WaitQueue;
use rmr_sys::work::Again;
use rmr_sys::work::Flags;
use rmr_sys::work::Job;
use rmr_sys::work::Queue;

module! {
    type: SysSelftest,
    name: "sys_selftest",
    authors: ["RMR project"],
    description: "Test of the crate rmr_sys",
    license: "GPL",
}

/// Fails the test that it is in, and says where.
macro_rules! check {
    ($what:expr) => {
        if !$what {
            pr_err!("line {}: not so: {}\n", line!(), stringify!($what));
            return Err(EPIPE);
        }
    };
}

struct SysSelftest {
    registry: Arc<Registry>,
    ctl: Option<Dir<Registry>>,
    _class: Class,
}

impl kernel::Module for SysSelftest {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let class = Class::register(c"rmr-selftest")?;
        let queue = Queue::new(c"rmr-selftest", Flags::UNBOUND)?;
        let registry = Arc::pin_init(
            try_pin_init!(Registry {
                queue,
                text <- new_mutex!([b'-'; 16]),
                home <- new_mutex!(None),
                objects <- new_mutex!(KVec::new()),
                next: Atomic::new(0),
                freed: Counter::new()?,
            }? Error),
            GFP_KERNEL,
        )?;
        let ctl = Dir::in_class(&class, c"ctl", registry.clone(), &CTL)?;
        *registry.home.lock() = Some(Dir::in_dir(&ctl, c"objects", no_data()?, &[])?);
        Ok(Self {
            registry,
            ctl: Some(ctl),
            _class: class,
        })
    }
}

impl Drop for SysSelftest {
    fn drop(&mut self) {
        // First the directory whose stores make objects. They own the registry, which owns their
        // directories.
        self.ctl = None;
        let objects = core::mem::take(&mut *self.registry.objects.lock());
        drop(objects);
        let home = self.registry.home.lock().take();
        drop(home);
    }
}

// -- sysfs --

#[pin_data]
struct Registry {
    queue: Arc<Queue>,
    #[pin]
    text: Mutex<[u8; 16]>,
    #[pin]
    home: Mutex<Option<Dir<()>>>,
    #[pin]
    objects: Mutex<KVec<Dir<Object>>>,
    next: Atomic<u64>,
    freed: Counter,
}

struct Object {
    registry: Arc<Registry>,
    number: u64,
}

impl Drop for Object {
    fn drop(&mut self) {
        self.registry.freed.inc();
    }
}

static CTL: [Attr<Registry>; 9] = [
    Attr::wo(c"run", "name of a test", |registry, input| {
        run(registry, input)
    }),
    Attr::rw(
        c"text",
        |registry, page| {
            let text = *registry.text.lock();
            let text = text.split(|byte| *byte == b'-').next().unwrap_or(b"");
            writeln!(page, "{}", core::str::from_utf8(text)?)
        },
        |registry, input| {
            let mut text = [b'-'; 16];
            text.get_mut(..input.len())
                .ok_or(E2BIG)?
                .copy_from_slice(input);
            *registry.text.lock() = text;
            Ok(())
        },
    ),
    Attr::ro(c"full", |_, page| {
        while page.written() < kernel::page::PAGE_SIZE - 1 {
            write!(page, "x")?;
        }
        Ok(())
    }),
    Attr::ro(c"overrun", |_, page| loop {
        write!(page, "more than a page ")?;
    }),
    Attr::ro(c"refused", |_, _| Err(ENODEV)),
    Attr::wo(
        c"size",
        "anything: the answer is its size as an error",
        |_, input| Err(if input.len() == 4095 { EDOM } else { ERANGE }),
    ),
    Attr::wo(c"make", "a name", |registry, input| {
        let name = CString::try_from_fmt(fmt!("{}", core::str::from_utf8(input)?))?;
        let object = Object {
            registry: registry.clone(),
            number: registry.next.fetch_add(1, Relaxed),
        };
        let object = Arc::new(object, GFP_KERNEL)?;
        let dir = {
            let home = registry.home.lock();
            let home = home.as_ref().ok_or(ENODEV)?;
            Dir::in_dir(home, &name, object, &OBJECT)?
        };
        dir.link(c"home", &dir)?;
        dir.uevent(&[c"SELFTEST=made"])?;
        registry.objects.lock().push(dir, GFP_KERNEL)?;
        Ok(())
    }),
    Attr::ro(c"count", |registry, page| {
        let count = registry.objects.lock().len();
        writeln!(page, "{count}")
    }),
    Attr::ro(c"freed", |registry, page| {
        writeln!(page, "{}", registry.freed.sum())
    }),
];

static OBJECT: [Attr<Object>; 4] = [
    Attr::ro(c"number", |object, page| {
        writeln!(page, "{}", object.number)
    }),
    Attr::wo(c"slow", "milliseconds that it takes", |object, input| {
        time::sleep_ms(core::str::from_utf8(input)?.parse().map_err(|_| EINVAL)?);
        check!(object.number < object.registry.next.load(Relaxed));
        Ok(())
    }),
    Attr::<Object>::wo(
        c"remove",
        "1 (2: stay for a second afterwards)",
        |object, input| {
            let dir = {
                let mut objects = object.registry.objects.lock();
                let is_this = |dir: &Dir<Object>| core::ptr::eq(&**dir.data(), &**object);
                let place = objects.iter().position(is_this).ok_or(ENOENT)?;
                objects.remove(place).map_err(|_| ENOENT)?
            };
            drop(dir);
            if input == b"2" {
                time::sleep_ms(1000);
            }
            check!(object.number < object.registry.next.load(Relaxed));
            Ok(())
        },
    )
    .removes_self(),
    Attr::ro(c"poll", |object, page| writeln!(page, "{}", object.number)),
];

// -- The others --

fn run(registry: &Arc<Registry>, name: &[u8]) -> Result {
    match name {
        b"gate" => gate(&registry.queue),
        b"gate-wait" => gate_wait(&registry.queue),
        b"slots" => slots(&registry.queue),
        b"leases" => leases(&registry.queue),
        b"park" => park(),
        b"work" => work(&registry.queue),
        b"self-drop" => self_drop(&registry.queue),
        b"wait" => wait(&registry.queue),
        b"lock" => lock(&registry.queue),
        b"percpu" => per_cpu(&registry.queue),
        b"small" => small(),
        b"hmac" => hmac(),
        b"key" => keyring(),
        _ => Err(EINVAL),
    }
}

/// Runs `job` on every CPU again and again while `f` runs.
fn everywhere<T: Send + Sync + 'static>(
    queue: &Arc<Queue>,
    data: &Arc<T>,
    job: fn(&Arc<T>) -> Again,
    f: impl FnOnce() -> Result,
) -> Result {
    let mut jobs = KVec::new();
    // Twice as many as there are CPUs, so that they preempt each other.
    for _ in 0..2 * percpu::cpus() {
        jobs.push(Job::new(queue, data.clone(), job)?, GFP_KERNEL)?;
    }
    for (cpu, job) in (0..).zip(&jobs) {
        check!(job.queue_on(cpu));
    }
    f()
}

const ALIVE: u64 = 0x0061_6c69_7665;

struct Probe(Atomic<u64>);

impl Probe {
    fn new() -> Self {
        Self(Atomic::new(ALIVE))
    }

    fn is_alive(&self) -> bool {
        self.0.load(Relaxed) == ALIVE
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.store(0, Relaxed);
    }
}

struct GateTest {
    gate: Gate<Probe>,
    entered: Counter,
    refused: Counter,
    dead: Counter,
}

/// Objects are never used after they were taken back, whoever enters meanwhile.
fn gate(queue: &Arc<Queue>) -> Result {
    let test = GateTest {
        gate: Gate::new(),
        entered: Counter::new()?,
        refused: Counter::new()?,
        dead: Counter::new()?,
    };
    let test = Arc::new(test, GFP_KERNEL)?;
    let hammer = |test: &Arc<GateTest>| {
        for round in 0..2000 {
            let Some(entered) = test.gate.enter() else {
                test.refused.inc();
                continue;
            };
            test.entered.inc();
            let more = entered.again();
            if !entered.is_alive() {
                test.dead.inc();
            }
            drop(entered);
            if round % 2 == 0 {
                bh::disabled(|| drop(more));
            } else if !more.is_alive() {
                test.dead.inc();
            }
        }
        Again::Now
    };
    everywhere(queue, &test, hammer, || {
        for _ in 0..50 {
            test.gate.publish(Probe::new())?;
            check!(test.gate.publish(Probe::new()).is_err());
            time::sleep_ms(5);
            let probe = test.gate.retire();
            check!(probe.is_some_and(|probe| probe.is_alive()));
            check!(test.gate.retire().is_none());
        }
        Ok(())
    })?;
    check!(test.entered.sum() > 0);
    check!(test.refused.sum() > 0);
    check!(test.dead.sum() == 0);
    pr_info!(
        "gate: {} entered, {} refused\n",
        test.entered.sum(),
        test.refused.sum()
    );
    Ok(())
}

/// Waiting for those who are inside ends when it should, and not before.
fn gate_wait(queue: &Arc<Queue>) -> Result {
    let gate = Gate::new();
    gate.publish(Probe::new())?;
    let entered = gate.enter().ok_or(EPIPE)?;
    let retiring = gate.retire_begin().ok_or(EPIPE)?;
    check!(gate.enter().is_none());
    check!(!gate.is_open());
    // Another one meanwhile.
    gate.publish(Probe::new())?;
    check!(gate.enter().is_some());
    let more = entered.again();
    drop(entered);
    let Err(retiring) = retiring.wait_timeout(50) else {
        return Err(EPIPE);
    };
    check!(retiring.is_alive() && more.is_alive());
    let begin = time::now_ms();
    queue.spawn(
        move || {
            time::sleep_ms(100);
            drop(more);
        },
        GFP_KERNEL,
    )?;
    let Ok(probe) = retiring.wait_timeout(10_000) else {
        return Err(EPIPE);
    };
    check!(probe.is_alive());
    check!(time::now_ms() - begin >= 99);
    Ok(())
}

struct SlotsTest {
    slots: Slots<[u64; 2]>,
    taken: Counter,
    adopted: Counter,
    torn: Counter,
}

/// Nobody is in a slot at the same time as another; every parked one is adopted once.
fn slots(queue: &Arc<Queue>) -> Result {
    let test = SlotsTest {
        slots: Slots::new(3, |_| Ok([0; 2]))?,
        taken: Counter::new()?,
        adopted: Counter::new()?,
        torn: Counter::new()?,
    };
    let test = Arc::new(test, GFP_KERNEL)?;
    let hammer = |test: &Arc<SlotsTest>| {
        let add = |pair: &mut [u64; 2]| {
            if pair[0] != pair[1] {
                test.torn.inc();
            }
            pair[0] += 1;
            pair[1] += 1;
        };
        for round in 0..1000 {
            let Some(mut slot) = test.slots.claim_any(round) else {
                continue;
            };
            test.taken.inc();
            add(&mut slot);
            let index = slot.into_index();
            // Somebody else may be quicker, but nobody can take it.
            if let Some(mut slot) = test.slots.adopt(index) {
                test.adopted.inc();
                add(&mut slot);
            }
            for other in 0..test.slots.len() {
                if let Some(mut slot) = test.slots.adopt(other) {
                    test.adopted.inc();
                    add(&mut slot);
                }
            }
        }
        Again::Now
    };
    everywhere(queue, &test, hammer, || {
        time::sleep_ms(500);
        Ok(())
    })?;
    check!(test.torn.sum() == 0);
    check!(test.taken.sum() > 0 && test.taken.sum() == test.adopted.sum());
    let mut sum = 0;
    for index in 0..3 {
        let slot = test.slots.take(index).ok_or(EPIPE)?;
        check!(test.slots.take(index).is_none() && test.slots.adopt(index).is_none());
        sum += slot[0];
    }
    check!(sum == 2 * test.taken.sum());
    check!(test.slots.take(3).is_none() && test.slots.claim_any(7).is_some());
    let mut none = Slots::new(0, |_| Ok(0))?;
    check!(none.claim_any(7).is_none() && none.get_mut(0).is_none());
    check!(Slots::new(3, |index| if index == 2 { Err(EDOM) } else { Ok(0) }).is_err());
    Ok(())
}

struct LeasesTest {
    leases: Leases<[u64; 2]>,
    shared: Counter,
    ended: Counter,
    torn: Counter,
}

/// What is shared is not changed; it ends once, when the last holder has gone; then it can be claimed again.
fn leases(queue: &Arc<Queue>) -> Result {
    let test = LeasesTest {
        leases: Leases::new(3, || [0; 2])?,
        shared: Counter::new()?,
        ended: Counter::new()?,
        torn: Counter::new()?,
    };
    let test = Arc::new(test, GFP_KERNEL)?;
    let hammer = |test: &Arc<LeasesTest>| {
        let add = |pair: &mut [u64; 2]| {
            if pair[0] != pair[1] {
                test.torn.inc();
            }
            pair[0] += 1;
            pair[1] += 1;
        };
        for round in 0..1000 {
            if let Some(mut claim) = test.leases.claim(round % 3) {
                add(&mut claim);
                test.shared.inc();
                claim.share(3);
            }
            for place in 0..test.leases.len() {
                if test.leases.with(place, |pair| pair[0] != pair[1]) == Some(true) {
                    test.torn.inc();
                }
                if let Some(mut claim) = test.leases.release(place, 1) {
                    add(&mut claim);
                    test.ended.inc();
                }
            }
        }
        Again::Now
    };
    everywhere(queue, &test, hammer, || {
        time::sleep_ms(500);
        Ok(())
    })?;
    for place in 0..3 {
        while !test.leases.is_free(place) {
            if test.leases.release(place, 1).is_some() {
                test.ended.inc();
            }
        }
    }
    check!(test.torn.sum() == 0);
    check!(test.shared.sum() > 0 && test.shared.sum() == test.ended.sum());

    let leases = Leases::new(1, || 7)?;
    check!(leases.len() == 1 && !leases.is_empty() && leases.is_free(0) && leases.is_free(1));
    check!(leases.claim(1).is_none() && !leases.hold(0, 1) && leases.release(0, 1).is_none());
    check!(leases.with(0, |value| *value).is_none());
    drop(leases.claim(0).ok_or(EPIPE)?);
    let mut claim = leases.claim(0).ok_or(EPIPE)?;
    check!(leases.claim(0).is_none() && !leases.hold(0, 1) && leases.release(0, 1).is_none());
    *claim = 9;
    claim.share(2);
    check!(leases.hold(0, 2) && !leases.is_free(0) && leases.with(0, |value| *value) == Some(9));
    check!(leases.release(0, 5).is_none() && leases.release(0, 0).is_none());
    check!(leases.release(0, 3).is_none());
    check!(!leases.hold(0, 0xffff) && !leases.hold(0, u32::MAX));
    // Not while it is read.
    check!(leases.with(0, |_| leases.release(0, 1).is_none()) == Some(true));
    check!(leases.release(0, 1).is_some_and(|claim| *claim == 9));
    check!(leases.is_free(0));
    Ok(())
}

fn park() -> Result {
    let park = Park::new();
    check!(park.is_empty() && park.take().is_none());
    check!(park.put(KBox::new(1, GFP_KERNEL)?).is_ok());
    check!(park
        .put(KBox::new(2, GFP_KERNEL)?)
        .is_err_and(|back| *back == 2));
    check!(park
        .swap(KBox::new(3, GFP_KERNEL)?)
        .is_some_and(|out| *out == 1));
    check!(park.take().is_some_and(|out| *out == 3));
    let counted = Arc::new((), GFP_KERNEL)?;
    let parked = Park::new();
    check!(parked.put(counted.clone()).is_ok());
    drop(parked);
    check!(Arc::into_unique_or_drop(counted).is_some());
    Ok(())
}

/// Jobs run when they should, and never after they were dropped.
fn work(queue: &Arc<Queue>) -> Result {
    let count = Arc::new(Counter::new()?, GFP_KERNEL)?;
    let tick = |count: &Arc<Counter>| {
        count.inc();
        Again::After(5)
    };
    let job = Job::new(queue, count.clone(), tick)?;
    check!(job.queue());
    time::sleep_ms(300);
    drop(job);
    let ticks = count.sum();
    check!((5..=75).contains(&ticks));
    time::sleep_ms(50);
    check!(count.sum() == ticks);

    let once = |count: &Arc<Counter>| {
        count.inc();
        Again::No
    };
    let job = Job::new(queue, count.clone(), once)?;
    check!(job.after(60_000) && !job.after(1) && !job.queue());
    check!(job.cancel() && !job.cancel());
    check!(job.after(60_000));
    job.flush();
    check!(count.sum() == ticks + 1);
    check!(job.after(60_000));
    job.rearm(10);
    time::sleep_ms(200);
    check!(count.sum() == ticks + 2 && !job.cancel());
    check!(job.after(60_000));
    job.cancel_wait();
    check!(job.queue());
    drop(job);
    check!(count.sum() <= ticks + 3);

    // A queue that goes waits for what is on it.
    let own = Queue::new(
        c"rmr-selftest2",
        Flags::PERCPU | Flags::MEM_RECLAIM | Flags::HIGHPRI,
    )?;
    let before = count.sum();
    let counted = count.clone();
    own.spawn(
        move || {
            time::sleep_ms(50);
            counted.inc();
        },
        GFP_KERNEL,
    )?;
    drop(own);
    check!(count.sum() == before + 1);
    let counted = count.clone();
    queue.spawn(move || counted.inc(), GFP_KERNEL)?;
    queue.flush();
    check!(count.sum() == before + 2);
    Ok(())
}

#[pin_data]
struct SelfDrop {
    #[pin]
    job: Mutex<Option<Job<SelfDrop>>>,
    _last: CountDrop,
}

struct CountDrop(Arc<Counter>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.inc();
    }
}

/// A job that is dropped by its own run ends with it, and frees what it owns.
fn self_drop(queue: &Arc<Queue>) -> Result {
    let freed = Arc::new(Counter::new()?, GFP_KERNEL)?;
    for round in 0..100 {
        let last = CountDrop(freed.clone());
        let owner = Arc::pin_init(
            pin_init!(SelfDrop {
                job <- new_mutex!(None),
                _last: last,
            }),
            GFP_KERNEL,
        )?;
        let end = |owner: &Arc<SelfDrop>| {
            let job = owner.job.lock().take();
            // Pending once more while it runs.
            if let Some(job) = &job {
                job.after(1);
            }
            drop(job);
            Again::Now
        };
        let job = Job::new(queue, owner.clone(), end)?;
        let mut place = owner.job.lock();
        check!(job.queue());
        *place = Some(job);
        drop(place);
        drop(owner);
        let mut left = 1000;
        while freed.sum() <= round && left > 0 {
            time::sleep_ms(1);
            left -= 1;
        }
        check!(freed.sum() == round + 1);
    }
    Ok(())
}

#[pin_data]
struct WaitTest {
    #[pin]
    event: Event,
    #[pin]
    queue: WaitQueue,
    number: Atomic<u32>,
}

fn wait(queue: &Arc<Queue>) -> Result {
    let test = Arc::pin_init(
        pin_init!(WaitTest {
            event <- Event::new(),
            queue <- WaitQueue::new(),
            number: Atomic::new(0),
        }),
        GFP_KERNEL,
    )?;
    check!(test.event.wait_timeout(20) == Err(ETIMEDOUT));
    check!(test.event.wait_killable_timeout(20) == Err(ETIMEDOUT));
    check!(!test.event.is_set());
    let setter = test.clone();
    queue.spawn(
        move || {
            time::sleep_ms(50);
            setter.event.set();
            for _ in 0..5 {
                time::sleep_ms(10);
                setter.number.fetch_add(1, Relaxed);
                setter.queue.wake_all();
            }
        },
        GFP_KERNEL,
    )?;
    check!(test.event.wait_killable().is_ok());
    test.event.wait();
    check!(test.event.wait_timeout(0).is_ok() && test.event.is_set());
    let number = &test.number;
    let is = |least| move || number.load(Relaxed) >= least;
    test.queue.wait_until(is(1));
    check!(test.queue.wait_until_timeout(5000, is(3)).is_ok());
    check!(test.queue.wait_until_killable(5000, is(5)).is_ok());
    check!(test.queue.wait_until_timeout(20, is(6)) == Err(ETIMEDOUT));
    check!(test.queue.wait_until_timeout(0, is(5)).is_ok());
    test.event.reset();
    check!(!test.event.is_set() && test.event.wait_timeout(1) == Err(ETIMEDOUT));
    Ok(())
}

#[pin_data]
struct LockTest {
    #[pin]
    one: IrqLock<u64>,
    many: IrqLocks<u64>,
    rounds: Counter,
}

/// Locks exclude, nest, and leave interrupts as they were.
fn lock(queue: &Arc<Queue>) -> Result {
    let test = Arc::pin_init(
        try_pin_init!(LockTest {
            one <- rmr_sys::new_irq_lock!(0),
            many: rmr_sys::new_irq_locks!(8, |place| place as u64)?,
            rounds: Counter::new()?,
        }? Error),
        GFP_KERNEL,
    )?;
    check!(test.many.len() == 8);
    for (place, lock) in test.many.iter().enumerate() {
        check!(lock.with(|value| *value == place as u64));
    }
    let hammer = |test: &Arc<LockTest>| {
        for round in 0..1000 {
            test.rounds.inc();
            test.one.with(|value| *value += 1);
            let [first, second] = [round % 7, round % 7 + 1];
            test.many[first].with(|low| {
                test.many[second].with(|high| {
                    *low += 1;
                    *high += 1;
                });
            });
        }
        Again::Now
    };
    everywhere(queue, &test, hammer, || {
        time::sleep_ms(300);
        Ok(())
    })?;
    let rounds = test.rounds.sum();
    check!(rounds > 0 && test.one.with(|value| *value) == rounds);
    let sum: u64 = test.many.iter().map(|lock| lock.with(|value| *value)).sum();
    check!(sum == 28 + 2 * rounds);
    Ok(())
}

fn per_cpu(queue: &Arc<Queue>) -> Result {
    let test = (
        PerCpu::new(|cpu| Ok(Atomic::new(u64::from(cpu))))?,
        Counters::<3>::new()?,
    );
    check!(test.0.len() == percpu::cpus() as usize && test.0.get(percpu::cpus()).is_none());
    for (cpu, value) in (0..).zip(test.0.iter()) {
        check!(value.xchg(0, Full) == cpu);
    }
    let test = Arc::new(test, GFP_KERNEL)?;
    let hammer = |test: &Arc<(PerCpu<Atomic<u64>>, Counters<3>)>| {
        for _ in 0..1000 {
            test.0.this().fetch_add(1, Relaxed);
            test.1.add(0, 1);
            test.1.add(2, 3);
            test.1.add(3, 1);
        }
        Again::Now
    };
    everywhere(queue, &test, hammer, || {
        time::sleep_ms(200);
        Ok(())
    })?;
    let sum: u64 = test.0.iter().map(|value| value.load(Relaxed)).sum();
    check!(sum > 0 && test.1.sum(0) == sum && test.1.sum(1) == 0 && test.1.sum(2) == 3 * sum);
    check!(test.1.sum(3) == 0);
    test.1.reset();
    check!(test.1.sum(0) == 0);
    Ok(())
}

/// A test case of RFC 4231, and what it is compared by.
fn hmac() -> Result {
    let mac = HmacKey::new(b"Jefe")?.mac(b"what do ya want for nothing?");
    let right = [
        0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75,
        0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27, 0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec,
        0x38, 0x43,
    ];
    check!(mac == right);
    check!(HmacKey::same(&mac, &right));
    for at in 0..mac.len() {
        let mut wrong = right;
        wrong[at] ^= 0x80;
        check!(!HmacKey::same(&mac, &wrong));
    }
    Ok(())
}

/// Keys that tests/vm/sys.sh has made: `rmr-selftest:logon`, `:user` and `:both`, with their type as payload; `:revoked`.
fn keyring() -> Result {
    let reads = |name: &CStr, right: &[u8]| key::with_payload(name, |payload| payload == right);
    check!(reads(c"rmr-selftest:logon", b"logon") == Ok(true));
    check!(reads(c"rmr-selftest:user", b"user") == Ok(true));
    check!(reads(c"rmr-selftest:both", b"logon") == Ok(true));
    check!(reads(c"rmr-selftest:absent", b"") == Err(Error::from_errno(-126)));
    check!(reads(c"rmr-selftest:revoked", b"") == Err(Error::from_errno(-128)));
    Ok(())
}

fn small() -> Result {
    check!(rmr_proto::crc_is_right::<KernelCrc>());
    check!(rand::u64() != rand::u64() && rand::nonce() != 0 && rand::uuid() != rand::uuid());
    let (ns, ms, coarse) = (time::now_ns(), time::now_ms(), time::coarse_ms());
    time::sleep_ms(50);
    check!(time::now_ns() - ns >= 50_000_000 && time::now_ms() - ms >= 49);
    check!((40..5000).contains(&(time::coarse_ms() - coarse)));
    check!(time::ms_to_jiffies(0) == 0 && time::ms_to_jiffies(1) == 1);
    for round in 0..100 {
        rmr_sys::pr_info_limited!("limited message {}\n", round);
    }
    Ok(())
}
