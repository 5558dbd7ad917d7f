/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Block layer inline functions and constant tables that Rust cannot reach
 * through kernel::bindings. Prototypes only; the bodies are in helpers.c.
 */
#ifndef BRMR_SYS_HELPERS_H
#define BRMR_SYS_HELPERS_H

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/bio.h>
#include <linux/completion.h>
#include <linux/percpu-refcount.h>

/* Behind gendisk::private_data; lives at least until del_gendisk() returned. */
struct brmr_sys_gate {
	/* Written under disk->open_mutex, read by open() under the same. */
	bool closing;
};

extern const struct block_device_operations brmr_sys_disk_fops;

int brmr_sys_disk_add(struct gendisk *disk);
int brmr_sys_disk_shut(struct gendisk *disk, bool force);
unsigned int brmr_sys_disk_openers(struct gendisk *disk);
struct kobject *brmr_sys_disk_kobj(struct gendisk *disk);
void brmr_sys_disks_drain(void);

u32 brmr_sys_online_cpus(void);

u64 brmr_sys_rq_offset(const struct request *rq);
u32 brmr_sys_rq_bytes(const struct request *rq);
u32 brmr_sys_rq_tag(const struct request *rq);
int brmr_sys_rq_map(struct request *rq, struct scatterlist *sg);

struct brmr_sys_bdev_info {
	u32 logical_block;
	u32 physical_block;
	u32 io_min;
	u32 io_opt;
	u32 max_io;
	u32 max_segments;
	u32 dma_alignment;
	u64 max_discard;
	u32 discard_granularity;
	u64 max_write_zeroes;
	bool write_cache;
	bool fua;
	bool rotational;
	bool read_only;
};

/* The holder of an exclusively opened block device. */
struct brmr_sys_holder {
	/* Called under bd_holder_lock; may sleep, must not close the device. */
	void (*dead)(struct brmr_sys_holder *holder, bool surprise);
};

struct file *brmr_sys_bdev_open(const char *path, struct brmr_sys_holder *holder);
void brmr_sys_bdev_close(struct file *file);
void brmr_sys_bdev_info(struct block_device *bdev, struct brmr_sys_bdev_info *info);
u64 brmr_sys_bdev_bytes(struct block_device *bdev);
const char *brmr_sys_bdev_name(struct block_device *bdev);
int brmr_sys_bdev_rw(struct block_device *bdev, u64 offset, void *data, u32 len,
		     bool write, bool fua, bool preflush);
int brmr_sys_bdev_zeroout(struct block_device *bdev, u64 offset, u64 len, bool unmap);
bool brmr_sys_is_lowmem(const void *data, size_t len);
unsigned int brmr_sys_noio_save(void);
void brmr_sys_noio_restore(unsigned int flags);

/* A bio_set with a count of its bios in flight. */
struct brmr_sys_bios {
	struct bio_set set;
	struct percpu_ref inflight;
	struct completion drained;
};

enum brmr_sys_bio_op {
	BRMR_SYS_BIO_READ,
	BRMR_SYS_BIO_WRITE,
	BRMR_SYS_BIO_WRITE_FUA,
	BRMR_SYS_BIO_FLUSH,
	BRMR_SYS_BIO_ZEROES,
	BRMR_SYS_BIO_ZEROES_NOUNMAP,
	BRMR_SYS_BIO_DISCARD,
};

struct brmr_sys_bios *brmr_sys_bios_create(u32 reserve, u32 front_pad);
void brmr_sys_bios_destroy(struct brmr_sys_bios *bios);
void brmr_sys_bios_put(struct brmr_sys_bios *bios);
struct bio *brmr_sys_bio_get(struct brmr_sys_bios *bios, struct block_device *bdev,
			     enum brmr_sys_bio_op op, bool wait);
void brmr_sys_bio_submit(struct bio *bio, u64 offset, u32 len, void *data,
			 bio_end_io_t *end_io, void *private);

#endif
