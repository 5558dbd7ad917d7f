// SPDX-License-Identifier: GPL-2.0

//! Classes, directories and attributes of sysfs.
//!
//! A [`Dir`] is a directory that shows (and changes) an `Arc<T>` through the [`Attr`]s it was made
//! with. It is either a device of a class of ours, as those are the only directories below
//! `/sys/class`, or a plain directory in another one. Not here: binary files, attributes that come
//! and go, other owners than root.
//!
//! # Why this is sound
//!
//! *Memory.* The kobject of a directory is the kernel's own (`device_create`,
//! `kobject_create_and_add`, `class_create`): whoever holds the last reference to it frees it by
//! code of the kernel. So nothing of ours is needed when that happens, and nobody has to wait for
//! it. What is ours are the `struct attribute`s, the `Arc<T>` and the code of the callbacks. sysfs
//! uses them only with an *active reference* to the file, and removing a file waits until those are
//! gone and lets no new ones come. `Dir::drop` removes the files and the directory, thus after it
//! no callback runs and none of the memory is known to sysfs.
//!
//! *Removal of the directory that a store belongs to* would wait for itself. An attribute that
//! [removes itself](Attr::removes_self) therefore gives up its active reference before the callback
//! is called. From then on the `Dir` may be dropped by anybody and the trampoline uses no memory of
//! it: it has its own reference to the data, and what else it needs is static (the attribute) or
//! the kernel's (input, kobject, `kernfs_node`, to both of which it holds references). Two such
//! stores may run at a time, also while the directory is being removed for another reason; the
//! callback finds out, as nobody else can, whether there is still something to do.
//!
//! Giving up the reference looks the file up in the directory. That is why `Dir::drop` removes the
//! files before the directory: the lookup needs `kobj->sd`, which `kobject_del` clears, and a file
//! that somebody holds an active reference to is still to be found. If a directory further up is
//! removed, the files are removed in the same way and `kobj->sd` stays.
//!
//! *Unloading a module.* Without an active reference nothing keeps the module from being unloaded
//! while the callback runs, when the `Dir` is gone. These stores are therefore counted, and the
//! [`Class`], which a module drops last, waits until there are none. A store that has been counted
//! out still has to return to the kernel; it does so without going to sleep, and the class waits
//! for an RCU-tasks grace period, which ends when each task has gone to sleep or left the kernel.
//! Before that the class waits until all its directories were dropped, as the callbacks of one that
//! was forgotten would be called in a module that is gone.
//!
//! *What is left to the caller*, who gets a deadlock for a mistake but no danger to memory: a `Dir`
//! must not be dropped while a lock is held that one of its callbacks takes; nor by a store, of it
//! or of a directory below it, that is not marked with `removes_self`. Where the stores of one
//! directory make others, that one is dropped before the list of the others is emptied, since until
//! then a store may add to it. Between a directory and its data there must be no circle left.

use crate::ffi;
use crate::wait::WaitQueue;
use core::fmt;
use core::ptr;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::error::to_result;
use kernel::ffi::c_char;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::atomic::Atomic;
use kernel::sync::atomic::Full;
use kernel::sync::atomic::Relaxed;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// Longest uevent environment.
const MAX_ENV: usize = 16;

/// How long a class waits for its directories before it complains.
const PATIENCE_MS: u32 = 10_000;

// -- Class --

/// A class of ours: a folder `/sys/class/NAME`.
///
/// It belongs into the module's struct, after every [`Dir`]: dropping it waits until the last
/// directory of it is gone and the module may be unloaded, see the head of this file.
pub struct Class {
    raw: Arc<RawClass>,
}

/// # Invariants
///
/// `class` was made by `class_create` and is not destroyed.
#[pin_data(PinnedDrop)]
struct RawClass {
    class: NonNull<bindings::class>,
    name: &'static CStr,
    /// Directories that are, or are in, a device of the class.
    dirs: Atomic<u32>,
    #[pin]
    dir_gone: WaitQueue,
}

// SAFETY: A class is used from any thread.
unsafe impl Send for RawClass {}
// SAFETY: As above.
unsafe impl Sync for RawClass {}

impl Class {
    /// Registers the class. Sleeps.
    pub fn register(name: &'static CStr) -> Result<Self> {
        // SAFETY: The name is static. The kernel frees the class when it is released.
        let class = from_err_ptr(unsafe { bindings::class_create(name.as_char_ptr()) })?;
        let class = NonNull::new(class).ok_or(ENOMEM)?;
        // INVARIANT: Made above.
        let init = pin_init!(RawClass {
            class,
            name,
            dirs: Atomic::new(0),
            dir_gone <- WaitQueue::new(),
        });
        let raw = Arc::pin_init(init, GFP_KERNEL).inspect_err(|_| {
            // SAFETY: Made above, and not used any more.
            unsafe { bindings::class_destroy(class.as_ptr()) };
        })?;
        Ok(Self { raw })
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        let none_left = || self.raw.dirs.load(Relaxed) == 0;
        let mut waited = self.raw.dir_gone.wait_until_timeout(PATIENCE_MS, none_left);
        while waited.is_err() {
            // A mistake in the module. Its callbacks would be called after it is unloaded, so it
            // must stay.
            let dirs = self.raw.dirs.load(Relaxed);
            pr_err!(
                "{} directories of class {} were never removed, the module cannot be unloaded\n",
                dirs,
                self.raw.name
            );
            waited = self
                .raw
                .dir_gone
                .wait_until_timeout(60 * PATIENCE_MS, none_left);
        }
        // SAFETY: Always safe to call where one may sleep.
        unsafe { ffi::rmr_sys_self_removal_drain() };
    }
}

#[pinned_drop]
impl PinnedDrop for RawClass {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant; each directory has a reference to this, so none is left.
        unsafe { bindings::class_destroy(self.class.as_ptr()) };
    }
}

// -- Attributes --

/// Fills a file that is read.
pub type Show<T> = fn(&T, &mut Writer<'_>) -> Result;

/// Obeys what was written to a file: at most `PAGE_SIZE - 1` bytes, whatever they are, without one
/// newline at the end.
pub type Store<T> = fn(&Arc<T>, &[u8]) -> Result;

/// One file of a directory. Its callbacks run in the task that reads or writes, and may sleep.
pub struct Attr<T> {
    name: &'static CStr,
    show: Option<Show<T>>,
    usage: &'static str,
    store: Option<Store<T>>,
    removes_self: bool,
    key: Key,
}

/// An address that lockdep knows the attribute's class by; never read nor written.
#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
type Key = [u64; 8];
/// Nothing, without lockdep.
#[cfg(not(CONFIG_DEBUG_LOCK_ALLOC))]
type Key = [u64; 0];

const NO_KEY: Key = [0; size_of::<Key>() / 8];

#[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
kernel::static_assert!(size_of::<Key>() >= size_of::<bindings::lock_class_key>());

impl<T> Attr<T> {
    const fn new(name: &'static CStr, show: Option<Show<T>>, store: Option<Store<T>>) -> Self {
        Self {
            name,
            show,
            usage: "",
            store,
            removes_self: false,
            key: NO_KEY,
        }
    }

    /// A file that can only be read.
    pub const fn ro(name: &'static CStr, show: Show<T>) -> Self {
        Self::new(name, Some(show), None)
    }

    /// A file that is written to have something done. Whoever reads it is told its `usage`, one
    /// line.
    pub const fn wo(name: &'static CStr, usage: &'static str, store: Store<T>) -> Self {
        let mut this = Self::new(name, None, Some(store));
        this.usage = usage;
        this
    }

    /// A file that can be read and written.
    pub const fn rw(name: &'static CStr, show: Show<T>, store: Store<T>) -> Self {
        Self::new(name, Some(show), Some(store))
    }

    /// Writing it may remove the very directory it is in, or one above.
    pub const fn removes_self(mut self) -> Self {
        self.removes_self = true;
        self
    }

    fn mode(&self) -> u16 {
        if self.store.is_some() {
            0o644
        } else {
            0o444
        }
    }
}

/// The page that a [`Show`] fills, to be used with `write!`. What does not fit is an error
/// (`E2BIG`), not overrun.
pub struct Writer<'a> {
    page: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    /// Appends formatted text; `write!` calls this.
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> Result {
        fmt::Write::write_fmt(self, text).map_err(|fmt::Error| E2BIG)
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.len
    }
}

impl fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.page.get_mut(self.len..).ok_or(fmt::Error)?;
        room.get_mut(..text.len())
            .ok_or(fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// A file of a directory as sysfs knows it. `raw` comes first, so that a pointer to it is one to
/// all.
#[repr(C)]
struct File<T: 'static> {
    raw: Opaque<ffi::rmr_sys_file>,
    attr: &'static Attr<T>,
    data: Arc<T>,
}

impl<T: Send + Sync + 'static> File<T> {
    /// # Safety
    ///
    /// To be called by sysfs with an active reference to a file made by [`Files::new`], and a page
    /// for its content.
    unsafe extern "C" fn show(file: *mut ffi::rmr_sys_file, page: *mut c_char) -> isize {
        // SAFETY: `raw` is the first field. The directory waits for the active reference before it
        // frees the file.
        let file = unsafe { &*file.cast::<Self>() };
        // One byte less than a page: sysfs takes a full page for an overrun.
        // SAFETY: sysfs gives a whole page, zeroed, that nobody else uses.
        let page = unsafe { core::slice::from_raw_parts_mut(page, PAGE_SIZE - 1) };
        let mut writer = Writer { page, len: 0 };
        let result = match file.attr.show {
            Some(show) => show(&file.data, &mut writer),
            None => writeln!(writer, "{}", file.attr.usage),
        };
        // The length is below that of a page.
        result.map_or_else(|error| error.to_errno() as isize, |()| writer.len as isize)
    }

    /// # Safety
    ///
    /// To be called by sysfs with an active reference to a file made by [`Files::new`], the kobject
    /// of its directory, and `len` bytes that were written.
    unsafe extern "C" fn store(
        raw: *mut ffi::rmr_sys_file,
        kobj: *mut bindings::kobject,
        input: *const c_char,
        len: usize,
    ) -> isize {
        // SAFETY: `len` bytes of the kernel's own memory, which the writer cannot change.
        let input = unsafe { core::slice::from_raw_parts(input, len) };
        let (attr, data) = {
            // SAFETY: As in `show`.
            let file = unsafe { &*raw.cast::<Self>() };
            (file.attr, file.data.clone())
        };
        let result = attr.store.ok_or(EIO).and_then(|store| {
            // As much as one page may be one piece of something longer.
            if len >= PAGE_SIZE {
                return Err(E2BIG);
            }
            let input = input.strip_suffix(b"\n").unwrap_or(input);
            if !attr.removes_self {
                return store(&data, input);
            }
            // SAFETY: There is an active reference to the file, and `kobj` is its directory's.
            let node = unsafe { ffi::rmr_sys_self_removal_begin(kobj, raw) };
            let node = NonNull::new(node).ok_or(ENODEV)?;
            // From here on the file may be gone: neither `raw` nor `kobj` may be used.
            let result = store(&data, input);
            // What the callback left to drop is dropped while this still counts as running.
            drop(data);
            // SAFETY: From `begin` above, and given back once.
            unsafe { ffi::rmr_sys_self_removal_end(node.as_ptr()) };
            result
        });
        // `len` is at most a page.
        result.map_or_else(|error| error.to_errno() as isize, |()| len as isize)
    }
}

/// The files of one directory, in memory that stays where it is.
struct Files<T: 'static> {
    /// Known to sysfs by the pointers; neither grows nor shrinks.
    _files: KVec<File<T>>,
    /// Pointers to the files, and a null at the end.
    _pointers: KVec<*mut bindings::attribute>,
    group: KBox<Opaque<ffi::rmr_sys_group>>,
}

impl<T: Send + Sync + 'static> Files<T> {
    fn new(attrs: &'static [Attr<T>], data: &Arc<T>, of_device: bool) -> Result<Self> {
        let mut files = KVec::with_capacity(attrs.len(), GFP_KERNEL)?;
        for attr in attrs {
            let raw = Opaque::new(ffi::rmr_sys_file {
                attribute: Default::default(),
                show: Some(File::<T>::show),
                store: Some(File::<T>::store),
            });
            files.push(
                File {
                    raw,
                    attr,
                    data: data.clone(),
                },
                GFP_KERNEL,
            )?;
        }
        let mut pointers = KVec::with_capacity(attrs.len() + 1, GFP_KERNEL)?;
        for file in &files {
            let raw = file.raw.get();
            let key = (&raw const file.attr.key).cast_mut().cast();
            // SAFETY: `raw` is initialised but for its attribute, which this does. Name and key are
            // static; the key is only an address.
            unsafe {
                ffi::rmr_sys_file_init(
                    raw,
                    file.attr.name.as_char_ptr(),
                    file.attr.mode(),
                    of_device,
                    key,
                )
            };
            // The attribute is the first member of the file.
            pointers.push(raw.cast(), GFP_KERNEL)?;
        }
        pointers.push(ptr::null_mut(), GFP_KERNEL)?;
        let group = KBox::new(Opaque::uninit(), GFP_KERNEL)?;
        // SAFETY: `group` is memory for a group. The pointers end with a null and live as long as
        // the group.
        unsafe { ffi::rmr_sys_group_init(group.get(), pointers.as_mut_ptr()) };
        Ok(Self {
            _files: files,
            _pointers: pointers,
            group,
        })
    }
}

// -- Directories --

/// What has a directory in sysfs.
///
/// # Safety
///
/// The kobject is in sysfs from before `self` is lent until after, and so is its directory.
pub unsafe trait HasKobject {
    /// The kobject.
    fn kobject(&self) -> *mut bindings::kobject;
}

/// Where the uevents of a directory come from: the device that it is, or is in.
///
/// # Invariants
///
/// Holds a reference to the kobject.
struct Device {
    kobj: NonNull<bindings::kobject>,
    /// Uevents look into the class, also those of a device that was removed.
    class: Arc<RawClass>,
}

impl Device {
    /// # Safety
    ///
    /// `kobj` must be that of a device of `class`, and alive.
    unsafe fn new(kobj: NonNull<bindings::kobject>, class: Arc<RawClass>) -> Self {
        // No order is needed: each directory is counted, by somebody who has one, or the class.
        class.dirs.fetch_add(1, Relaxed);
        // SAFETY: By the function's requirement. INVARIANT: The reference taken here.
        unsafe { bindings::kobject_get(kobj.as_ptr()) };
        Self { kobj, class }
    }
}

impl Clone for Device {
    fn clone(&self) -> Self {
        // SAFETY: Alive by the type invariant.
        unsafe { Self::new(self.kobj, self.class.clone()) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kobject_put(self.kobj.as_ptr()) };
        self.class.dirs.fetch_sub(1, Full);
        self.class.dir_gone.wake_all();
    }
}

/// Which kind of directory it is.
enum Kind {
    /// A device of a class.
    Device(NonNull<bindings::device>),
    /// A kobject made by `kobject_create_and_add`.
    Plain,
}

/// A directory that shows an `Arc<T>`.
///
/// Dropping it removes it with all that is in it, waits until no callback of it runs (but the one
/// that drops it, if that [removes itself](Attr::removes_self)), and drops the `Arc<T>`. Thus it
/// keeps the data alive: if the data owns the directory, somebody has to take it out.
///
/// # Invariants
///
/// `kobj` was made by this file, is in sysfs and is not removed by anybody else, and there is a
/// reference to it. `files` are its files.
pub struct Dir<T: Send + Sync + 'static> {
    kobj: NonNull<bindings::kobject>,
    kind: Kind,
    device: Option<Device>,
    files: Files<T>,
    data: Arc<T>,
}

// SAFETY: All is used by functions of the kernel that any thread may call; `T` is both.
unsafe impl<T: Send + Sync + 'static> Send for Dir<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync + 'static> Sync for Dir<T> {}

/// The data of a directory that has none.
pub fn no_data() -> Result<Arc<()>> {
    Ok(Arc::new((), GFP_KERNEL)?)
}

/// Names that sysfs would not refuse, but change or make unreachable.
fn check_name(name: &CStr) -> Result {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(EINVAL),
        name if name.contains(&b'/') => Err(EINVAL),
        _ => Ok(()),
    }
}

impl<T: Send + Sync + 'static> Dir<T> {
    /// Makes `/sys/class/CLASS/NAME`, a device, and announces it. `EEXIST` if there is one of the
    /// name. Sleeps.
    pub fn in_class(
        class: &Class,
        name: &CStr,
        data: Arc<T>,
        attrs: &'static [Attr<T>],
    ) -> Result<Self> {
        check_name(name)?;
        let files = Files::new(attrs, &data, true)?;
        let raw = class.raw.class.as_ptr();
        // SAFETY: The class is registered. The name is copied. The group lives until the device is
        // removed.
        let device = from_err_ptr(unsafe {
            ffi::rmr_sys_device_dir(raw, name.as_char_ptr(), files.group.get())
        })?;
        let device = NonNull::new(device).ok_or(ENOMEM)?;
        // SAFETY: Within the device; no reference is made.
        let kobj = unsafe { NonNull::new_unchecked(&raw mut (*device.as_ptr()).kobj) };
        // SAFETY: The device was made above, of that class.
        let announcer = unsafe { Device::new(kobj, class.raw.clone()) };
        // INVARIANT: Made above, with a reference.
        Ok(Self {
            kobj,
            kind: Kind::Device(device),
            device: Some(announcer),
            files,
            data,
        })
    }

    /// Makes a directory in another one. `EEXIST` if there is something of the name. Sleeps.
    pub fn in_dir<P>(
        parent: &Dir<P>,
        name: &CStr,
        data: Arc<T>,
        attrs: &'static [Attr<T>],
    ) -> Result<Self>
    where
        P: Send + Sync + 'static,
    {
        Self::plain(parent, parent.device.clone(), name, data, attrs)
    }

    /// Makes a directory below something that is not a [`Dir`]. `EEXIST` if there is something of
    /// the name. Sleeps.
    pub fn under(
        parent: &dyn HasKobject,
        name: &CStr,
        data: Arc<T>,
        attrs: &'static [Attr<T>],
    ) -> Result<Self> {
        Self::plain(parent, None, name, data, attrs)
    }

    fn plain(
        parent: &dyn HasKobject,
        device: Option<Device>,
        name: &CStr,
        data: Arc<T>,
        attrs: &'static [Attr<T>],
    ) -> Result<Self> {
        check_name(name)?;
        let files = Files::new(attrs, &data, false)?;
        let parent = parent.kobject();
        // SAFETY: The parent is in sysfs, as the trait says, and the directory gets a reference to
        // it. The name is copied. The group lives until the directory is removed.
        let kobj = from_err_ptr(unsafe {
            ffi::rmr_sys_plain_dir(parent, name.as_char_ptr(), files.group.get())
        })?;
        let kobj = NonNull::new(kobj).ok_or(ENOMEM)?;
        // INVARIANT: Made above, with a reference.
        Ok(Self {
            kobj,
            kind: Kind::Plain,
            device,
            files,
            data,
        })
    }

    /// What it shows.
    pub fn data(&self) -> &Arc<T> {
        &self.data
    }

    /// Wakes whoever polls the file `attr`. Sleeps.
    pub fn notify(&self, attr: &CStr) {
        // SAFETY: In sysfs, by the type invariant.
        unsafe { bindings::sysfs_notify(self.kobj.as_ptr(), ptr::null(), attr.as_char_ptr()) };
    }

    /// Sends a uevent "change" of the device that the directory is, or is in, with `KEY=value`
    /// words. `ENODEV` if there is no such device, `E2BIG` for more than 16 words. Sleeps.
    pub fn uevent(&self, env: &[&CStr]) -> Result {
        let device = self.device.as_ref().ok_or(ENODEV)?;
        let mut words = [ptr::null_mut::<c_char>(); MAX_ENV + 1];
        if env.len() > MAX_ENV {
            return Err(E2BIG);
        }
        for (word, text) in words.iter_mut().zip(env) {
            *word = text.as_char_ptr().cast_mut();
        }
        // SAFETY: A kobject we have a reference to; words that are only read, with a null at the
        // end.
        to_result(unsafe { ffi::rmr_sys_change_uevent(device.kobj.as_ptr(), words.as_mut_ptr()) })
    }

    /// Makes a symbolic link in it. Sleeps.
    pub fn link(&self, name: &CStr, target: &dyn HasKobject) -> Result {
        link(self, name, target)
    }

    /// Removes a symbolic link from it, if there is one of the name. Sleeps.
    pub fn unlink(&self, name: &CStr) {
        unlink(self, name);
    }
}

// SAFETY: By the type invariant.
unsafe impl<T: Send + Sync + 'static> HasKobject for Dir<T> {
    fn kobject(&self) -> *mut bindings::kobject {
        self.kobj.as_ptr()
    }
}

/// Makes a symbolic link in the directory of `from`. Sleeps.
pub fn link(from: &dyn HasKobject, name: &CStr, target: &dyn HasKobject) -> Result {
    check_name(name)?;
    // SAFETY: Both are in sysfs, as the trait says.
    to_result(unsafe {
        bindings::sysfs_create_link(from.kobject(), target.kobject(), name.as_char_ptr())
    })
}

/// Removes a symbolic link from the directory of `from`, if there is one of the name. Sleeps.
pub fn unlink(from: &dyn HasKobject, name: &CStr) {
    // SAFETY: In sysfs, as the trait says.
    unsafe { bindings::sysfs_remove_link(from.kobject(), name.as_char_ptr()) };
}

impl<T: Send + Sync + 'static> Drop for Dir<T> {
    fn drop(&mut self) {
        match self.kind {
            // SAFETY: By the type invariant; it removes the files and gives up the reference.
            Kind::Device(device) => unsafe { bindings::device_unregister(device.as_ptr()) },
            // SAFETY: As above.
            Kind::Plain => unsafe {
                ffi::rmr_sys_plain_dir_remove(self.kobj.as_ptr(), self.files.group.get())
            },
        }
    }
}
