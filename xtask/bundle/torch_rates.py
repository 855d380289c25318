"""PyTorch's copies from pinned memory and its caching allocator, at the sizes and depths of `gpu_rates`, as markdown.

    python3 torch_rates.py [--quick]

Medians of seven rounds. A copy up is `tensor.to('cuda', non_blocking=True)`, which takes its destination from the caching
allocator; one down is `pinned.copy_(tensor, non_blocking=True)`. `deep` keeps eight in flight, `alone` waits for each.
"""

import statistics
import sys
import time

import torch

QUICK = "--quick" in sys.argv[1:]
SCALE = 64 if QUICK else 1
ROUNDS = 3 if QUICK else 7
WORKING_SET = (512 << 20) // SCALE
DEPTH = 8
LIVE = 50 if QUICK else 1000
PAIRS = 500 if QUICK else 10_000


def size(count):
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


def median(run):
    """Median time of `run` in seconds; the first round warms up and does not count."""
    times = []
    for number in range(ROUNDS + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number > 0:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def pipeline(count, depth, copy):
    """Makes `count` copies, waiting for the one that was started `depth` ago."""
    events = [torch.cuda.Event() for _ in range(depth)]
    kept = [None] * depth
    for number in range(count):
        slot = number % depth
        if number >= depth:
            events[slot].synchronize()
        kept[slot] = copy(number)
        events[slot].record()


def copies(block):
    count = min(WORKING_SET // block, 8192 // (20 if QUICK else 1))
    host = torch.empty(count * block, dtype=torch.uint8, pin_memory=True)
    host.random_(0, 256)
    blocks = list(host.split(block))
    device = torch.empty(count * block, dtype=torch.uint8, device="cuda")
    places = list(device.split(block))
    up = lambda number: blocks[number].to("cuda", non_blocking=True)
    down = lambda number: blocks[number].copy_(places[number], non_blocking=True)
    for way, copy in (("up", up), ("down", down)):
        for word, depth in (("deep", DEPTH), ("alone", 1)):
            took = median(lambda: pipeline(count, depth, copy))
            print(f"| {way} {size(block)} {word} | {count * block / took / 1e9:.2f} GB/s |")


def allocator():
    state = 1

    def random():
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return state >> 33

    def take():
        unit = max((4 << 10) // SCALE, 512)
        return torch.empty(unit * (1 + random() % 256), dtype=torch.uint8, device="cuda")

    live = [take() for _ in range(LIVE)]

    def churn():
        for _ in range(PAIRS):
            victim = random() % LIVE
            live[victim] = None
            live[victim] = take()

    took = median(churn) / PAIRS
    print(f"| release + allocate, {LIVE} live | {took * 1e9:.0f} ns |")


def main():
    print(f"- torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
    print("\n| what | PyTorch |\n|---|---|")
    for block in (64 << 10, 2 << 20, 16 << 20, 64 << 20):
        copies(block // SCALE)
    allocator()


main()
