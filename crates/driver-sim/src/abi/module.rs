//! Modules: PTX text, and the twins of its entries.

use super::given;
use super::stream::unsafe_beside_captures;
use crate::fault::Class;
use crate::kernel::{Twin, entries, twin};
use crate::result::{CuError, CuResult};
use crate::session::{Session, call};
use crate::sim::new_handle;
use crate::types::{DevicePtr, Function, Module, Out};
use std::ffi::{CStr, c_char, c_void};

/// Loads PTX text from a file.
///
/// # Safety
/// `path` is a string that ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoad(module: Out<'_, Module>, path: *const c_char) -> CuResult {
    call("cuModuleLoad", Class::Allocate, |sim| {
        // SAFETY: by the contract of this function.
        let path = unsafe { text(path)? };
        let image = std::fs::read_to_string(path).map_err(|_| CuError::FILE_NOT_FOUND)?;
        load(sim, module, &image)
    })
}

/// Loads PTX text. Compiled images are `CUDA_ERROR_NO_BINARY_FOR_GPU`.
///
/// # Safety
/// `image` is text that ends with NUL, or begins as an image does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: Out<'_, Module>, image: *const c_void) -> CuResult {
    call("cuModuleLoadData", Class::Allocate, |sim| {
        // SAFETY: by the contract of this function.
        let image = unsafe { text(image.cast())? };
        load(sim, module, image)
    })
}

/// The same; options of the compiler are not looked at.
///
/// # Safety
/// As for [`cuModuleLoadData`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: Out<'_, Module>,
    image: *const c_void,
    _count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
) -> CuResult {
    call("cuModuleLoadDataEx", Class::Allocate, |sim| {
        // SAFETY: by the contract of this function.
        let image = unsafe { text(image.cast())? };
        load(sim, module, image)
    })
}

/// Ends a module and its functions, none of which may be in use.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: Module) -> CuResult {
    call("cuModuleUnload", Class::Release, |sim| {
        if sim.modules.remove(&module).is_none() {
            return Err(sim.bad_handle("cuModuleUnload", "module", module));
        }
        if sim.is_pending_in(module) {
            sim.report("cuModuleUnload: a kernel of the module has not run".into());
        }
        sim.functions.retain(|_, (of, _)| *of != module);
        Ok(())
    })
}

/// Writes a kernel of a module. One that the text does not have, or that has no twin, is not found.
///
/// # Safety
/// `name` is a string that ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: Out<'_, Function>,
    module: Module,
    name: *const c_char,
) -> CuResult {
    call("cuModuleGetFunction", Class::Allocate, |sim| {
        // SAFETY: by the contract of this function.
        let name = unsafe { text(name)? };
        let function = given(function)?;
        let Some(twins) = sim.modules.get(&module) else {
            return Err(sim.bad_handle("cuModuleGetFunction", "module", module));
        };
        let twin: &'static Twin = twins.iter().find(|twin| twin.name == name).ok_or(CuError::NOT_FOUND)?;
        let handle = new_handle();
        sim.functions.insert(handle, (module, twin));
        function.write(handle);
        Ok(())
    })
}

/// Globals are not there: `CUDA_ERROR_NOT_FOUND`.
#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetGlobal_v2(
    _address: Out<'_, DevicePtr>,
    _bytes: Out<'_, usize>,
    _module: Module,
    _name: *const c_char,
) -> CuResult {
    call("cuModuleGetGlobal_v2", Class::Other, |_| Err(CuError::NOT_FOUND))
}

/// Writes an attribute of a kernel: 1024 threads in a block, and 0 for whatever else.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: Out<'_, i32>, attribute: u32, function: Function) -> CuResult {
    call("cuFuncGetAttribute", Class::Other, |sim| {
        if !sim.functions.contains_key(&function) {
            return Err(sim.bad_handle("cuFuncGetAttribute", "function", function));
        }
        if attribute >= FUNCTION_ATTRIBUTES {
            return Err(CuError::INVALID_VALUE);
        }
        given(value)?.write(if attribute == 0 { super::launch::MOST_THREADS as i32 } else { 0 });
        Ok(())
    })
}

/// Sets an attribute of a kernel, which changes nothing here.
#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: Function, attribute: u32, _value: i32) -> CuResult {
    call("cuFuncSetAttribute", Class::Other, |sim| {
        if !sim.functions.contains_key(&function) {
            return Err(sim.bad_handle("cuFuncSetAttribute", "function", function));
        }
        if attribute < FUNCTION_ATTRIBUTES { Ok(()) } else { Err(CuError::INVALID_VALUE) }
    })
}

fn load(sim: &mut Session, module: Out<'_, Module>, image: &str) -> Result<(), CuError> {
    unsafe_beside_captures(sim)?;
    let module = given(module)?;
    let mut twins = Vec::new();
    for entry in entries(image).ok_or(CuError::INVALID_PTX)? {
        match twin(&entry.name) {
            Some(twin) if twin.params == entry.params => twins.push(twin),
            Some(twin) => {
                let (name, found, wanted) = (&entry.name, &entry.params, twin.params);
                eprintln!("driver-sim: {name} has parameters of {found:?} bytes, its twin of {wanted:?}");
                return Err(CuError::INVALID_PTX);
            }
            None => eprintln!("driver-sim: {} has no host twin; see `kernel::twins`", entry.name),
        }
    }
    let handle = new_handle();
    sim.modules.insert(handle, twins);
    module.write(handle);
    Ok(())
}

/// # Safety
/// `pointer` is null, or text that ends with NUL, or an image, which begins with bytes that no text has.
unsafe fn text<'a>(pointer: *const c_char) -> Result<&'a str, CuError> {
    if pointer.is_null() {
        return Err(CuError::INVALID_VALUE);
    }
    // SAFETY: text has a NUL, and an image has one within its header.
    let text = unsafe { CStr::from_ptr(pointer) };
    match text.to_str() {
        Ok(text) if !text.starts_with('\u{7f}') => Ok(text),
        _ => Err(CuError::NO_BINARY_FOR_GPU),
    }
}

/// Attributes from here on are unknown to CUDA 12.8.
const FUNCTION_ATTRIBUTES: u32 = 16;
