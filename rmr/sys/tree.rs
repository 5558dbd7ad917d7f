// SPDX-License-Identifier: GPL-2.0

//! What one side of a module has in sysfs: its class, the directory `ctl` with commands, and the registry that they
//! work on.

use crate::global::Global;
use crate::sysfs::Attr;
use crate::sysfs::Class;
use crate::sysfs::Dir;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Everything that commands have made.
pub trait Registry: Send + Sync + Sized + 'static {
    /// Where it is found while the module is loaded.
    fn global() -> &'static Global<Self>;

    /// Takes everything apart. No command runs any more, nobody finds it, and nothing of the module is held
    /// open. Sleeps.
    fn stop(&self);
}

/// Class, commands and registry; dropping it is the end of all of them.
pub struct Tree<R: Registry> {
    /// `None` once the module is being unloaded: then no command adds anything to the registry.
    ctl: Option<Dir<R>>,
    registry: Arc<R>,
    _class: Class,
}

impl<R: Registry> Tree<R> {
    /// Makes the class, has `make` make the registry (and further directories of the class), and then the commands.
    /// Sleeps.
    pub fn new(
        class: &'static CStr,
        commands: &'static [Attr<R>],
        make: impl FnOnce(&Class) -> Result<Arc<R>>,
    ) -> Result<Self> {
        let class = Class::register(class)?;
        let registry = make(&class)?;
        let ctl = Dir::in_class(&class, c"ctl", registry.clone(), commands)?;
        // Last, as it would outlive a failure.
        R::global().set(registry.clone());
        Ok(Self {
            ctl: Some(ctl),
            registry,
            _class: class,
        })
    }
}

impl<R: Registry> Drop for Tree<R> {
    fn drop(&mut self) {
        self.ctl = None;
        R::global().clear();
        self.registry.stop();
    }
}
