//! The text of `torch.cuda.memory_summary`.

use crate::MemoryStats;
use crate::counts::Stat;
use crate::stats::Pools;

/// The whole table: 77 columns a line.
pub(crate) fn text(stats: &MemoryStats, device: u32, abbreviated: bool) -> String {
    let mut lines = vec![
        "=".repeat(WIDTH),
        format!(" {:16} PyTorch CUDA memory summary, device ID {device:<17} ", ""),
        "-".repeat(WIDTH),
        format!("  {:9} CUDA OOMs: {:<12} | {:6} cudaMalloc retries: {:<8}  ", "", stats.num_ooms, "", 0),
        "=".repeat(WIDTH),
        "        Metric         | Cur Usage  | Peak Usage | Tot Alloc  | Tot Freed  ".to_owned(),
    ];
    // What an arena has no counterpart of is zero, as PyTorch prints it for allocators that do not count it.
    let none = Pools::default();
    let whole = |all: Stat| Pools { all, ..none };
    let sizes: [(&str, Pools); 5] = [
        ("Allocated memory", stats.allocated_bytes),
        ("Active memory", stats.allocated_bytes),
        ("Requested memory", stats.requested_bytes),
        ("GPU reserved memory", whole(stats.reserved_bytes)),
        ("Non-releasable memory", none),
    ];
    let counts: [(&str, Pools); 4] = [
        ("Allocations", stats.allocation),
        ("Active allocs", stats.allocation),
        ("GPU reserved segments", whole(stats.segment)),
        ("Non-releasable allocs", none),
    ];
    for (rows, show) in [(&sizes[..], size as Show), (&counts[..], count as Show)] {
        for (name, pools) in rows {
            lines.push("-".repeat(WIDTH));
            lines.push(row(name, &pools.all, &pools.all, show));
            if !abbreviated {
                lines.push(row("      from large pool", &pools.large_pool, &pools.all, show));
                lines.push(row("      from small pool", &pools.small_pool, &pools.all, show));
            }
        }
    }
    for name in ["Oversize allocations", "Oversize GPU segments"] {
        lines.push("-".repeat(WIDTH));
        lines.push(row(name, &none.all, &none.all, count));
    }
    lines.push("=".repeat(WIDTH));
    lines.iter().map(|line| format!("|{line}|\n")).collect()
}

/// Writes a figure in the unit that suits another one.
type Show = fn(u64, u64) -> String;

/// A row. Each figure has the unit of the one for all pools.
fn row(name: &str, stat: &Stat, all: &Stat, show: Show) -> String {
    let cells = [
        show(stat.current, all.current),
        show(stat.peak, all.peak),
        show(stat.allocated, all.allocated),
        show(stat.freed, all.freed),
    ];
    format!(" {name:<21} | {} ", cells.join(" | "))
}

fn size(mut bytes: u64, like: u64) -> String {
    let mut like = like as f64;
    let mut unit = "B  ";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if like < 768.0 * 1024.0 {
            break;
        }
        (unit, bytes, like) = (next, bytes / 1024, like / 1024.0);
    }
    format!("{bytes:6} {unit}")
}

fn count(mut count: u64, like: u64) -> String {
    let mut like = like as f64;
    let mut unit = " ";
    for next in ["K", "M"] {
        if like < 750_000.0 {
            break;
        }
        (unit, count, like) = (next, count / 1000, like / 1000.0);
    }
    format!("{count:7} {unit} ")
}

/// Columns between the bars.
const WIDTH: usize = 75;
