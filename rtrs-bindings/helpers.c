// SPDX-License-Identifier: GPL-2.0
/*
 * What the crate rtrs needs of the kernel and cannot call itself: inline
 * functions, macros, and the few calls that must be made under a condition
 * (bottom halves off) that is cheapest to state here.
 */
#include <linux/bottom_half.h>
#include <linux/export.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include "helpers.h"

/* Not an interface: for rtrs_rs_close() only. From the same source as the RTRS modules. */
#include <rtrs-clt.h>

static void rtrs_rs_gate_emptied(struct percpu_ref *users)
{
	complete(&container_of(users, struct rtrs_rs_gate, users)->empty);
}

/* Opens the gate. May sleep. */
int rtrs_rs_gate_init(struct rtrs_rs_gate *gate)
{
	init_completion(&gate->empty);
	return percpu_ref_init(&gate->users, rtrs_rs_gate_emptied, 0, GFP_KERNEL);
}

/* Nobody may be inside. A gate that was freed stays shut. */
void rtrs_rs_gate_free(struct rtrs_rs_gate *gate)
{
	percpu_ref_exit(&gate->users);
}

/* False once the gate is shut. */
bool rtrs_rs_gate_enter(struct rtrs_rs_gate *gate)
{
	return percpu_ref_tryget_live(&gate->users);
}

void rtrs_rs_gate_leave(struct rtrs_rs_gate *gate)
{
	percpu_ref_put(&gate->users);
}

/* Once per gate. Sleeps until everybody has left. */
void rtrs_rs_gate_shut(struct rtrs_rs_gate *gate)
{
	percpu_ref_kill(&gate->users);
	wait_for_completion(&gate->empty);
}

/*
 * rtrs_clt_request() keeps the paths it has tried on a list whose entries are
 * per CPU, guarded by nothing but RCU. Whoever preempts it on the same CPU finds
 * its only path "tried already" and is told -ECONNABORTED. With bottom halves
 * off neither a task nor a softirq can get in between.
 */
int rtrs_rs_request(int dir, struct rtrs_clt_req_ops *ops,
		    struct rtrs_clt_sess *sess, struct rtrs_permit *permit,
		    const void *header, size_t header_len, size_t data_len,
		    struct scatterlist *sg, unsigned int sg_cnt)
{
	struct kvec vec = {
		.iov_base = (void *)header,
		.iov_len = header_len,
	};
	int err;

	local_bh_disable();
	err = rtrs_clt_request(dir, ops, sess, permit, &vec, 1, data_len, sg,
			       sg_cnt);
	local_bh_enable();
	return err;
}

/*
 * rtrs_clt_close() closes path after path and frees each, but leaves it on the
 * list of paths. A request that is in flight on a later path is then offered to
 * the earlier ones, which are gone. So they are kept until all is over. They are
 * closed by then, and nobody looks at more of them than that.
 *
 * A path that somebody adds through sysfs right now is not kept; that matters
 * only if somebody adds two.
 */
void rtrs_rs_close(struct rtrs_clt_sess *sess)
{
	struct rtrs_clt_path *path;
	struct kobject **kept;
	unsigned int i, count = 0;

	kept = kcalloc(MAX_PATHS_NUM, sizeof(*kept), GFP_KERNEL | __GFP_NOFAIL);
	mutex_lock(&sess->paths_mutex);
	list_for_each_entry(path, &sess->paths_list, s.entry)
		if (count < MAX_PATHS_NUM && path->kobj.state_initialized)
			kept[count++] = kobject_get(&path->kobj);
	mutex_unlock(&sess->paths_mutex);

	rtrs_clt_close(sess);

	for (i = 0; i < count; i++)
		kobject_put(kept[i]);
	kfree(kept);
}

static int rtrs_rs_resolved(struct rdma_cm_id *id, struct rdma_cm_event *event)
{
	complete(id->context);
	return 0;
}

/*
 * Makes the neighbour that a path leads to known, if there is one; @src may be
 * NULL. Sleeps, at most two seconds.
 *
 * rdma_resolve_addr() asks for the neighbour first and then begins to listen. An
 * answer that comes in between is missed, and it looks again only when its time
 * is up: 30 s for RTRS, which gives up at the same moment. After this there is
 * nothing to ask for. What is wrong, if anything, RTRS finds again and reports.
 */
void rtrs_rs_meet(const struct sockaddr_storage *src,
		  const struct sockaddr_storage *dst)
{
	DECLARE_COMPLETION_ONSTACK(done);
	struct rdma_cm_id *id;

	id = rdma_create_id(&init_net, rtrs_rs_resolved, &done,
			    dst->ss_family == AF_IB ? RDMA_PS_IB : RDMA_PS_TCP,
			    IB_QPT_RC);
	if (IS_ERR(id))
		return;
	if (!rdma_resolve_addr(id, (struct sockaddr *)src,
			       (const struct sockaddr *)dst, 2000))
		wait_for_completion_killable(&done);
	/* No event comes after that. */
	rdma_destroy_id(id);
}

/* Makes @sg an entry for @len bytes of kmalloc()ed memory. */
void rtrs_rs_sg_buffer(struct scatterlist *sg, const void *memory,
		       unsigned int len)
{
	sg_init_one(sg, memory, len);
}

void rtrs_rs_bh_disable(void)
{
	local_bh_disable();
}

void rtrs_rs_bh_enable(void)
{
	local_bh_enable();
}

bool rtrs_rs_may_sleep(void)
{
	return preemptible();
}

/* For good: the module can no longer be unloaded. */
void rtrs_rs_pin_module(void)
{
	__module_get(THIS_MODULE);
}
