// SPDX-License-Identifier: GPL-2.0

//! Makes a failing run smaller: fewer requests, fewer kinds of faults, fewer faults, as long as the same rule is
//! broken.

use crate::plan::Cut;
use crate::plan::Plan;
use crate::run::run;
use crate::run::Options;

/// The smallest cut that was found with at most `tries` runs.
pub fn shrink(seed: u64, cut: &Cut, options: &Options, tries: u32) -> Cut {
    let options = &Options {
        trace: false,
        ..options.clone()
    };
    let Some(rule) = run(seed, cut, options).rule().map(str::to_owned) else {
        return cut.clone();
    };
    let mut search = Search {
        seed,
        options,
        rule,
        left: tries,
        best: cut.clone(),
    };
    search.kinds();
    search.faults();
    search.ops();
    search.faults();
    search.best
}

struct Search<'a> {
    seed: u64,
    options: &'a Options,
    rule: String,
    left: u32,
    best: Cut,
}

impl Search<'_> {
    /// Takes this cut if it fails in the same way.
    fn take(&mut self, cut: Cut) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let same = run(self.seed, &cut, self.options).rule() == Some(&self.rule);
        if same {
            self.best = cut;
        }
        same
    }

    fn plan(&self) -> Plan {
        Plan::draw(self.seed, self.options.allowed, &self.best)
    }

    fn kinds(&mut self) {
        for kind in self.plan().kinds.iter() {
            let mut cut = self.best.clone();
            cut.without = cut.without.with(kind);
            self.take(cut);
        }
    }

    /// Leaves out halves, quarters, and so on of the faults.
    fn faults(&mut self) {
        let mut size = self.plan().faults.len().div_ceil(2);
        while size > 0 {
            let places: Vec<usize> = self.plan().faults.iter().map(|fault| fault.place).collect();
            for part in places.chunks(size) {
                let mut cut = self.best.clone();
                cut.faults.extend(part);
                self.take(cut);
            }
            if size == 1 {
                break;
            }
            size = size.div_ceil(2);
        }
    }

    fn ops(&mut self) {
        let mut most = self.plan().work.ops;
        let mut step = most / 2;
        while step > 0 {
            let mut cut = self.best.clone();
            cut.ops = Some(most - step);
            if self.take(cut) {
                most -= step;
            }
            step /= 2;
        }
    }
}
