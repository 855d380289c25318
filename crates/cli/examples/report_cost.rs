//! What `--memory-report` costs a run: the command with it, without it and without it once more, in turn, and the ratios of their
//! times. That of the two without says how much of the other one is the machine's.
//!
//! `cargo build --release && cargo run --release -p swap-tensor-cli --example report_cost [-- ROUNDS]`

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    unix::main()
}

#[cfg(not(unix))]
fn main() {
    println!("what a child process has used of the processor is only asked for on Unix");
}

#[cfg(unix)]
mod unix {
    use safetensors::tensor::{Dtype, TensorView};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::time::Instant;

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    /// Seconds of one run.
    #[derive(Clone, Copy, Default)]
    struct Cost {
        /// Copies that the tracker was told of.
        copies: u64,
        wall: f64,
        /// Of the processor, user and system.
        cpu: f64,
        /// The walks alone, as the run reports them.
        walks: f64,
    }

    /// What is measured of a run.
    type Kind = (&'static str, fn(&Cost) -> f64);

    const KINDS: [Kind; 3] =
        [("wall", |cost| cost.wall), ("processor", |cost| cost.cpu), ("walks", |cost| cost.walks)];

    pub(crate) fn main() -> Result<()> {
        let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
        let command = command()?;
        let folder = tempfile::tempdir()?;
        let small = small(folder.path())?;
        let gpt2: Vec<String> = ["run", "--json", "--passes", "8"].map(str::to_owned).into();
        let mut tiny: Vec<String> = ["run", "--json", "--passes", "8"].map(str::to_owned).into();
        tiny.extend([small.display().to_string(), "--device-memory".to_owned(), "3MiB".to_owned()]);
        let mut copies = Vec::new();
        println!(
            "| run | time | without, s | with, s | with / without | of the least | without / without | of the least |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for (name, args) in [("GPT-2", gpt2), ("2,000 tensors of 4 KiB", tiny)] {
            let rows = measure(&command, &args, rounds)?;
            let told = |row: &[Cost; 3]| row[1].copies as f64;
            copies.push((name, median(rows.iter().map(told).collect())));
            for (kind, of) in KINDS {
                let column = |arm: usize| rows.iter().map(move |row| of(&row[arm]));
                let [without, with, again] = [0, 1, 2].map(|arm| median(column(arm).collect()));
                let least = [0, 1, 2].map(|arm| column(arm).fold(f64::INFINITY, f64::min));
                let ratios = [with / without, least[1] / least[0], again / without, least[2] / least[0]];
                let [medians, leasts, machine, machines] = ratios.map(|ratio| format!("{ratio:.3}"));
                println!(
                    "| {name} | {kind} | {without:.3} | {with:.3} | {medians} | {leasts} | {machine} | {machines} |"
                );
            }
        }
        for (name, copies) in copies {
            println!("{name}: {copies:.0} copies were told of in a run");
        }
        Ok(())
    }

    /// Rounds of three runs, without, with and without the report, each of them first in turn.
    fn measure(command: &Path, args: &[String], rounds: usize) -> Result<Vec<[Cost; 3]>> {
        run(command, args, false)?; // writes the model, and warms the page cache
        let mut rows = Vec::new();
        for round in 0..rounds {
            let mut row = [Cost::default(); 3];
            for turn in 0..3 {
                let arm = (round + turn) % 3;
                row[arm] = run(command, args, arm == 1)?;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn run(command: &Path, args: &[String], with: bool) -> Result<Cost> {
        let mut run = Command::new(command);
        run.args(args).args(with.then_some("--memory-report")).stdin(Stdio::null()).stderr(Stdio::inherit());
        let (started, before) = (Instant::now(), children()?);
        let output = run.output()?;
        let (wall, cpu) = (started.elapsed().as_secs_f64(), children()? - before);
        if !output.status.success() {
            return Err(format!("the run ended with {}", output.status).into());
        }
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let walks = report["seconds"].as_f64().ok_or("a report without `seconds`")?;
        let tiers = report["memory_report"].as_object().into_iter().flatten();
        let came =
            |(_, tier): (_, &serde_json::Value)| tier["memory_stats"]["allocation.all.allocated"].as_u64();
        Ok(Cost { wall, cpu, walks, copies: tiers.filter_map(came).sum() })
    }

    /// Seconds of the processor that children which have ended used.
    fn children() -> Result<f64> {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: the pointer is to a whole `rusage`, which the call writes when it returns 0.
        let usage = unsafe {
            if libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
            usage.assume_init()
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
    }

    /// The command that was built beside this example.
    fn command() -> Result<PathBuf> {
        let here = std::env::current_exe()?;
        let built = here.parent().and_then(Path::parent).map(|folder| folder.join("swap-tensor"));
        let built = built.filter(|path| path.is_file());
        built.ok_or_else(|| "no swap-tensor beside this example: cargo build --release".into())
    }

    /// The run that has most events for its bytes.
    fn small(folder: &Path) -> Result<PathBuf> {
        let bytes = vec![1; 4096];
        let view = TensorView::new(Dtype::U8, vec![4096], &bytes)?;
        let views = (0..2000).map(|i| (format!("h.{}.t{i}", i / 20), view.clone()));
        let path = folder.join("small.safetensors");
        safetensors::serialize_to_file(views, None, &path)?;
        Ok(path)
    }

    fn median(mut of: Vec<f64>) -> f64 {
        of.sort_by(f64::total_cmp);
        of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
    }

    const ROUNDS: usize = 15;
}
