// SPDX-License-Identifier: GPL-2.0

//! `/sys/class/brmr-server`: stores on the block devices of this node. Described in
//! `docs/ABI/sysfs-class-brmr-server`.

use crate::store::Create;
use crate::store::LocalStore;
use crate::store::Opening;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use rmr::malformed;
use rmr::refuse;
use rmr::refuse::text;
use rmr::secret;
use rmr::secret::Secret;
use rmr::server::StoreHandle;
use rmr::store::Store;
use rmr_engine::options::Error as Malformed;
use rmr_engine::options::Key;
use rmr_engine::options::Options;
use rmr_proto::Geometry;
use rmr_proto::PoolName;
use rmr_sys::global::Global;
use rmr_sys::sysfs::no_data;
use rmr_sys::sysfs::Attr;
use rmr_sys::sysfs::Dir;
use rmr_sys::tree;
use rmr_sys::tree::Tree;

/// Longest path of a device.
const MAX_PATH: usize = 255;

static REGISTRY: Global<Registry> = Global::new();

/// Makes the class and what is in it. Sleeps.
pub(crate) fn tree(module: &'static ThisModule) -> Result<Tree<Registry>> {
    Tree::new(c"brmr-server", &CTL, |class| {
        let dir = Dir::in_class(class, c"stores", no_data()?, &[])?;
        Arc::pin_init(
            pin_init!(Registry {
                module,
                dir,
                stores <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL,
        )
    })
}

/// An attached store.
struct Attached {
    _dir: Dir<LocalStore>,
    /// Dropped before the store: waits for its requests.
    handle: StoreHandle,
    store: Arc<LocalStore>,
}

/// All stores of this node.
#[pin_data]
pub(crate) struct Registry {
    module: &'static ThisModule,
    dir: Dir<()>,
    #[pin]
    stores: Mutex<KVec<Attached>>,
}

impl tree::Registry for Registry {
    fn global() -> &'static Global<Self> {
        &REGISTRY
    }

    /// Removes all stores. Nobody uses them: that would keep the module loaded.
    fn stop(&self) {
        let stores = core::mem::take(&mut *self.stores.lock());
        drop(stores);
    }
}

static CTL: [Attr<Registry>; 2] = [
    Attr::wo(
        c"create_store",
        "device=<path> pool=<name> mapped_size=<512-byte sectors> [metadata=<path>] [member_id=<1..32>] [chunk_size=<bytes>] [init=zero|equal] [secret=<key>] [force=1]",
        create_store,
    ),
    Attr::wo(c"add_store", "device=<path> pool=<name> [metadata=<path>] [mapped_size=<512-byte sectors>] [mode=add] [secret=<key>|none]", add_store),
];

static STORE: [Attr<LocalStore>; 8] = [
    Attr::ro(c"dev_size", |store, w| writeln!(w, "{}", store.device().size() / 512)),
    Attr::ro(c"mapped_size", |store, w| {
        writeln!(w, "{}", store.info().geometry().size() / 512)
    }),
    Attr::ro(c"bdev_name", |store, w| writeln!(w, "{}", text(store.device().name()))),
    Attr::ro(c"metadata", |store, w| {
        writeln!(w, "{}", match store.metadata_device() {
            Some(metadata) => text(metadata.name()),
            None => "internal",
        })
    }),
    Attr::ro(c"secret", |store, w| {
        writeln!(w, "{}", secret::shown(store.info().secret.as_ref()))
    }),
    Attr::ro(c"state", |store, w| {
        let serving = REGISTRY.get().is_some_and(|r| r.is_serving(store));
        writeln!(w, "{}", if serving { "mapped" } else { "unmapped" })
    }),
    Attr::wo(c"remove_store", "1 | force", |store, line| {
        let force = forced("remove_store", line)?;
        REGISTRY.get().ok_or(ENODEV)?.remove("remove_store", store, force).map(drop)
    })
    .removes_self(),
    Attr::wo(c"delete_store", "1", |store, line| {
        if line.trim_ascii() != b"1" {
            return Err(refuse!(EINVAL, "delete_store: write 1 to it"));
        }
        REGISTRY.get().ok_or(ENODEV)?.remove("delete_store", store, false)?;
        store.wipe().map_err(|error| {
            refuse!(
                error,
                "delete_store: the superblock could not be wiped ({:?}); see the messages of the device's driver",
                error
            )
        })
    })
    .removes_self(),
];

fn forced(command: &str, line: &[u8]) -> Result<bool> {
    match line.trim_ascii() {
        b"1" => Ok(false),
        b"force" => Ok(true),
        _ => Err(refuse!(EINVAL, "{}: write 1 (or force) to it", command)),
    }
}

/// The path of the metadata device, if the store is to have one.
fn metadata_path<'a>(
    options: &Options<'a>,
) -> core::result::Result<Option<&'a str>, Malformed<'a>> {
    let value = options.get("metadata");
    value.map(|m| m.text_up_to(MAX_PATH)).transpose()
}

fn create_store(registry: &Arc<Registry>, line: &[u8]) -> Result {
    const COMMAND: &str = "create_store";
    const KEYS: &[Key] = &[
        Key::once("device"),
        Key::once("pool"),
        Key::once("mapped_size"),
        Key::once("member_id"),
        Key::once("chunk_size"),
        Key::once("init"),
        Key::once("secret"),
        Key::once("force"),
        Key::once("metadata"),
    ];
    let parse = || {
        let options = Options::parse(line, KEYS)?;
        let path = options.require("device")?.text_up_to(MAX_PATH)?;
        let name = options.require("pool")?.pool()?;
        let sectors = options.require("mapped_size")?.sectors(1..=u64::MAX >> 9)?;
        let member = options.get("member_id").map(|m| m.member()).transpose()?;
        let chunk = options
            .get("chunk_size")
            .map(|c| c.bytes_size(4096..=64 << 20))
            .transpose()?;
        let init = options
            .get("init")
            .map(|i| i.choice(&["zero", "equal"]))
            .transpose()?;
        let secret = options.get("secret");
        let secret = secret.map(|s| s.text_up_to(secret::MAX_DESCRIPTION));
        let force = options.get("force").map(|f| f.boolean()).transpose()?;
        let metadata = metadata_path(&options)?;
        Ok((
            path,
            name,
            sectors,
            member,
            chunk,
            init,
            secret.transpose()?,
            force,
            metadata,
        ))
    };
    let (path, name, sectors, member, chunk, init, secret, force, metadata) =
        parse().map_err(malformed!(COMMAND))?;
    let shift = match chunk {
        None => Ok(Geometry::DEFAULT_CHUNK_SHIFT),
        Some(bytes) => Geometry::shift_of(bytes),
    };
    let geometry = shift
        .and_then(|shift| Geometry::new(sectors << 9, shift))
        .map_err(|error| refuse!(EINVAL, "{}: {}", COMMAND, error))?;
    let member = match member.or_else(|| rmr::server::member_of(&name)) {
        Some(member) => member,
        None => {
            return Err(refuse!(
                EINVAL,
                "{}: member_id= is missing; give it here, or join the pool first (/sys/class/rmr-server/ctl/join_pool)",
                COMMAND
            ))
        }
    };
    registry.check_name(COMMAND, &name)?;
    rmr::server::check_member(COMMAND, &name, member)?;
    let create = Create {
        name,
        member,
        geometry,
        force: force.unwrap_or(false),
        keep_data: init == Some(1),
        secret: Secret::find(COMMAND, secret.unwrap_or(secret::NONE))?,
    };
    registry.attach(LocalStore::create(
        registry.module,
        path,
        metadata,
        &create,
    )?)
}

fn add_store(registry: &Arc<Registry>, line: &[u8]) -> Result {
    // The C project wants the size and a mode here, too; the store knows the one and needs no other.
    const KEYS: &[Key] = &[
        Key::once("device"),
        Key::once("pool"),
        Key::once("mapped_size"),
        Key::once("mode"),
        Key::once("metadata"),
        Key::once("secret"),
    ];
    const COMMAND: &str = "add_store";
    let parse = || {
        let options = Options::parse(line, KEYS)?;
        let path = options.require("device")?.text_up_to(MAX_PATH)?;
        let name = options.require("pool")?.pool()?;
        let sectors = options
            .get("mapped_size")
            .map(|s| s.sectors(1..=u64::MAX >> 9))
            .transpose()?;
        options
            .get("mode")
            .map(|m| m.choice(&["add"]))
            .transpose()?;
        let metadata = metadata_path(&options)?;
        let secret = options.get("secret");
        let secret = secret.map(|s| s.text_up_to(secret::MAX_DESCRIPTION));
        Ok((path, name, sectors, metadata, secret.transpose()?))
    };
    let (path, name, sectors, metadata, secret) = parse().map_err(malformed!(COMMAND))?;
    registry.check_name(COMMAND, &name)?;
    let opening = match secret {
        Some(description) => Opening::With(Secret::find(COMMAND, description)?),
        None => Opening::AsBefore,
    };
    let store = LocalStore::open(registry.module, path, metadata, &name, opening)?;
    let size = store.info().geometry().size() / 512;
    if sectors.is_some_and(|sectors| sectors != size) {
        return Err(refuse!(
            EINVAL,
            "{}: the store on {} has {} sectors, not the mapped_size= given; leave it out or correct it",
            COMMAND,
            path,
            size
        ));
    }
    registry.attach(store.clone())?;
    store.keep_secret().map_err(|error| {
        // It would not be what it is now when it is opened next.
        let _ = registry.remove(COMMAND, &store, true);
        refuse!(
            error,
            "{}: device {}: the superblock could not be written ({:?}); see the messages of its driver",
            COMMAND,
            path,
            error
        )
    })
}

impl Registry {
    /// Refuses a second store of a pool, before anything is written to its device.
    fn check_name(&self, command: &str, name: &PoolName) -> Result {
        let stores = self.stores.lock();
        if stores.iter().any(|s| s.store.info().pool_name == *name) {
            return Err(refuse!(
                EEXIST,
                "{}: this node has a store of pool {} already; remove it first",
                command,
                name
            ));
        }
        Ok(())
    }

    fn attach(&self, store: Arc<LocalStore>) -> Result {
        let mut stores = self.stores.lock();
        stores.reserve(1, GFP_KERNEL)?;
        let handle = rmr::server::add_store(store.clone())?;
        let file = CString::try_from_fmt(fmt!("{}", store.info().pool_name.as_str()))?;
        let dir = Dir::in_dir(&self.dir, &file, store.clone(), &STORE)?;
        stores.push(
            Attached {
                _dir: dir,
                handle,
                store,
            },
            GFP_KERNEL,
        )?;
        Ok(())
    }

    fn is_serving(&self, store: &LocalStore) -> bool {
        let stores = self.stores.lock();
        stores
            .iter()
            .any(|s| core::ptr::eq(&*s.store, store) && s.handle.is_serving())
    }

    /// Takes a store away; `EBUSY` while a client has the pool open, unless forced. Sleeps.
    fn remove(&self, command: &str, store: &Arc<LocalStore>, force: bool) -> Result {
        let mut stores = self.stores.lock();
        let place = stores
            .iter()
            .position(|s| Arc::ptr_eq(&s.store, store))
            .ok_or(ENOENT)?;
        if !force && stores.get(place).is_some_and(|s| s.handle.is_serving()) {
            return Err(refuse!(
                EBUSY,
                "{}: a client has pool {} open; unmap its device first (or remove_store with force, then the client's IO fails)",
                command,
                store.info().pool_name
            ));
        }
        let attached = stores.remove(place)?;
        drop(stores);
        drop(attached);
        Ok(())
    }
}
