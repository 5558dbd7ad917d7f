/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads for the crate rtrs: the public RTRS interface and helpers.c.
 * Types that the kernel crate has (scatterlist, kvec, percpu_ref, completion) are
 * taken from kernel::bindings, see the Kbuild rule.
 */
#include "helpers.h"
