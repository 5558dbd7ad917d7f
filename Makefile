# SPDX-License-Identifier: GPL-2.0
#
# Everything happens in a Debian 13 root in the cache ($RMR_CACHE, ~/.cache/rmr), which is made on first use;
# the checkout stays clean. KERNEL= selects the kernel: 7.2, 7.3, an exact release, or empty for the newest.

export KERNEL
MAKEFLAGS += --no-print-directory

.PHONY: help
help:
	@echo 'make modules    build rmr.ko and brmr.ko (CLIPPY=1: lint; KRUSTFLAGS=-Dwarnings: no warnings)'
	@echo 'make kernel     get the kernel and what is needed to build modules for it'
	@echo 'make root       make the Debian 13 root in which everything is built'
	@echo 'make clean      remove what was built from this checkout'
	@echo 'make distclean  remove the whole cache, root and kernels included'
	@echo 'KERNEL=7.2, KERNEL=7.3 or an exact release selects the kernel, RMR_CACHE=DIR the cache'

.PHONY: modules
modules:
	@scripts/modules.sh

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
