#!/bin/sh
# Runs this bundle on the first CUDA device of this machine: first what must be right, then what should be fast.
#
#   ./run.sh                 writes results.md into the current folder, or into $OUT
#   BUNDLE_QUICK=1 ./run.sh  small sizes: shows that everything runs; its figures mean nothing
#
# Needs the NVIDIA driver and nothing else: no Rust, no CUDA toolkit, no network. Where python3 with torch is, PyTorch is
# measured too. Exit code 0: everything that must be right was, however fast; 1: something was wrong; 2: no device.
#
# On the project's simulated driver it calls itself cuda-sim, and its results results-cuda-sim.md.
set -u

here=$(cd "$(dirname "$0")" && pwd) || exit 2
out=${OUT:-.}
quick=${BUNDLE_QUICK:-}
commit=$(cat "$here/commit")
date=$(date -u +%Y-%m-%d)
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM
failed=0

# A line, or a file, for whoever watches and for the results.
say() { printf '%s\n' "$*" | tee -a "$results"; }
show() { tee -a "$results" <"$1"; }
fenced() {
    say '```text'
    show "$1"
    say '```'
}
fail() {
    failed=$((failed + 1))
    say "**FAILED: $***"
}

# Runs a command for so many seconds at most, where the machine can end it.
limited() {
    seconds=$1
    shift
    if command -v timeout >/dev/null 2>&1; then timeout "$seconds" "$@"; else "$@"; fi
}

# ---- Which device

"$here/swap-tensor" info >"$work/info" || exit 2
gpu=$(awk '/^backend /{ours = $2 == "cuda"}
    ours && /^  device 0 /{sub(/^  device 0 */, ""); sub(/, memory .*/, ""); print; exit}' "$work/info")
if [ -z "$gpu" ]; then
    why=$(sed -n 's/^backend cuda  *//p' "$work/info")
    echo "run.sh: no CUDA device: ${why:-none is listed}" >&2
    exit 2
fi
case $gpu in
*driver-sim*) backend=cuda-sim name=results-cuda-sim ;;
*) backend=cuda name=results${quick:+-quick} ;;
esac
mkdir -p "$out" || exit 2
results=$out/$name.md
: >"$results" || exit 2

if [ $backend = cuda ]; then
    say "# CUDA: what was measured"
else
    say "# cuda-sim: a simulated driver in host memory, and no GPU"
fi
say
say "- device: $gpu"
if [ $backend = cuda ] && command -v nvidia-smi >/dev/null 2>&1; then
    say "- nvidia-smi: $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>&1 | head -n 4 | tr '\n' ';')"
fi
say "- commit: $commit"
say "- date: $date"
say "- host: $(uname -srm), $(getconf _NPROCESSORS_ONLN 2>/dev/null) processors"
say "- $(grep '^host memory' "$work/info" | tr -s ' ')"
if [ -n "$quick" ]; then
    say "- quick: sizes were divided, and no figure means anything"
fi

# ---- What must be right: the suites

# Suites of a program's tests `<backend>::<suite>::<promise>`; of others all as one, called after the program. A promise that
# says it cannot be tried counts as such, although the test passed.
cat >"$work/count.awk" <<'END'
/^test .* \.\.\. / {
    parts = split($2, part, "::")
    suite = parts > 2 ? part[2] : program
    if (!(suite in known)) { known[suite] = 1; order[++suites] = suite }
    of[part[parts]] = suite
    verdict = substr($0, index($0, " ... ") + 5)
    if (verdict == "ok") passed[suite]++
    else if (verdict ~ /^ignored/) untried[suite]++
    else failed[suite]++
}
/^skipped [a-z_0-9]+: / {
    promise = substr($2, 1, length($2) - 1)
    if (promise in of) { passed[of[promise]]--; untried[of[promise]]++ }
}
END {
    for (i = 1; i <= suites; i++) {
        suite = order[i]
        printf "| %s | %d | %d | %d |\n", suite, passed[suite], failed[suite], untried[suite]
    }
}
END

say
say "## Conformance"
say
say "| suite | $backend: passed | failed | cannot be tried here |"
say "|---|---|---|---|"
broken=
for program in conformance swap_conformance models_conformance cuda_device many_copies allocation_free; do
    limited 300 "$here/$program" --test-threads=1 --show-output >"$work/$program" 2>&1
    status=$?
    awk -v program="$program" -f "$work/count.awk" "$work/$program" >"$work/rows"
    show "$work/rows"
    if [ $status -ne 0 ] || [ ! -s "$work/rows" ]; then
        broken="$broken $program:$status"
    fi
done
for which in $broken; do
    program=${which%:*}
    cp "$work/$program" "$out/$name-$program.log"
    say
    fail "$program ended with status ${which#*:}. From $name-$program.log:"
    {
        grep -A 3 'panicked at' "$work/$program" | head -n 40
        echo ...
        tail -n 20 "$work/$program"
    } >"$work/extract"
    fenced "$work/extract"
done

# ---- What must be right: a kernel on a block that moves, and on a tensor just swapped in

say
say "## A kernel on a block, before and after it moved"
say
limited 120 "$here/kernel_on_view" >"$work/kernel" 2>&1
status=$?
fenced "$work/kernel"
[ $status -eq 0 ] || fail "kernel_on_view ended with status $status"

say
say "## A kernel on tensors just swapped in"
say
limited 120 "$here/compute_on_view" cuda >"$work/compute.raw" 2>&1
status=$?
sed "s/^told on cuda\$/told on $backend/" "$work/compute.raw" >"$work/compute"
fenced "$work/compute"
[ $status -eq 0 ] || fail "compute_on_view ended with status $status"

# ---- What must be right: a model larger than its arena

if [ -n "$quick" ]; then
    model=8388608 arena=3145728
else
    model=4000000000 arena=1073741824
fi
say
say "## A model larger than its arena"
say
# On disk once; in host memory as the tier for what changed, and as the file's pages.
disk=$(df -Pk "$work" | awk 'NR == 2 {print $4}')
disk=${disk:-0}
memory=$("$here/swap-tensor" info --json | sed -n 's/.*"available_bytes":\([0-9][0-9]*\).*/\1/p')
memory=${memory:-0}
wanted=$model
while [ $model -gt 16777216 ]; do
    short=
    [ $((model / 1024 + 65536)) -le "$disk" ] || short="$((disk / 1024)) MiB are free on disk"
    [ $((model * 2)) -le "$memory" ] || short="${short:+$short, }$((memory / 1048576)) MiB of host memory"
    [ -n "$short" ] || break
    model=$((model / 2)) arena=$((arena / 2)) why=$short
done
if [ $model -ne $wanted ]; then
    say "**SCALED DOWN: a model of $wanted bytes is too large here ($why); this one, and its arena, are smaller.**"
    say
fi
say "\`swap-tensor run --backend $backend --model-size $model --device-memory $arena\`"
say
XDG_CACHE_HOME=$work limited 400 "$here/swap-tensor" run --backend cuda --model-size $model --device-memory $arena \
    >"$work/job.raw" 2>&1
status=$?
sed -e "s|$work/swap-tensor/||" -e "s/^device      cuda,/device      $backend,/" "$work/job.raw" >"$work/job"
fenced "$work/job"
rm -rf "$work/swap-tensor"
if [ $status -ne 0 ] || ! grep -q '^mismatches  0$' "$work/job"; then
    fail "the main job ended with status $status, or bytes were wrong"
fi

# ---- What should be fast

say
say "## Against the driver's own functions"
say
BENCH_DATE=$date BENCH_COMMIT=$commit limited 400 "$here/gpu_rates" --markdown ${quick:+--quick} >"$work/rates" 2>&1
status=$?
show "$work/rates"
if [ $status -ne 0 ]; then
    say
    fail "gpu_rates ended with status $status"
fi

say
say "## Against memcpy"
say
limited 200 "$here/copy_rate" ${quick:+--quick} cuda >"$work/copies.raw" 2>&1
status=$?
sed "s/^backend cuda\$/backend $backend/" "$work/copies.raw" >"$work/copies"
fenced "$work/copies"
[ $status -eq 0 ] || fail "copy_rate ended with status $status"

say
say "## PyTorch"
say
if [ $backend != cuda ]; then
    say "not asked: this is no GPU"
elif python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then
    limited 200 python3 "$here/torch_rates.py" ${quick:+--quick} >"$work/torch" 2>&1
    status=$?
    show "$work/torch"
    # Not of this project: said, and no failure of it.
    [ $status -eq 0 ] || say "torch_rates.py ended with status $status"
else
    say "not here: python3 with a torch that sees the device"
fi

say
if [ $failed -eq 0 ]; then
    say "Everything that must be right on $backend was."
    exit 0
fi
say "**$failed of the steps that must be right on $backend FAILED.**"
exit 1
