// SPDX-License-Identifier: GPL-2.0
/*
 * What module! has no key for. One module serves the client and the server side; the names of the two sides
 * load it.
 */
#include <linux/module.h>

MODULE_ALIAS("brmr-client");
MODULE_ALIAS("brmr-server");
