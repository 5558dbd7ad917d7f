/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What bindgen reads for rmr_sys: the helpers. Types that the kernel crate has
 * are taken from kernel::bindings, see the Kbuild rule.
 */
#include "helpers.h"
