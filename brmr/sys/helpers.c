// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions of the block layer for brmr_sys, and the two operation
 * tables that must name this module as their owner. No decisions are made here.
 */
#include <linux/atomic.h>
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/bio.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "helpers.h"

/*
 * Gendisks of this module that were added and are not freed yet, plus one for
 * the module itself. Openers pin the module, but disk_release() comes after the
 * last module_put(): brmr_sys_disks_drain() waits for it.
 */
static atomic_t disks = ATOMIC_INIT(1);
static DECLARE_COMPLETION(disks_gone);

static void disk_forget(void)
{
	if (atomic_dec_and_test(&disks))
		complete(&disks_gone);
}

static int disk_open(struct gendisk *disk, blk_mode_t mode)
{
	struct brmr_sys_gate *gate = disk->private_data;

	lockdep_assert_held(&disk->open_mutex);
	return gate->closing ? -ENXIO : 0;
}

static void disk_free(struct gendisk *disk)
{
	disk_forget();
}

const struct block_device_operations brmr_sys_disk_fops = {
	.owner = THIS_MODULE,
	.open = disk_open,
	.free_disk = disk_free,
};

/* Makes the disk visible. Reads the partition table. */
int brmr_sys_disk_add(struct gendisk *disk)
{
	int ret;

	atomic_inc(&disks);
	ret = device_add_disk(NULL, disk, NULL);
	/* free_disk() is called only for disks that were added. */
	if (ret)
		disk_forget();
	return ret;
}

/* Refuses opens from now on; -EBUSY and no change while the disk is open and not @force. */
int brmr_sys_disk_shut(struct gendisk *disk, bool force)
{
	struct brmr_sys_gate *gate = disk->private_data;
	int ret = 0;

	mutex_lock(&disk->open_mutex);
	if (!force && disk_openers(disk))
		ret = -EBUSY;
	else
		gate->closing = true;
	mutex_unlock(&disk->open_mutex);
	return ret;
}

unsigned int brmr_sys_disk_openers(struct gendisk *disk)
{
	return disk_openers(disk);
}

struct kobject *brmr_sys_disk_kobj(struct gendisk *disk)
{
	return &disk_to_dev(disk)->kobj;
}

/* Waits until no gendisk is left that could call into this module. Once, at module exit. */
void brmr_sys_disks_drain(void)
{
	disk_forget();
	wait_for_completion(&disks_gone);
}

u32 brmr_sys_online_cpus(void)
{
	return num_online_cpus();
}

u64 brmr_sys_rq_offset(const struct request *rq)
{
	return (u64)blk_rq_pos(rq) << SECTOR_SHIFT;
}

u32 brmr_sys_rq_bytes(const struct request *rq)
{
	return blk_rq_bytes(rq);
}

/* Unique among the requests of a tag set that have a driver tag: hw queue * depth + tag. */
u32 brmr_sys_rq_tag(const struct request *rq)
{
	return rq->mq_hctx->queue_num * rq->q->tag_set->queue_depth + rq->tag;
}

int brmr_sys_rq_map(struct request *rq, struct scatterlist *sg)
{
	return blk_rq_map_sg(rq, sg);
}

static void bdev_holder_dead(struct block_device *bdev, bool surprise)
{
	struct brmr_sys_holder *holder = bdev->bd_holder;

	/* The claim, and with it the holder, cannot end while bd_holder_lock is held. */
	holder->dead(holder, surprise);
	mutex_unlock(&bdev->bd_holder_lock);
}

static const struct blk_holder_ops holder_ops = {
	.mark_dead = bdev_holder_dead,
};

struct file *brmr_sys_bdev_open(const char *path, struct brmr_sys_holder *holder)
{
	struct file *file;

	file = bdev_file_open_by_path(path, BLK_OPEN_READ | BLK_OPEN_WRITE, holder, &holder_ops);
	if (IS_ERR(file))
		return file;
	/*
	 * Our bios go past the page cache: what others left in it must not be
	 * written over our data later.
	 */
	sync_blockdev(file_bdev(file));
	invalidate_bdev(file_bdev(file));
	return file;
}

void brmr_sys_bdev_close(struct file *file)
{
	/* Pages that others read meanwhile are stale. */
	invalidate_bdev(file_bdev(file));
	bdev_fput(file);
}

void brmr_sys_bdev_info(struct block_device *bdev, struct brmr_sys_bdev_info *info)
{
	*info = (struct brmr_sys_bdev_info) {
		.logical_block = bdev_logical_block_size(bdev),
		.physical_block = bdev_physical_block_size(bdev),
		.io_min = bdev_io_min(bdev),
		.io_opt = bdev_io_opt(bdev),
		.max_io = queue_max_bytes(bdev_get_queue(bdev)),
		.max_segments = bdev_max_segments(bdev),
		.dma_alignment = bdev_dma_alignment(bdev),
		.max_discard = (u64)bdev_max_discard_sectors(bdev) << SECTOR_SHIFT,
		.discard_granularity = bdev_discard_granularity(bdev),
		.max_write_zeroes = (u64)bdev_write_zeroes_sectors(bdev) << SECTOR_SHIFT,
		.write_cache = bdev_write_cache(bdev),
		.fua = bdev_fua(bdev),
		.rotational = bdev_rot(bdev),
		.read_only = bdev_read_only(bdev),
	};
}

u64 brmr_sys_bdev_bytes(struct block_device *bdev)
{
	return bdev_nr_bytes(bdev);
}

const char *brmr_sys_bdev_name(struct block_device *bdev)
{
	return dev_name(&bdev->bd_device);
}

/* One transfer of lowmem bytes; returns when it is finished. */
int brmr_sys_bdev_rw(struct block_device *bdev, u64 offset, void *data, u32 len,
		     bool write, bool fua, bool preflush)
{
	blk_opf_t opf = write ? REQ_OP_WRITE | REQ_SYNC | REQ_IDLE : REQ_OP_READ | REQ_SYNC;
	struct bio_vec bvec;
	struct bio bio;
	int ret;

	if (fua)
		opf |= REQ_FUA;
	if (preflush)
		opf |= REQ_PREFLUSH;
	bio_init(&bio, bdev, &bvec, 1, opf);
	bio.bi_iter.bi_sector = offset >> SECTOR_SHIFT;
	bio_add_virt_nofail(&bio, data, len);
	ret = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return ret;
}

int brmr_sys_bdev_zeroout(struct block_device *bdev, u64 offset, u64 len, bool unmap)
{
	unsigned int flags = BLKDEV_ZERO_KILLABLE;

	if (!unmap)
		flags |= BLKDEV_ZERO_NOUNMAP;
	return blkdev_issue_zeroout(bdev, offset >> SECTOR_SHIFT, len >> SECTOR_SHIFT,
				    GFP_NOIO, flags);
}

/* Whether @data can be put into a bio as it is. Stacks, vmalloc and module memory cannot. */
bool brmr_sys_is_lowmem(const void *data, size_t len)
{
	return len && virt_addr_valid(data) && virt_addr_valid(data + len - 1);
}

unsigned int brmr_sys_noio_save(void)
{
	return memalloc_noio_save();
}

void brmr_sys_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

static void bios_release(struct percpu_ref *ref)
{
	complete(&container_of(ref, struct brmr_sys_bios, inflight)->drained);
}

/* NULL if there is no memory. @front_pad bytes precede each bio. */
struct brmr_sys_bios *brmr_sys_bios_create(u32 reserve, u32 front_pad)
{
	struct brmr_sys_bios *bios = kzalloc(sizeof(*bios), GFP_KERNEL);

	if (!bios)
		return NULL;
	init_completion(&bios->drained);
	if (percpu_ref_init(&bios->inflight, bios_release, 0, GFP_KERNEL))
		goto free;
	if (bioset_init(&bios->set, reserve, front_pad, BIOSET_NEED_BVECS | BIOSET_PERCPU_CACHE))
		goto exit_ref;
	return bios;

exit_ref:
	percpu_ref_exit(&bios->inflight);
free:
	kfree(bios);
	return NULL;
}

/* Waits for every bio of the set. */
void brmr_sys_bios_destroy(struct brmr_sys_bios *bios)
{
	percpu_ref_kill(&bios->inflight);
	wait_for_completion(&bios->drained);
	bioset_exit(&bios->set);
	percpu_ref_exit(&bios->inflight);
	kfree(bios);
}

void brmr_sys_bios_put(struct brmr_sys_bios *bios)
{
	percpu_ref_put(&bios->inflight);
}

/*
 * Replicated writes have somebody waiting for them at the other end: as direct
 * IO (REQ_IDLE), they are not to be held back by writeback throttling.
 */
static const blk_opf_t bio_opf[] = {
	[BRMR_SYS_BIO_READ] = REQ_OP_READ | REQ_SYNC,
	[BRMR_SYS_BIO_WRITE] = REQ_OP_WRITE | REQ_SYNC | REQ_IDLE,
	[BRMR_SYS_BIO_WRITE_FUA] = REQ_OP_WRITE | REQ_SYNC | REQ_IDLE | REQ_FUA,
	[BRMR_SYS_BIO_FLUSH] = REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH,
	[BRMR_SYS_BIO_ZEROES] = REQ_OP_WRITE_ZEROES | REQ_SYNC,
	[BRMR_SYS_BIO_ZEROES_NOUNMAP] = REQ_OP_WRITE_ZEROES | REQ_SYNC | REQ_NOUNMAP,
	[BRMR_SYS_BIO_DISCARD] = REQ_OP_DISCARD | REQ_SYNC,
};

/* A bio that counts as in flight until brmr_sys_bios_put(). NULL only if not @wait. */
struct bio *brmr_sys_bio_get(struct brmr_sys_bios *bios, struct block_device *bdev,
			     enum brmr_sys_bio_op op, bool wait)
{
	struct bio *bio = bio_alloc_bioset(bdev, 1, bio_opf[op] | REQ_ALLOC_CACHE,
					   wait ? GFP_NOIO : GFP_NOWAIT, &bios->set);

	if (bio)
		percpu_ref_get(&bios->inflight);
	return bio;
}

/* @data is lowmem and physically contiguous, or NULL for an operation without data. */
void brmr_sys_bio_submit(struct bio *bio, u64 offset, u32 len, void *data,
			 bio_end_io_t *end_io, void *private)
{
	bio->bi_iter.bi_sector = offset >> SECTOR_SHIFT;
	if (data)
		bio_add_virt_nofail(bio, data, len);
	else
		bio->bi_iter.bi_size = len;
	bio->bi_end_io = end_io;
	bio->bi_private = private;
	submit_bio(bio);
}
