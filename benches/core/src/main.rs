//! allocator-core beside its peers, in one run: `core-bench [--quick] [--full] [--only ROW,…] [--out FILE]`.
//!
//! Run it with `cargo xtask bench core`, which builds it with the peers that this machine can build.

mod clock;
mod crowd;
mod engine;
mod host;
mod machine;
mod measure;
mod region;
mod report;
mod rng;
mod rows;
mod shadow;
mod stream;

use crate::report::Findings;
use crate::rows::{Options, ROWS, Row};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("core-bench: {why}");
            return ExitCode::from(2);
        }
    };
    let mut page = String::from("# allocator-core beside its peers: what was measured\n\n");
    let mut head = machine::lines();
    head.push(format!("Load average before: {}.", machine::load()));
    println!("{}\n", head.join("\n"));
    let (mut body, mut wrong, mut bars) = (String::new(), 0, (0, 0));
    let chosen = ROWS.iter().filter(|row| arguments.only.is_empty() || arguments.only.contains(&row.name));
    for row in chosen {
        println!("== {}: {}", row.name, row.what);
        let findings: Findings = (row.run)(&arguments.options);
        println!("{}", findings.text());
        body += &format!("## {}: {}\n\n{}", row.name, row.what, findings.markdown());
        wrong += findings.faults.len();
        bars.0 += findings.bars.iter().filter(|bar| bar.holds).count();
        bars.1 += findings.bars.len();
    }
    let load = format!("Load average after: {}.", machine::load());
    let last = format!("{} of {} bars hold.", bars.0, bars.1);
    println!("{load}\n{last}");
    head.extend([load, last]);
    page += &format!("{}\n\n{METHOD}\n\n{body}", head.join("\n"));
    if let Some(file) = &arguments.out
        && let Err(why) = std::fs::write(file, page.trim_end().to_owned() + "\n")
    {
        eprintln!("core-bench: cannot write {file}: {why}");
        return ExitCode::from(2);
    }
    if wrong > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What was asked for.
#[derive(Debug, Default)]
struct Arguments {
    options: Options,
    /// Rows to run; none named means all.
    only: Vec<&'static str>,
    out: Option<String>,
}

impl Arguments {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => arguments.options.quick = true,
                "--full" => arguments.options.full = true,
                "--out" => arguments.out = Some(args.next().ok_or("--out needs a file")?),
                "--only" => {
                    for name in args.next().ok_or("--only needs a list of rows")?.split(',') {
                        let row = ROWS.iter().find(|row| row.name == name);
                        arguments.only.push(row.ok_or_else(|| no_row(name))?.name);
                    }
                }
                _ => return Err(format!("unknown argument `{arg}`")),
            }
        }
        Ok(arguments)
    }
}

fn no_row(name: &str) -> String {
    let known: Vec<&str> = ROWS.iter().map(|Row { name, .. }| *name).collect();
    format!("no row `{name}`; the rows are {}", known.join(", "))
}

const METHOD: &str = "\
Method. Every engine gets the same requests, computed beforehand from a seed, and keeps its tickets in seats of the same
16 bytes; rows are compiled for each engine, so nothing is dispatched in a timed loop. Engines take turns within a round and
the order rotates from round to round; figures are medians of the rounds, with the least and the greatest beside them. On a
machine that does other work as well, trust the ratios of one table, and those only as far as the calibration is steady.
*Packing peers* are those whose use of the arena makes them an alternative: offset-allocator, VMA's virtual block, rlsf and
talc; the bars are set by the fastest of them. The other engines are there for comparison: the buddy allocator is fast and
wastes a quarter of the arena.

Caveats. rlsf and talc write headers into the memory they give out: they run on reserved address space, whose pages a first,
untimed pass has made present, and still pay for a cache line and a page of their own per block; for device memory they
are no alternative. offset-allocator has 32-bit units (256 bytes in the arena of 64 GiB), rounds requests up to a size class
and so refuses some that a hole could hold, and has no check of handles. VMA is C++ behind a call that is not inlined. Ours
checks handles and returns no offset; the line *offset asked* adds that question.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Arguments, String> {
        Arguments::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments() {
        let arguments = parse("--quick --only churn,packing --out a.md").unwrap();
        assert!(arguments.options.quick && !arguments.options.full);
        assert_eq!((arguments.only, arguments.out), (vec!["churn", "packing"], Some("a.md".to_owned())));
        assert!(parse("--only tea").unwrap_err().contains("the rows are calibrate, churn"));
        assert!(parse("--fast").is_err() && parse("--out").is_err());
    }
}
