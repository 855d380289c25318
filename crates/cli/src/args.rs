//! The command line.

use crate::output;
use crate::size::{Size, SizeError};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Use models larger than the device, and check every byte.
#[derive(Debug, Parser)]
#[command(name = "swap-tensor", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArgs>),
    Info(InfoArgs),
}

/// Stream a model through one arena on a device, as a training step does, and check every byte.
///
/// Each pass walks the tensors forward with read leases, and back with write leases that change every byte. Each
/// forward lease, and one more pass at the end, checks the tensor's CRC32C against the one computed from the file
/// alone. Exit code 0: every check held. 1: the work failed. 2: the arguments or the file are wrong.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  swap-tensor run\n  swap-tensor run --model-size 4GB --device-memory 1GiB\n  swap-tensor run llama.safetensors --device-memory 1.5GB --passes 1 --json"
)]
pub(crate) struct RunArgs {
    /// The model; without one, a GPT-2-shaped one is written once to the cache directory
    pub(crate) model: Option<PathBuf>,
    /// Without a model: generate one like GPT-2 that is at least this large, and keep it in the cache directory
    #[arg(long, value_name = "SIZE", value_parser = some, allow_hyphen_values = true, conflicts_with = "model")]
    pub(crate) model_size: Option<Size>,
    /// The kind of device to stream through; `swap-tensor info` lists them
    #[arg(long, default_value = "cpu", value_name = "NAME")]
    pub(crate) backend: String,
    /// Which of the backend's devices: an index, a UUID or a part of a name [default: the best]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Size of the arena on the device
    #[arg(long, default_value = "96MiB", value_name = "SIZE", value_parser = some, allow_hyphen_values = true)]
    pub(crate) device_memory: Size,
    /// Host memory for tensors that were changed and had to leave the device [default: the model's size, rounded up; with
    /// --disk as much as --device-memory]
    #[arg(long, value_name = "SIZE", value_parser = addressable, allow_hyphen_values = true)]
    pub(crate) host_memory: Option<Size>,
    /// Keep what has no room in host memory either in an anonymous file in this directory, which is gone when the run ends
    #[arg(long, value_name = "DIR")]
    pub(crate) disk: Option<PathBuf>,
    /// Who leaves first when the device or host memory is full
    #[arg(long, default_value = "lru", value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(swap_tensor::policy::NAMES))]
    pub(crate) policy: String,
    /// Record the order of leases in the first pass, then evict what is needed farthest ahead and fetch just in time;
    /// --prefetch counts until there is an order, and --policy where there is none
    #[arg(long)]
    pub(crate) schedule: bool,
    /// How often to walk forward and back
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) passes: u32,
    /// How many tensors to fetch ahead of the one in use
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1024))]
    pub(crate) prefetch: u32,
    /// Milliseconds of work to pretend under each lease, such as 2.5: it sleeps so long while it holds the lease. The mean
    /// fill plus write-back per lease, which every run reports, rounded up, hides the transfers behind the work
    #[arg(long, default_value = "0", value_name = "N", value_parser = milliseconds, allow_hyphen_values = true)]
    pub(crate) compute_ms: Duration,
    /// Write a timeline of copies, reads, stalls and work to this file, for https://ui.perfetto.dev
    #[arg(long, value_name = "OUT.json")]
    pub(crate) trace: Option<PathBuf>,
    /// Say who held which bytes of each tier: PyTorch's memory statistics, and the tensors and modules at the peak; and if a tier
    /// is full, who holds it and what would help
    #[arg(long)]
    pub(crate) memory_report: bool,
    /// Print one JSON object, as the last line of standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say which backends can be used, and what this machine offers them.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  swap-tensor info --json")]
pub(crate) struct InfoArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl Cli {
    /// Parses the command line. The error is an exit code, everything else having been said.
    pub(crate) fn read() -> Result<Cli, u8> {
        let args: Vec<OsString> = std::env::args_os().collect();
        Cli::try_parse_from(&args).map_err(|error| {
            if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                // Like every other complaint: one line. An argument it quotes must not end it early, so the same
                // error is made anew of arguments without line breaks.
                let shown = args.iter().map(|arg| OsString::from(output::visible(&arg.to_string_lossy())));
                let error = Cli::try_parse_from(shown).err().unwrap_or(error);
                let text = error.to_string();
                let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
                let line = lines.collect::<Vec<_>>().join(" ");
                output::complain(format!("{}; see --help", line.trim_start_matches("error: ")));
                return 2;
            }
            // Help and version. Nobody reading them is no error.
            let _ = error.print();
            u8::try_from(error.exit_code()).unwrap_or(2)
        })
    }
}

/// A time in milliseconds, fractions allowed; an hour at most.
fn milliseconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 3_600_000.0;
    let milliseconds = text.parse().ok().filter(|ms| (0.0..=MOST).contains(ms));
    let time = milliseconds.and_then(|ms: f64| Duration::try_from_secs_f64(ms / 1000.0).ok());
    time.ok_or_else(|| format!("not a number of milliseconds from 0 to {MOST}"))
}

/// A size that is something.
fn some(text: &str) -> Result<Size, String> {
    let size = addressable(text)?;
    if size.0 == 0 { Err("not a usable size: it must be more than zero".to_owned()) } else { Ok(size) }
}

/// A size that a program can have.
fn addressable(text: &str) -> Result<Size, String> {
    let size: Size = text.parse().map_err(|error: SizeError| error.to_string())?;
    if isize::try_from(size.0).is_err() {
        return Err("not a usable size: more than any program can address".to_owned());
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound_and_each_command_has_an_example() {
        let mut cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example") && help.contains("swap-tensor "), "{help}");
        }
    }

    #[test]
    fn sizes_and_defaults() {
        let cli = Cli::try_parse_from(["swap-tensor", "run", "--device-memory", "1.5GB"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!((run.device_memory, run.passes, run.host_memory), (Size(1_500_000_000), 2, None));
        let max = u64::MAX.to_string();
        for size in ["-1", "-1G", "0", "0.0MiB", &max] {
            let error = Cli::try_parse_from(["swap-tensor", "run", "--device-memory", size]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("--device-memory") && text.contains("not a usable size"), "{text}");
        }
        assert!(Cli::try_parse_from(["swap-tensor", "run", "--host-memory", "0"]).is_ok());
        assert!(Cli::try_parse_from(["swap-tensor", "run", "--host-memory", &max]).is_err());
        let compute = |text: &str| {
            let cli = Cli::try_parse_from(["swap-tensor", "run", "--compute-ms", text]).ok()?;
            if let Command::Run(run) = cli.command { Some(run.compute_ms) } else { None }
        };
        assert_eq!(compute("2.5"), Some(Duration::from_micros(2500)));
        assert_eq!(
            (compute("0"), compute("3600000")),
            (Some(Duration::ZERO), Some(Duration::from_secs(3600)))
        );
        for wrong in ["-1", "nan", "inf", "3600001", "1s", ""] {
            assert_eq!(compute(wrong), None, "{wrong}");
        }
        for wrong in [["--device-memory", "lots"], ["--passes", "0"], ["--prefetch", "-1"]] {
            assert!(Cli::try_parse_from(["swap-tensor", "run", wrong[0], wrong[1]]).is_err());
        }
    }
}
