//! The text of `torch.cuda.memory_summary`.

use crate::MemoryStats;
use crate::counts::Stat;
use crate::stats::{Pools, arenas};

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
    let sizes: [(&str, Pools); 5] = [
        ("Allocated memory", stats.allocated_bytes),
        ("Active memory", stats.allocated_bytes),
        ("Requested memory", stats.requested_bytes),
        ("GPU reserved memory", arenas(stats.reserved_bytes)),
        ("Non-releasable memory", none),
    ];
    let counts: [(&str, Pools); 4] = [
        ("Allocations", stats.allocation),
        ("Active allocs", stats.allocation),
        ("GPU reserved segments", arenas(stats.segment)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(all: [u64; 4], large: [u64; 4], small: [u64; 4], unit: [u64; 4]) -> Pools {
        let stat = |of: [u64; 4]| Stat {
            current: of[0] * unit[0],
            peak: of[1] * unit[1],
            allocated: of[2] * unit[2],
            freed: of[3] * unit[3],
        };
        Pools { all: stat(all), large_pool: stat(large), small_pool: stat(small) }
    }

    /// The lines were printed by PyTorch.
    #[test]
    fn lines_are_pytorchs() {
        let (mib, gib) = (1 << 20, 1 << 30);
        let bytes =
            pools([1250, 1875, 1220, 1219], [1237, 1856, 1208, 1207], [12, 18, 12, 12], [mib, mib, gib, gib]);
        let count = pools([1234, 1851, 1234, 1232], [0; 4], [0; 4], [1, 1, 1000, 1000]);
        let stats = MemoryStats {
            allocation: count,
            allocated_bytes: bytes,
            requested_bytes: bytes,
            segment: Stat::default(),
            reserved_bytes: Stat::default(),
            num_ooms: 0,
            num_moves: 0,
            moved_bytes: 0,
        };
        let text = text(&stats, 0, false);
        assert!(text.lines().all(|line| line.len() == 77), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in [
            (0, "|===========================================================================|"),
            (1, "|                  PyTorch CUDA memory summary, device ID 0                 |"),
            (2, "|---------------------------------------------------------------------------|"),
            (3, "|            CUDA OOMs: 0            |        cudaMalloc retries: 0         |"),
            (5, "|        Metric         | Cur Usage  | Peak Usage | Tot Alloc  | Tot Freed  |"),
            (7, "| Allocated memory      |   1250 MiB |   1875 MiB |   1220 GiB |   1219 GiB |"),
            (8, "|       from large pool |   1237 MiB |   1856 MiB |   1208 GiB |   1207 GiB |"),
            (9, "|       from small pool |     12 MiB |     18 MiB |     12 GiB |     12 GiB |"),
            (27, "| Allocations           |    1234    |    1851    |    1234 K  |    1232 K  |"),
            (43, "| Oversize allocations  |       0    |       0    |       0    |       0    |"),
            (45, "| Oversize GPU segments |       0    |       0    |       0    |       0    |"),
        ] {
            assert_eq!(lines[at], line);
        }
        assert_eq!(lines.len(), 47);
    }
}
