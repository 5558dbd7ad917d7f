/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel that the crate rmr_sys needs, and
 * what differs in its structures from one kernel version to the next.
 * Prototypes only; the bodies are in helpers.c.
 */
#ifndef RMR_SYS_HELPERS_H
#define RMR_SYS_HELPERS_H

#include <linux/completion.h>
#include <linux/device.h>
#include <linux/hrtimer.h>
#include <linux/kobject.h>
#include <linux/lockdep_types.h>
#include <linux/percpu-refcount.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

/* -- sysfs.rs -- */

/* The attribute as the directory's kind of kobject wants it. */
struct rmr_sys_attribute {
	union {
		struct kobj_attribute kobj;
		struct device_attribute dev;
	};
};

/* One file. Its first member is the struct attribute that sysfs knows. */
struct rmr_sys_file {
	struct rmr_sys_attribute attribute;
	ssize_t (*show)(struct rmr_sys_file *file, char *page);
	ssize_t (*store)(struct rmr_sys_file *file, struct kobject *kobj,
			 const char *input, size_t len);
};

/* The files of a directory. */
struct rmr_sys_group {
	struct attribute_group group;
	const struct attribute_group *list[2];
};

void rmr_sys_file_init(struct rmr_sys_file *file, const char *name, u16 mode,
		       bool of_device, struct lock_class_key *key);
void rmr_sys_group_init(struct rmr_sys_group *group, struct attribute **attrs);
struct device *rmr_sys_device_dir(const struct class *class, const char *name,
				  struct rmr_sys_group *group);
struct kobject *rmr_sys_plain_dir(struct kobject *parent, const char *name,
				  struct rmr_sys_group *group);
void rmr_sys_plain_dir_remove(struct kobject *dir, struct rmr_sys_group *group);
int rmr_sys_change_uevent(struct kobject *kobj, char **env);

struct kernfs_node *rmr_sys_self_removal_begin(struct kobject *kobj,
					       struct rmr_sys_file *file);
void rmr_sys_self_removal_end(struct kernfs_node *node);
void rmr_sys_self_removal_drain(void);

/* -- gate.rs -- */

struct rmr_sys_gate {
	struct percpu_ref users;
	struct completion empty;
};

int rmr_sys_gate_init(struct rmr_sys_gate *gate);
void rmr_sys_gate_free(struct rmr_sys_gate *gate);
struct rmr_sys_gate *rmr_sys_gate_enter(struct rmr_sys_gate **place);
void rmr_sys_gate_again(struct rmr_sys_gate *gate);
void rmr_sys_gate_leave(struct rmr_sys_gate *gate);
void rmr_sys_gate_shut(struct rmr_sys_gate *gate);

/* -- work.rs -- */

struct rmr_sys_job {
	struct delayed_work work;
	struct lock_class_key key;
};

void rmr_sys_job_init(struct rmr_sys_job *job, work_func_t run);
void rmr_sys_job_fini(struct rmr_sys_job *job);
struct workqueue_struct *rmr_sys_queue_new(const char *name, unsigned int flags);
bool rmr_sys_cpu_possible(unsigned int cpu);

/* -- timer.rs -- */

struct rmr_sys_timer {
	struct hrtimer timer;
	/* Returns the nanoseconds after which it is to run again, or 0. */
	u64 (*run)(struct rmr_sys_timer *timer);
};

void rmr_sys_timer_init(struct rmr_sys_timer *timer, u64 (*run)(struct rmr_sys_timer *timer));
void rmr_sys_timer_set(struct rmr_sys_timer *timer, u64 ns);
void rmr_sys_timer_stop(struct rmr_sys_timer *timer);

/* -- lock.rs, bh.rs -- */

void rmr_sys_lock_ordered(spinlock_t *lock);
unsigned long rmr_sys_lock(spinlock_t *lock);
void rmr_sys_unlock(spinlock_t *lock, unsigned long flags);
void rmr_sys_bh_disable(void);
void rmr_sys_bh_enable(void);

/* -- percpu.rs -- */

unsigned long rmr_sys_counters_new(u32 count);
void rmr_sys_counters_free(unsigned long counters);
void rmr_sys_counter_add(unsigned long counters, u32 index, u64 value);
u64 rmr_sys_counter_sum(unsigned long counters, u32 index);
void rmr_sys_counter_reset(unsigned long counters, u32 index);
unsigned int rmr_sys_this_cpu(void);

/* -- wait.rs -- */

void rmr_sys_event_reset(struct completion *event);
bool rmr_sys_event_is_set(struct completion *event);
void rmr_sys_wait_init(struct wait_queue_head *queue, struct lock_class_key *key);
void rmr_sys_wait_wake(struct wait_queue_head *queue);
long rmr_sys_wait(struct wait_queue_head *queue, bool killable, long jiffies_left,
		  bool (*condition)(void *data), void *data);

/* -- noio.rs -- */

unsigned int rmr_sys_noio_begin(void);
void rmr_sys_noio_end(unsigned int before);

/* -- time.rs -- */

u64 rmr_sys_jiffies_ms(void);
unsigned long rmr_sys_ms_to_jiffies(unsigned int ms);

/* -- key.rs -- */

int rmr_sys_key_read(const char *description,
		     void (*use)(const u8 *payload, size_t len, void *data),
		     void *data);

/* -- hmac.rs -- */

struct rmr_sys_hmac_key;

struct rmr_sys_hmac_key *rmr_sys_hmac_new(const u8 *secret, size_t len);
void rmr_sys_hmac_free(struct rmr_sys_hmac_key *key);
void rmr_sys_hmac(const struct rmr_sys_hmac_key *key, const u8 *message,
		  size_t len, u8 *mac);
bool rmr_sys_hmac_same(const u8 *a, const u8 *b);

#endif
