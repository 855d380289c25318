//! What the validation layer says, collected.

use ash::vk;
use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Warnings and errors of the validation layer. Cloning is cheap and names the same log, which may outlive the
/// device: what the layer says about leaks it says when the device and the instance go.
#[derive(Debug, Clone, Default)]
pub struct ValidationLog(Arc<Said>);

#[derive(Debug, Default)]
struct Said {
    messages: Mutex<Vec<String>>,
    closed: AtomicBool,
}

impl ValidationLog {
    /// Takes what was said since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lock())
    }

    /// Whether device and instance are gone, after which nothing more is said. Something that was leaked keeps them.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(SeqCst)
    }

    pub(super) fn close(&self) {
        self.0.closed.store(true, SeqCst);
    }

    /// How to make a messenger that writes here. The messenger must not outlive this log.
    pub(super) fn create_info(&self) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
        type Severity = vk::DebugUtilsMessageSeverityFlagsEXT;
        type Type = vk::DebugUtilsMessageTypeFlagsEXT;
        vk::DebugUtilsMessengerCreateInfoEXT::default()
            .message_severity(Severity::WARNING | Severity::ERROR)
            .message_type(Type::VALIDATION | Type::PERFORMANCE)
            .pfn_user_callback(Some(hear))
            .user_data(Arc::as_ptr(&self.0).cast_mut().cast())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// # Safety
/// Called by the layer, with its own data and the log's address.
unsafe extern "system" fn hear(
    _severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _types: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    log: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: `log` is what `create_info` gave, alive as long as the messenger; `data` is the layer's, or null.
    unsafe {
        let log = &*log.cast::<Said>();
        if let Some(data) = data.as_ref()
            && !data.p_message.is_null()
        {
            let text = CStr::from_ptr(data.p_message).to_string_lossy().into_owned();
            log.messages.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }
    vk::FALSE
}
