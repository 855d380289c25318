//! Whether tests run under the validation layer, and one test of a program at a time if they do.

use std::cell::OnceCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this program is under the layer, and keeps the others waiting until this thread, which is
/// the test's, ends. Asked again by the same thread, it does nothing.
///
/// The layer (1.3.239, Debian 12's) looks up whose each call is in a map that it does not lock, and that making or
/// destroying any instance or device changes (KhronosGroup/Vulkan-ValidationLayers #4391). So a call dies of what another
/// test does to a device of its own, now and then; and making and destroying one after the other does not help, as the
/// calls in between look, too. Without the layer there is nothing of the kind.
pub(crate) fn under_the_layer() {
    static TURN: Mutex<()> = Mutex::new(());
    thread_local!(static OURS: OnceCell<MutexGuard<'static, ()>> = const { OnceCell::new() });
    // A test that failed keeps no other from its turn.
    OURS.with(|ours| {
        ours.get_or_init(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// Whether devices under test have the validation layer, which is to say nothing about them. `SWAP_TENSOR_NO_LAYER=1` leaves it
/// out, on a machine with a driver and without the layer: what a test then proves is what it checks itself.
pub(crate) fn with_layer() -> bool {
    std::env::var_os("SWAP_TENSOR_NO_LAYER").is_none_or(|set| set != "1")
}
