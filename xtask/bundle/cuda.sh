#!/bin/sh
# Runs this bundle on the first CUDA device of this machine: first what must be right, then what should be fast.
#
#   ./run.sh                    writes results.md into the current folder, or into $OUT
#   BUNDLE_ONLY=right ./run.sh  what must be right, and no more
#   BUNDLE_QUICK=1 ./run.sh     small sizes: shows that everything runs; its figures mean nothing
#
# Needs the NVIDIA driver and nothing else: no Rust, no CUDA toolkit, no network. Where python3 with torch is, PyTorch is
# measured too. Exit code 0: everything that must be right was, however fast; 1: something was wrong; 2: no device.
#
# On the project's simulated driver it calls itself cuda-sim, and its results results-cuda-sim.md.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 2
# shellcheck source=xtask/bundle/common.sh
. "$here/common.sh"

# ---- Which device

"$here/swap-tensor" info >"$work/info" || exit 2
backend=cuda
gpu=$(devices cuda | head -n 1)
if [ -z "$gpu" ]; then
    echo "run.sh: no CUDA device: $(why_not cuda)" >&2
    exit 2
fi
case $gpu in
*driver-sim*)
    label=cuda-sim
    begin results-cuda-sim "cuda-sim: a simulated driver in host memory, and no GPU"
    ;;
*)
    label=cuda
    begin "results${quick:+-quick}" "CUDA: what was measured"
    ;;
esac
say "- device: $gpu"
[ $label != cuda ] || nvidia
facts

# ---- What must be right

conformance ''
for program in conformance swap_conformance models_conformance cuda_device many_copies allocation_free; do
    suite 300 $program
done
conformed

section "A kernel on a block, before and after it moved"
right 120 kernel_on_view

section "A kernel on tensors just swapped in"
right 120 compute_on_view cuda

section "A model larger than its arena"
room
job 400
rm -rf "$work/swap-tensor"

[ "$only" != right ] || finish

# ---- What should be fast

section "Against the driver's own functions"
BENCH_DATE=$date BENCH_COMMIT=$commit
export BENCH_DATE BENCH_COMMIT
limited 400 "$here/gpu_rates" --markdown ${quick:+--quick} >"$work/rates" 2>&1
status=$?
show "$work/rates"
if [ $status -ne 0 ]; then
    say
    fail "gpu_rates $(ended $status)"
fi

section "Against memcpy"
rates 200 copy_rate ${quick:+--quick} cuda

section PyTorch
if [ $label != cuda ]; then
    say "not asked: this is no GPU"
elif python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then
    limited 200 python3 "$here/torch_rates.py" ${quick:+--quick} >"$work/torch" 2>&1
    status=$?
    show "$work/torch"
    # Not of this project: said, and no failure of it.
    [ $status -eq 0 ] || say "torch_rates.py $(ended $status)"
else
    say "not here: python3 with a torch that sees the device"
fi

finish
