// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions and macros of the kernel for the crate rmr_sys. No decisions
 * are made here; what each is for is told in the .rs file of its section.
 */
#include <crypto/sha2.h>
#include <crypto/utils.h>
#include <keys/user-type.h>
#include <linux/atomic.h>
#include <linux/bottom_half.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/device.h>
#include <linux/device/class.h>
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kernfs.h>
#include <linux/key.h>
#include <linux/kobject.h>
#include <linux/percpu.h>
#include <linux/percpu-refcount.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "helpers.h"

/* -- sysfs.rs -- */

static ssize_t kobj_show(struct kobject *kobj, struct kobj_attribute *attr,
			 char *page)
{
	struct rmr_sys_file *file =
		container_of(attr, struct rmr_sys_file, attribute.kobj);

	return file->show(file, page);
}

static ssize_t kobj_store(struct kobject *kobj, struct kobj_attribute *attr,
			  const char *input, size_t len)
{
	struct rmr_sys_file *file =
		container_of(attr, struct rmr_sys_file, attribute.kobj);

	return file->store(file, kobj, input, len);
}

static ssize_t dev_show(struct device *dev, struct device_attribute *attr,
			char *page)
{
	struct rmr_sys_file *file =
		container_of(attr, struct rmr_sys_file, attribute.dev);

	return file->show(file, page);
}

static ssize_t dev_store(struct device *dev, struct device_attribute *attr,
			 const char *input, size_t len)
{
	struct rmr_sys_file *file =
		container_of(attr, struct rmr_sys_file, attribute.dev);

	return file->store(file, &dev->kobj, input, len);
}

void rmr_sys_file_init(struct rmr_sys_file *file, const char *name, u16 mode,
		       bool of_device, struct lock_class_key *key)
{
	struct attribute *attr;

	/* Rust hands out pointers to the file as pointers to its attribute. */
	static_assert(offsetof(struct rmr_sys_file, attribute.kobj.attr) == 0);
	static_assert(offsetof(struct rmr_sys_file, attribute.dev.attr) == 0);

	memset(&file->attribute, 0, sizeof(file->attribute));
	if (of_device) {
		file->attribute.dev.show = dev_show;
		file->attribute.dev.store = dev_store;
		attr = &file->attribute.dev.attr;
	} else {
		file->attribute.kobj.show = kobj_show;
		file->attribute.kobj.store = kobj_store;
		attr = &file->attribute.kobj.attr;
	}
	attr->name = name;
	attr->mode = mode;
#ifdef CONFIG_DEBUG_LOCK_ALLOC
	attr->key = key;
#endif
}

void rmr_sys_group_init(struct rmr_sys_group *group, struct attribute **attrs)
{
	memset(group, 0, sizeof(*group));
	group->group.attrs = attrs;
	group->list[0] = &group->group;
}

struct device *rmr_sys_device_dir(const struct class *class, const char *name,
				  struct rmr_sys_group *group)
{
	struct device *same = class_find_device_by_name(class, name);

	/* The driver core would refuse it as well, with a stack trace. */
	if (same) {
		put_device(same);
		return ERR_PTR(-EEXIST);
	}
	return device_create_with_groups(class, NULL, 0, NULL, group->list,
					 "%s", name);
}

struct kobject *rmr_sys_plain_dir(struct kobject *parent, const char *name,
				  struct rmr_sys_group *group)
{
	struct kernfs_node *same;
	struct kobject *dir;
	int err;

	if (!parent->sd)
		return ERR_PTR(-ENOENT);
	/* sysfs would refuse it as well, with a stack trace. */
	same = kernfs_find_and_get(parent->sd, name);
	if (same) {
		kernfs_put(same);
		return ERR_PTR(-EEXIST);
	}
	dir = kobject_create_and_add(name, parent);
	if (!dir)
		return ERR_PTR(-ENOMEM);
	err = sysfs_create_group(dir, &group->group);
	if (err) {
		kobject_del(dir);
		kobject_put(dir);
		return ERR_PTR(err);
	}
	return dir;
}

void rmr_sys_plain_dir_remove(struct kobject *dir, struct rmr_sys_group *group)
{
	/*
	 * Files first: kobject_del() forgets dir->sd before it waits for the
	 * files, and rmr_sys_self_removal_begin() in one of them needs it.
	 */
	sysfs_remove_group(dir, &group->group);
	kobject_del(dir);
	kobject_put(dir);
}

int rmr_sys_change_uevent(struct kobject *kobj, char **env)
{
	return kobject_uevent_env(kobj, KOBJ_CHANGE, env);
}

/* Stores that run without protection against the removal of their file. */
static atomic_t removers = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(removers_gone);
static bool had_removers;

struct kernfs_node *rmr_sys_self_removal_begin(struct kobject *kobj,
					       struct rmr_sys_file *file)
{
	struct kernfs_node *node;

	atomic_inc(&removers);
	WRITE_ONCE(had_removers, true);
	node = sysfs_break_active_protection(kobj,
					     (struct attribute *)&file->attribute);
	if (!node && atomic_dec_and_test(&removers))
		wake_up_all(&removers_gone);
	return node;
}

void rmr_sys_self_removal_end(struct kernfs_node *node)
{
	sysfs_unbreak_active_protection(node);
	if (atomic_dec_and_test(&removers))
		wake_up_all(&removers_gone);
}

void rmr_sys_self_removal_drain(void)
{
	wait_event(removers_gone, !atomic_read(&removers));
	/*
	 * The last of them may still be on its way out of this module. It gets
	 * there without a voluntary switch, and this waits for one of each task.
	 */
	if (READ_ONCE(had_removers))
		synchronize_rcu_tasks();
}

/* -- gate.rs -- */

static void gate_empty(struct percpu_ref *users)
{
	struct rmr_sys_gate *gate =
		container_of(users, struct rmr_sys_gate, users);

	complete_all(&gate->empty);
}

int rmr_sys_gate_init(struct rmr_sys_gate *gate)
{
	init_completion(&gate->empty);
	return percpu_ref_init(&gate->users, gate_empty, 0, GFP_KERNEL);
}

void rmr_sys_gate_free(struct rmr_sys_gate *gate)
{
	percpu_ref_exit(&gate->users);
}

struct rmr_sys_gate *rmr_sys_gate_enter(struct rmr_sys_gate **place)
{
	struct rmr_sys_gate *gate;

	rcu_read_lock();
	gate = rcu_dereference_check(*(struct rmr_sys_gate __rcu **)place, 1);
	if (gate && !percpu_ref_tryget_live_rcu(&gate->users))
		gate = NULL;
	rcu_read_unlock();
	return gate;
}

void rmr_sys_gate_again(struct rmr_sys_gate *gate)
{
	percpu_ref_get(&gate->users);
}

void rmr_sys_gate_leave(struct rmr_sys_gate *gate)
{
	percpu_ref_put(&gate->users);
}

void rmr_sys_gate_shut(struct rmr_sys_gate *gate)
{
	percpu_ref_kill(&gate->users);
}

/* -- work.rs -- */

void rmr_sys_job_init(struct rmr_sys_job *job, work_func_t run)
{
	INIT_DELAYED_WORK(&job->work, run);
	/*
	 * Each job is a lock class of its own: one may wait for another, which
	 * lockdep would take for waiting for itself.
	 */
	lockdep_register_key(&job->key);
	lockdep_init_map(&job->work.work.lockdep_map, "rmr_sys_job", &job->key, 0);
}

void rmr_sys_job_fini(struct rmr_sys_job *job)
{
	lockdep_unregister_key(&job->key);
}

struct workqueue_struct *rmr_sys_queue_new(const char *name, unsigned int flags)
{
	return alloc_workqueue("%s", flags, 0, name);
}

bool rmr_sys_cpu_possible(unsigned int cpu)
{
	return cpu < nr_cpu_ids && cpu_possible(cpu);
}

/* -- timer.rs -- */

static enum hrtimer_restart timer_fires(struct hrtimer *raw)
{
	struct rmr_sys_timer *timer = container_of(raw, struct rmr_sys_timer, timer);
	u64 again = timer->run(timer);

	if (!again)
		return HRTIMER_NORESTART;
	hrtimer_set_expires(raw, ktime_add_ns(ktime_get(), again));
	return HRTIMER_RESTART;
}

void rmr_sys_timer_init(struct rmr_sys_timer *timer, u64 (*run)(struct rmr_sys_timer *timer))
{
	timer->run = run;
	hrtimer_setup(&timer->timer, timer_fires, CLOCK_MONOTONIC, HRTIMER_MODE_REL_SOFT);
}

void rmr_sys_timer_set(struct rmr_sys_timer *timer, u64 ns)
{
	hrtimer_start(&timer->timer, ns_to_ktime(ns), HRTIMER_MODE_REL_SOFT);
}

void rmr_sys_timer_stop(struct rmr_sys_timer *timer)
{
	hrtimer_cancel(&timer->timer);
}

/* -- lock.rs, bh.rs -- */

#ifdef CONFIG_PROVE_LOCKING
static int by_address(const struct lockdep_map *a, const struct lockdep_map *b)
{
	return a < b ? -1 : a > b;
}
#endif

void rmr_sys_lock_ordered(spinlock_t *lock)
{
#ifdef CONFIG_PROVE_LOCKING
	lock_set_cmp_fn(lock, by_address, NULL);
#endif
}

unsigned long rmr_sys_lock(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

void rmr_sys_unlock(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}

void rmr_sys_bh_disable(void)
{
	local_bh_disable();
}

void rmr_sys_bh_enable(void)
{
	local_bh_enable();
}

/* -- percpu.rs -- */

/* The memory is per-CPU: its address is a number and no pointer for Rust. */
static u64 __percpu *percpu_counters(unsigned long counters)
{
	return (__force u64 __percpu *)counters;
}

unsigned long rmr_sys_counters_new(u32 count)
{
	return (__force unsigned long)__alloc_percpu(array_size(count, sizeof(u64)),
						     __alignof__(u64));
}

void rmr_sys_counters_free(unsigned long counters)
{
	free_percpu(percpu_counters(counters));
}

void rmr_sys_counter_add(unsigned long counters, u32 index, u64 value)
{
	this_cpu_add(percpu_counters(counters)[index], value);
}

u64 rmr_sys_counter_sum(unsigned long counters, u32 index)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(percpu_counters(counters), cpu)[index]);
	return sum;
}

void rmr_sys_counter_reset(unsigned long counters, u32 index)
{
	int cpu;

	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu_ptr(percpu_counters(counters), cpu)[index], 0);
}

unsigned int rmr_sys_this_cpu(void)
{
	return raw_smp_processor_id();
}

/* -- wait.rs -- */

void rmr_sys_event_reset(struct completion *event)
{
	reinit_completion(event);
}

bool rmr_sys_event_is_set(struct completion *event)
{
	return completion_done(event);
}

void rmr_sys_wait_init(struct wait_queue_head *queue, struct lock_class_key *key)
{
	__init_waitqueue_head(queue, "rmr_sys_wait", key);
}

void rmr_sys_wait_wake(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

long rmr_sys_wait(struct wait_queue_head *queue, bool killable, long jiffies_left,
		  bool (*condition)(void *data), void *data)
{
	if (killable)
		return ___wait_event(*queue,
				     ___wait_cond_timeout(condition(data)),
				     TASK_KILLABLE, 0, jiffies_left,
				     __ret = schedule_timeout(__ret));
	return ___wait_event(*queue, ___wait_cond_timeout(condition(data)),
			     TASK_UNINTERRUPTIBLE, 0, jiffies_left,
			     __ret = schedule_timeout(__ret));
}

/* -- noio.rs -- */

unsigned int rmr_sys_noio_begin(void)
{
	return memalloc_noio_save();
}

void rmr_sys_noio_end(unsigned int before)
{
	memalloc_noio_restore(before);
}

/* -- time.rs -- */

u64 rmr_sys_jiffies_ms(void)
{
	return jiffies64_to_msecs(get_jiffies_64());
}

unsigned long rmr_sys_ms_to_jiffies(unsigned int ms)
{
	return msecs_to_jiffies(ms);
}

/* -- key.rs -- */

int rmr_sys_key_read(const char *description,
		     void (*use)(const u8 *payload, size_t len, void *data),
		     void *data)
{
	const struct user_key_payload *payload;
	struct key *key;
	int err = 0;

	/* Only what is there: nothing is asked of user space. */
	key = request_key(&key_type_logon, description, NULL);
	if (key == ERR_PTR(-ENOKEY))
		key = request_key(&key_type_user, description, NULL);
	if (IS_ERR(key))
		return PTR_ERR(key);
	down_read(&key->sem);
	payload = user_key_payload_locked(key);
	if (payload)
		use((const u8 *)payload->data, payload->datalen, data);
	else
		err = -EKEYREVOKED;
	up_read(&key->sem);
	key_put(key);
	return err;
}

/* -- hmac.rs -- */

struct rmr_sys_hmac_key {
	struct hmac_sha256_key key;
};

struct rmr_sys_hmac_key *rmr_sys_hmac_new(const u8 *secret, size_t len)
{
	struct rmr_sys_hmac_key *key = kmalloc(sizeof(*key), GFP_KERNEL);

	if (key)
		hmac_sha256_preparekey(&key->key, secret, len);
	return key;
}

void rmr_sys_hmac_free(struct rmr_sys_hmac_key *key)
{
	kfree_sensitive(key);
}

void rmr_sys_hmac(const struct rmr_sys_hmac_key *key, const u8 *message,
		  size_t len, u8 *mac)
{
	hmac_sha256(&key->key, message, len, mac);
}

bool rmr_sys_hmac_same(const u8 *a, const u8 *b)
{
	return !crypto_memneq(a, b, SHA256_DIGEST_SIZE);
}
