#version 450
// Adds a number to each of the `count` words of the bound block.
// `add.spv` is this file: glslangValidator -V --target-env vulkan1.2 -o add.spv add.comp
layout(local_size_x = 64) in;
layout(set = 0, binding = 0) buffer Block { uint words[]; };
layout(push_constant) uniform Arguments { uint count; uint addend; };
void main() {
    if (gl_GlobalInvocationID.x < count) words[gl_GlobalInvocationID.x] += addend;
}
