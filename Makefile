# SPDX-License-Identifier: GPL-2.0
#
# Everything happens in a Debian 13 root in the cache ($RMR_CACHE, ~/.cache/rmr), which is made on first use;
# the checkout stays clean. KERNEL= selects the kernel: 7.2, 7.3, an exact release, debug, or empty for the newest.

export KERNEL TESTS SHORT_TESTS
# A variable that means something else to bash.
unexport SECONDS
MAKEFLAGS += --no-print-directory

.PHONY: help
help:
	@echo 'make demo       a replicated /dev/brmr0 on three virtual machines, from nothing to compared disks'
	@echo 'make shell      the same machines, with a prompt, to play with'
	@echo 'make check      everything that needs no virtual machine: format, lint, host tests, both kernels compile'
	@echo 'make test       make check, sim, model and planted, then virtual machines; a short set of them on the other kernel'
	@echo '                (TESTS="io flush" selects those of tests/vm)'
	@echo 'make sim        whole pools in virtual time, with faults: SEEDS=2000 of them, or SEED=n with a trace (SIM=--help)'
	@echo 'make planted    bugs planted in the engine, each of which the simulator has to find (PLANTED="--plant NAME")'
	@echo 'make coverage   what runs of the simulator do not reach in the engine, without a reason (SEEDS=1000)'
	@echo 'make model      every order of events in tiny pools, with few faults (MODEL=--help)'
	@echo 'make chaos      random faults on five virtual machines under load, for MINUTES=10; SEED=n has the same ones again'
	@echo 'make bench      brmr beside RNBD, md over RNBD and md over NVMe/RDMA (BENCH="--rounds 3": see BENCH=--help)'
	@echo 'make bench-recovery'
	@echo '                brmr without a node, when one dies, comes back and catches up (BENCH as above)'
	@echo 'make fuzz       feed the parsers with noise, each for SECONDS=60 (FUZZ="batch reply" selects)'
	@echo 'make mutants    change the sources of engine and proto, and see which changes no test notices (MUTANTS=--help)'
	@echo 'make modules    build rmr.ko and brmr.ko (CLIPPY=1: lint; KRUSTFLAGS=-Dwarnings: no warnings)'
	@echo 'make format     format the Rust sources'
	@echo 'make kernel     get the kernel and what is needed to build modules for it'
	@echo 'make root       make the Debian 13 root in which everything is built'
	@echo 'make clean      remove what was built from this checkout'
	@echo 'make distclean  remove the whole cache, root and kernels included'
	@echo 'KERNEL=7.2, 7.3, an exact release or debug (KASAN, lockdep ...) selects the kernel, RMR_CACHE=DIR the cache'

.PHONY: demo
demo:
	@scripts/demo.sh

.PHONY: shell
shell:
	@scripts/shell.sh

.PHONY: check
check:
	@scripts/check.sh

.PHONY: test
test:
	@scripts/test.sh

.PHONY: bench
bench:
	@scripts/bench.sh $(BENCH)

.PHONY: bench-recovery
bench-recovery:
	@scripts/enter scripts/bench_recovery.py $(BENCH)

.PHONY: fuzz
fuzz:
	@scripts/fuzz.sh $(or $(SECONDS),60) $(FUZZ)

.PHONY: mutants
mutants:
	@scripts/enter scripts/mutants.py $(MUTANTS)

.PHONY: sim
sim:
	@# What a run frees is for the next one: given back to the kernel, it would come with zeroes again.
	@scripts/enter env MIMALLOC_PURGE_DELAY=-1 \
		cargo run --quiet --locked --profile $(if $(SEED),release,fast) -p rmr-sim --bin sim -- \
		$(if $(SEED),--seed $(SEED) --trace,--seeds $(or $(SEEDS),2000)) $(SIM)

.PHONY: chaos
chaos:
	@RMR_CHAOS_MINUTES=$(MINUTES) RMR_CHAOS_SEED=$(SEED) tests/chaos.sh

.PHONY: coverage
coverage:
	@scripts/coverage.sh $(or $(SEEDS),1000)

.PHONY: model
model:
	@scripts/enter cargo run --quiet --locked --profile fast -p rmr-model --bin model -- $(MODEL)

.PHONY: planted
planted:
	@scripts/planted.sh $(PLANTED)

.PHONY: modules
modules:
	@scripts/modules.sh

.PHONY: format
format:
	@scripts/format.sh

.PHONY: kernel
kernel:
	@scripts/kernel.sh

.PHONY: root
root:
	@scripts/root.sh

.PHONY: clean
clean:
	@scripts/clean.sh

.PHONY: distclean
distclean:
	@scripts/clean.sh --all
