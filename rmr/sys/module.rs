// SPDX-License-Identifier: GPL-2.0

//! References to a module, which keep it loaded.

use kernel::bindings;
use kernel::ThisModule;

/// The module cannot be unloaded while this exists.
pub struct ModuleRef(&'static ThisModule);

impl ModuleRef {
    /// Takes a reference. `None`: the module is about to go. Any context.
    pub fn get(module: &'static ThisModule) -> Option<Self> {
        // SAFETY: The `struct module` behind a `ThisModule` exists while its code runs.
        unsafe { bindings::try_module_get(module.as_ptr()) }.then_some(Self(module))
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: `get` took the reference.
        unsafe { bindings::module_put(self.0.as_ptr()) };
    }
}
