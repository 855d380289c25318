#!/bin/sh
# Runs this bundle on the best GPU of this machine that Vulkan lists, through ash (`vulkan`) and through wgpu (`wgpu`): first
# what must be right, then what should be fast.
#
#   ./run.sh                        writes results.md into the current folder, or into $OUT
#   VK_LAYER_PATH=DIR ./run.sh      with the validation layer that lies there, which is a failure to lack
#   SWAP_TENSOR_NO_LAYER=1 ./run.sh without the validation layer, although there is one
#   BUNDLE_ONLY=right ./run.sh      what must be right, and no more
#   BUNDLE_QUICK=1 ./run.sh         small sizes: shows that everything runs; its figures mean nothing
#
# Needs a Vulkan driver, its loader (libvulkan.so.1) and nothing else: no Rust, no network. Ends within six minutes. Exit code 0:
# everything that must be right was, however fast; 1: something was wrong; 2: no device.
#
# On a driver that is software it calls the backends vulkan-software and wgpu-software, its results results-software.md, and takes
# its time.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 2
# shellcheck source=xtask/bundle/common.sh
. "$here/common.sh"

# ---- Which device

"$here/swap-tensor" info >"$work/info" || exit 2
devices vulkan >"$work/devices"
software='llvmpipe|lavapipe|SwiftShader'
gpu=$(grep -v -E "$software" "$work/devices")
if [ -n "$gpu" ]; then
    kind='' patience=1
    end=$(($(date +%s) + 360))
    begin "results${quick:+-quick}" "Vulkan and wgpu: what was measured"
else
    gpu=$(head -n 1 "$work/devices")
    if [ -z "$gpu" ]; then
        echo "run.sh: no Vulkan device: $(why_not vulkan)" >&2
        exit 2
    fi
    kind=-software patience=10
    begin results-software "vulkan-software and wgpu-software: a driver in software on the host's processor, and no GPU"
fi
# Every program takes the best there is: a discrete one before an integrated one, before a virtual one, before software.
echo "$gpu" | sed 's/^/- device: /' >"$work/best"
show "$work/best"
devices wgpu | grep -F -x -e "$gpu" | sed 's/^/- through wgpu: /' >"$work/best"
[ -s "$work/best" ] || echo "- through wgpu: not listed, $(why_not wgpu)" >"$work/best"
show "$work/best"
[ -n "$kind" ] || nvidia
facts

# ---- Which layer

if [ "${SWAP_TENSOR_NO_LAYER:-}" = 1 ]; then
    layer=
    say "- validation layer: OFF, left out by SWAP_TENSOR_NO_LAYER"
elif ! limited 60 "$here/vulkan" the_layer_is_heard --exact >"$work/layer" 2>&1 && grep -q NoLayer "$work/layer"; then
    layer=
    SWAP_TENSOR_NO_LAYER=1
    export SWAP_TENSOR_NO_LAYER
    say "- validation layer: OFF, none is found"
    if [ -n "${VK_LAYER_PATH:-}" ]; then
        say
        fail "VK_LAYER_PATH is set, and there is no validation layer in $VK_LAYER_PATH"
    fi
else
    layer=VK_LAYER_KHRONOS_validation
    say "- validation layer: on, in suites and shaders; whatever it says is a failure"
fi

# ---- What must be right

both="vulkan$kind and wgpu$kind"
label=$both
conformance whole
suite $((90 * patience)) conformance
suite $((60 * patience)) vulkan
suite $((90 * patience)) wgpu_conformance --skip wgpu_noop
suite $((60 * patience)) wgpu_device
suite $((60 * patience)) wgpu_memory
# Of a program that has other backends as well.
suite $((60 * patience)) swap_conformance vulkan:: wgpu:: --skip sim
suite $((60 * patience)) models_conformance vulkan:: wgpu:: --skip sim
conformed

section "A shader on a block that moves, and on tensors just swapped in"
for backend in vulkan wgpu; do
    label=$backend$kind
    right $((60 * patience)) compute_on_view $backend
done

section "A model larger than its arena"
room
backend=vulkan label=vulkan$kind
job $((90 * patience))
say
backend=wgpu label=wgpu$kind
job $((90 * patience))
rm -rf "$work/swap-tensor"

label=$both
[ "$only" != right ] || finish

# ---- What should be fast

section "Moves, against one plain copy"
rates $((45 * patience)) compaction_rate ${quick:+--quick}

section "wgpu against memcpy, and its moves against one plain copy"
rates $((45 * patience)) wgpu_copy_rate --no-small ${quick:+--quick}

section "Against memcpy"
for backend in vulkan wgpu; do
    label=$backend$kind
    rates $((45 * patience)) copy_rate --no-small ${quick:+--quick} $backend
done

label=$both
finish
