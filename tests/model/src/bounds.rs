// SPDX-License-Identifier: GPL-2.0

//! What is tried: the size of the pool, its requests, and how many faults.

use rmr_sim::faults::Kinds;
use rmr_sim::plan::Plan;
use rmr_sim::plan::Rates;
use rmr_sim::plan::Work;
use rmr_sim::plan::MS;
use rmr_sim::plan::US;
use rmr_sim::workload::Request;
use rmr_sim::workload::What;
use std::fmt;

/// Binary logarithm of the bytes of a chunk: two blocks, so that a chunk can be valid in part.
const CHUNK_SHIFT: u8 = 13;
/// Sectors of a request: one block of 4 KiB.
const COUNT: u64 = 8;

/// How often each kind of fault, and of step that is not bounded by itself, may be chosen in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Faults of all kinds.
    pub faults: u8,
    /// Members that lose power with their disks' caches.
    pub power: u8,
    /// Members that crash; their disks stay.
    pub crashes: u8,
    /// Clients that crash.
    pub client_crashes: u8,
    /// Openings of the device, with takeover, each on another host.
    pub clients: u8,
    /// Sessions of a client with a member that break.
    pub breaks: u8,
    /// Sessions of a member with another that break.
    pub peer_breaks: u8,
    /// Copies of messages that arrive after their session broke.
    pub late: u8,
    /// Timers that fire while something else could happen: something hangs for longer than that.
    pub early: u8,
    /// Timers that fire in all. Then the run goes on in the order of time.
    pub timers: u8,
}

impl Budget {
    /// One client, nothing fails.
    pub const CALM: Budget = Budget {
        faults: 0,
        power: 0,
        crashes: 0,
        client_crashes: 0,
        clients: 1,
        breaks: 0,
        peer_breaks: 0,
        late: 0,
        early: 0,
        timers: 4,
    };
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Its name.
    pub name: &'static str,
    /// Members of the pool.
    pub members: u8,
    /// Begins with a pool that has a client and is in sync; otherwise with empty stores.
    pub serving: bool,
    /// Disks have volatile caches.
    pub volatile: bool,
    /// Requests in their order: what, and on which chunk.
    pub requests: Vec<(What, u64)>,
    /// Requests at once.
    pub threads: u32,
    /// Writes of metadata take time; otherwise they are done at once.
    pub slow_metadata: bool,
    /// Faults and the like.
    pub budget: Budget,
}

impl Bounds {
    /// The plan of such a world.
    pub fn plan(&self) -> Plan {
        Plan {
            seed: 0,
            members: self.members,
            quorum: false,
            size: 2 << CHUNK_SHIFT,
            chunk_shift: CHUNK_SHIFT,
            log_extents: 4,
            volatile: vec![self.volatile; 8],
            io_timeout: 100 * MS,
            fail_without_data: false,
            latency: 10 * US,
            access: 10 * US,
            heartbeat: 500 * MS,
            work: Work {
                depth: self.threads,
                ..Work::default()
            },
            rates: Rates::default(),
            faults: Vec::new(),
            heal: 0,
            kinds: Kinds::NONE,
        }
    }

    /// The requests, numbered.
    pub fn requests(&self) -> impl Iterator<Item = Request> + '_ {
        (1..).zip(&self.requests).map(|(op, &(what, chunk))| {
            let is_flush = what == What::Flush;
            Request {
                op,
                what,
                sector: if is_flush {
                    0
                } else {
                    chunk << (CHUNK_SHIFT - 9)
                },
                count: if is_flush { 0 } else { COUNT },
            }
        })
    }
}

impl Budget {
    /// Changes one of them, by its name.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn set(&mut self, name: &str, count: u8) -> Result<(), String> {
        let budget = match name {
            "faults" => &mut self.faults,
            "power" => &mut self.power,
            "crashes" => &mut self.crashes,
            "client-crashes" => &mut self.client_crashes,
            "clients" => &mut self.clients,
            "breaks" => &mut self.breaks,
            "peer-breaks" => &mut self.peer_breaks,
            "late" => &mut self.late,
            "early" => &mut self.early,
            "timers" => &mut self.timers,
            other => return Err(format!("no budget of {other}")),
        };
        *budget = count;
        Ok(())
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = if self.serving { "in sync" } else { "empty" };
        write!(
            f,
            "{} members, {begin}; {} at once of",
            self.members, self.threads
        )?;
        for (what, chunk) in &self.requests {
            match what {
                What::Flush => write!(f, " flush")?,
                What::Read => write!(f, " read({chunk})")?,
                What::Write(_) | What::Zeroes(_) => write!(f, " write({chunk})")?,
            }
        }
        let Budget {
            faults,
            power,
            crashes,
            client_crashes,
            clients,
            breaks,
            peer_breaks,
            late,
            early,
            timers,
        } = self.budget;
        write!(f, "; clients {clients}, timers {timers}, faults {faults}")?;
        let budgets = [
            ("power", power),
            ("crashes", crashes),
            ("client crashes", client_crashes),
            ("breaks", breaks),
            ("breaks between members", peer_breaks),
            ("late messages", late),
            ("early timers", early),
        ];
        for (name, budget) in budgets {
            if budget > 0 {
                write!(f, ", {name} {budget}")?;
            }
        }
        if self.slow_metadata {
            write!(f, ", slow metadata")?;
        }
        Ok(())
    }
}

/// All that has a name: those that are tried each time, then those that take long.
pub fn all() -> Vec<Bounds> {
    [short(), long()].concat()
}

/// One request at a time, of a pool in sync.
const SMALL: Bounds = Bounds {
    name: "",
    members: 2,
    serving: true,
    volatile: true,
    requests: Vec::new(),
    threads: 1,
    slow_metadata: false,
    budget: Budget::CALM,
};
const WRITE: What = What::Write(false);

/// Those that are tried each time.
pub fn short() -> Vec<Bounds> {
    use What::Flush;
    use What::Read;
    vec![
        Bounds {
            name: "attach",
            serving: false,
            slow_metadata: true,
            requests: vec![(WRITE, 0)],
            ..SMALL
        },
        Bounds {
            name: "writes",
            slow_metadata: true,
            requests: vec![(WRITE, 0), (WRITE, 1), (Flush, 0)],
            threads: 2,
            ..SMALL
        },
        Bounds {
            name: "break",
            requests: vec![(WRITE, 0), (WRITE, 0), (Read, 0)],
            budget: Budget {
                faults: 1,
                breaks: 1,
                late: 1,
                timers: 6,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "takeover",
            requests: vec![(WRITE, 0), (Read, 0), (WRITE, 1)],
            budget: Budget {
                clients: 2,
                late: 1,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "power",
            requests: vec![(WRITE, 0), (Flush, 0), (WRITE, 1)],
            budget: Budget {
                faults: 1,
                power: 1,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "heir",
            requests: vec![(WRITE, 0)],
            budget: Budget {
                faults: 2,
                client_crashes: 1,
                power: 1,
                clients: 2,
                timers: 0,
                ..Budget::CALM
            },
            ..SMALL
        },
    ]
}

fn long() -> Vec<Bounds> {
    use What::Flush;
    vec![
        Bounds {
            name: "race",
            serving: false,
            slow_metadata: true,
            requests: vec![(WRITE, 0)],
            budget: Budget {
                clients: 2,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "heirs",
            requests: vec![(WRITE, 0), (WRITE, 1)],
            threads: 2,
            budget: Budget {
                faults: 2,
                client_crashes: 1,
                power: 1,
                clients: 2,
                timers: 1,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "late-heir",
            requests: vec![(WRITE, 0), (WRITE, 1)],
            threads: 2,
            budget: Budget {
                faults: 2,
                client_crashes: 1,
                breaks: 1,
                clients: 2,
                late: 1,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "twice",
            requests: vec![(WRITE, 0), (Flush, 0)],
            budget: Budget {
                faults: 2,
                power: 2,
                timers: 6,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "slow-power",
            requests: vec![(WRITE, 0), (WRITE, 1)],
            threads: 2,
            slow_metadata: true,
            budget: Budget {
                faults: 1,
                power: 1,
                ..Budget::CALM
            },
            ..SMALL
        },
        Bounds {
            name: "flap",
            requests: vec![(WRITE, 0), (WRITE, 0)],
            budget: Budget {
                faults: 2,
                breaks: 2,
                peer_breaks: 1,
                late: 1,
                early: 1,
                timers: 6,
                ..Budget::CALM
            },
            ..SMALL
        },
    ]
}

/// The bounds of this name.
pub fn named(name: &str) -> Option<Bounds> {
    all().into_iter().find(|bounds| bounds.name == name)
}
