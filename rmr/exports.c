// SPDX-License-Identifier: GPL-2.0
/*
 * The functions of rmr.ko that other modules of this project call; the list is made from what they leave
 * undefined. For the linker a name is enough: the declaration's type means nothing.
 */
#include <linux/export.h>

#define RMR_EXPORT(symbol) extern int symbol; EXPORT_SYMBOL_GPL(symbol)

#include "rmr_exports.h"
