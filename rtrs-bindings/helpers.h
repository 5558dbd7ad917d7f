/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel that the crate rtrs needs.
 * Prototypes only; the bodies are in helpers.c.
 */
#ifndef RTRS_RS_HELPERS_H
#define RTRS_RS_HELPERS_H

#include <linux/completion.h>
#include <linux/percpu-refcount.h>
#include <linux/scatterlist.h>
#include <linux/socket.h>
#include <linux/types.h>
#include <rtrs.h>

/*
 * Admits users until it is shut; shutting waits for those inside. Entering and
 * leaving touch only memory of this CPU while the gate is open.
 */
struct rtrs_rs_gate {
	struct percpu_ref users;
	struct completion empty;
};

int rtrs_rs_gate_init(struct rtrs_rs_gate *gate);
void rtrs_rs_gate_free(struct rtrs_rs_gate *gate);
bool rtrs_rs_gate_enter(struct rtrs_rs_gate *gate);
void rtrs_rs_gate_leave(struct rtrs_rs_gate *gate);
void rtrs_rs_gate_shut(struct rtrs_rs_gate *gate);

int rtrs_rs_request(int dir, struct rtrs_clt_req_ops *ops,
		    struct rtrs_clt_sess *sess, struct rtrs_permit *permit,
		    const void *header, size_t header_len, size_t data_len,
		    struct scatterlist *sg, unsigned int sg_cnt);

void rtrs_rs_close(struct rtrs_clt_sess *sess);

void rtrs_rs_meet(const struct sockaddr_storage *src,
		  const struct sockaddr_storage *dst);

void rtrs_rs_sg_buffer(struct scatterlist *sg, const void *memory,
		       unsigned int len);

void rtrs_rs_bh_disable(void);
void rtrs_rs_bh_enable(void);
bool rtrs_rs_may_sleep(void);
void rtrs_rs_pin_module(void);

#endif
