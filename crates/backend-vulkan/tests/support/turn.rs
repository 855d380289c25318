//! One test of a program at a time under the validation layer.

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
