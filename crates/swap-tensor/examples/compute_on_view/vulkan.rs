//! The kernel through ash: a descriptor for the view, two push constants, one dispatch.

use crate::{AddKernel, Done};
use allocator_core::DeviceBuffer;
use backend_vulkan::ash::{self, vk};
use backend_vulkan::{VulkanBuffer, VulkanDevice, VulkanHandle, VulkanOptions, VulkanQueue};
use core::ops::Range;
use std::cell::RefCell;
use std::error::Error;

/// Opens a device and makes the pipeline on it.
pub(crate) fn open() -> Result<(VulkanDevice, Add), Box<dyn Error>> {
    let device = VulkanOptions::new().open()?;
    println!("{:?}", device.info().name);
    let kernel = Add::new(&device)?;
    Ok((device, kernel))
}

/// The pipeline, and descriptor sets for every dispatch of the story.
pub(crate) struct Add {
    /// Keeps the device until the pipeline is gone.
    handle: VulkanHandle,
    set_layout: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    descriptors: vk::DescriptorPool,
    /// Not yet bound: a set must not change while a submission uses it.
    sets: RefCell<Vec<vk::DescriptorSet>>,
}

impl Add {
    fn new(device: &VulkanDevice) -> Result<Self, vk::Result> {
        let handle = device.handle();
        let device = handle.device();
        let code = ash::util::read_spv(&mut std::io::Cursor::new(include_bytes!("add.spv")))
            .map_err(|_| vk::Result::ERROR_INVALID_SHADER_NV)?;
        // SAFETY: plain Vulkan: everything passed is alive and belongs to the device; what fails here ends the example.
        unsafe {
            let binding = [vk::DescriptorSetLayoutBinding::default()
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)];
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&binding);
            let set_layout = device.create_descriptor_set_layout(&info, None)?;
            let layouts = [set_layout];
            let constants =
                [vk::PushConstantRange::default().stage_flags(vk::ShaderStageFlags::COMPUTE).size(8)];
            let info = vk::PipelineLayoutCreateInfo::default()
                .set_layouts(&layouts)
                .push_constant_ranges(&constants);
            let layout = device.create_pipeline_layout(&info, None)?;
            let module =
                device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout)];
            let made = device.create_compute_pipelines(vk::PipelineCache::null(), &info, None);
            device.destroy_shader_module(module, None);
            let pipeline = made.map_err(|(_, result)| result)?[0];
            let sizes = [vk::DescriptorPoolSize {
                ty: vk::DescriptorType::STORAGE_BUFFER,
                descriptor_count: DISPATCHES,
            }];
            let info = vk::DescriptorPoolCreateInfo::default().max_sets(DISPATCHES).pool_sizes(&sizes);
            let descriptors = device.create_descriptor_pool(&info, None)?;
            let layouts = [set_layout; DISPATCHES as usize];
            let info =
                vk::DescriptorSetAllocateInfo::default().descriptor_pool(descriptors).set_layouts(&layouts);
            let sets = RefCell::new(device.allocate_descriptor_sets(&info)?);
            Ok(Add { handle: handle.clone(), set_layout, layout, pipeline, descriptors, sets })
        }
    }
}

impl AddKernel<VulkanDevice> for Add {
    fn align(&self) -> u64 {
        // The most that `minStorageBufferOffsetAlignment` may be.
        256
    }

    fn add(&self, queue: &VulkanQueue, buffer: &VulkanBuffer, range: Range<u64>, addend: u32) -> Done {
        let count = ((range.end - range.start) / 4) as u32;
        let descriptor = [buffer.view(range)?.descriptor()?];
        let set = self.sets.borrow_mut().pop().ok_or("the story has more dispatches than sets")?;
        let write = vk::WriteDescriptorSet::default()
            .dst_set(set)
            .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
            .buffer_info(&descriptor);
        // SAFETY: the set is in no submission yet.
        unsafe { self.handle.device().update_descriptor_sets(&[write], &[]) };
        let arguments: Vec<u8> = [count, addend].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let record = |device: &ash::Device, commands| {
            let (point, stage) = (vk::PipelineBindPoint::COMPUTE, vk::ShaderStageFlags::COMPUTE);
            // SAFETY: as below.
            unsafe {
                device.cmd_bind_pipeline(commands, point, self.pipeline);
                device.cmd_bind_descriptor_sets(commands, point, self.layout, 0, &[set], &[]);
                device.cmd_push_constants(commands, self.layout, stage, 0, &arguments);
                device.cmd_dispatch(commands, count.div_ceil(64), 1, 1);
            }
        };
        // SAFETY: the shader touches the bound range of `buffer` alone, which is among the uses; pipeline and set live
        // until the story has waited for its work.
        unsafe { queue.commands(&[buffer], record)? };
        Ok(())
    }
}

impl Drop for Add {
    fn drop(&mut self) {
        let device = self.handle.device();
        // SAFETY: the story ends with a wait for all dispatches, and so does a queue that is dropped; the handle keeps the
        // device.
        unsafe {
            let _ = device.device_wait_idle();
            device.destroy_descriptor_pool(self.descriptors, None);
            device.destroy_pipeline(self.pipeline, None);
            device.destroy_pipeline_layout(self.layout, None);
            device.destroy_descriptor_set_layout(self.set_layout, None);
        }
    }
}

const DISPATCHES: u32 = 32;
