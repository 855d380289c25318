//! What a slice costs once its region is there: nanoseconds to take and give back one, by one thread and by two.
//!
//! Beside it, in the same run: the heap's `malloc` and `free` of the same lengths, and a bare lock and unlock twice.
//!
//! `cargo run --release -p pinned-host --example pool_rate`

use pinned_host::{HostError, OsLocker, PoolConfig};
use std::hint::black_box;
use std::sync::{Barrier, Mutex};
use std::time::Instant;

const PAIRS: usize = 1_000_000;
const ROUNDS: usize = 7;

fn main() -> Result<(), HostError> {
    let pool = PoolConfig::new(256 << 20).region(64 << 20).build(OsLocker)?;
    let mutex = Mutex::new(0_u64);
    println!("ns for a slice taken and given back; median of {ROUNDS} rounds of {PAIRS}, least and most");
    println!("| what | threads | ns | min..max |\n|---|---|---|---|");
    for threads in [1, 2] {
        // Turn by turn, so that a slow moment of the machine meets all of them.
        let mut rows: [Vec<f64>; 5] = Default::default();
        for _ in 0..ROUNDS {
            rows[0].push(rate(threads, |i| {
                drop(black_box(pool.allocate(length(i))));
            }));
            let kept: Vec<_> = (0..64).filter_map(|i| pool.allocate(length(i)).ok()).collect();
            rows[1].push(rate(threads, |i| {
                drop(black_box(pool.allocate(length(i))));
            }));
            drop(kept);
            rows[2].push(rate(threads, |i| {
                drop(black_box(pool.allocate(other_length(i))));
            }));
            rows[3].push(rate(threads, |i| {
                drop(black_box(Vec::<u8>::with_capacity(length(i))));
            }));
            rows[4].push(rate(threads, |_| {
                for _ in 0..2 {
                    if let Ok(mut count) = mutex.lock() {
                        *count += 1;
                    }
                }
            }));
        }
        let names = [
            "slice of 11 lengths, pool else empty",
            "slice of 11 lengths, 64 others alive",
            "slice of a length that hardly comes again",
            "heap, 11 lengths",
            "bare lock and unlock, twice",
        ];
        for (name, row) in names.iter().zip(&mut rows) {
            row.sort_by(f64::total_cmp);
            println!(
                "| {name} | {threads} | {:.0} | {:.0}..{:.0} |",
                row[ROUNDS / 2],
                row[0],
                row[ROUNDS - 1]
            );
        }
    }
    Ok(())
}

/// Lengths from 1 KiB to 1 MiB in an order that repeats itself rarely.
fn length(i: usize) -> usize {
    1024 << ((i.wrapping_mul(0x9E37_79B9) >> 7) % 11)
}

/// Lengths up to 1 MiB of which hardly two are alike.
fn other_length(i: usize) -> usize {
    1 + (i.wrapping_mul(0x9E37_79B9) >> 7) % (1 << 20)
}

/// Nanoseconds for one `work` by the clock on the wall, each of so many threads doing its own.
fn rate(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let start = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    (0..PAIRS).for_each(&work);
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        for worker in workers {
            let _ = worker.join();
        }
        began.elapsed().as_secs_f64() * 1e9 / PAIRS as f64
    })
}
