//! `cargo xtask soak`: the long random runs, in release, as long as asked.

use crate::process;

/// One long run.
pub(crate) struct Soak {
    pub(crate) name: &'static str,
    package: &'static str,
    test: &'static str,
    /// Features its test needs.
    features: &'static str,
    /// Flag and environment variable of its length.
    flag: &'static str,
    variable: &'static str,
    /// How many of the variable's units one of the flag's is.
    unit: u64,
    /// The length the project promises, in the variable's units; CI runs a hundredth.
    pub(crate) full: u64,
}

pub(crate) const SOAKS: &[Soak] = &[
    Soak {
        name: "arena",
        package: "backend-cpu",
        test: "soak_arena",
        features: "",
        flag: "--ops",
        variable: "SOAK_OPS",
        unit: 1,
        full: 1_000_000,
    },
    Soak {
        name: "swap",
        package: "swap-tensor",
        test: "soak_swap",
        features: "swap-tensor/disk,swap-tensor/conformance,swap-tensor/track",
        flag: "--schedules",
        variable: "SOAK_SCHEDULES",
        unit: 1,
        full: 100_000,
    },
    Soak {
        name: "pinned",
        package: "pinned-host",
        test: "soak_pinned",
        features: "",
        flag: "--ops",
        variable: "SOAK_OPS",
        unit: 1,
        full: 1_000_000,
    },
    Soak {
        name: "staged",
        package: "backend-cpu",
        test: "staged",
        features: "",
        flag: "--copies",
        variable: "STAGED_COPIES",
        unit: 1,
        full: 100_000,
    },
    Soak {
        name: "cuda",
        package: "backend-cuda",
        test: "soak",
        features: "",
        flag: "--seeds",
        variable: "SOAK_SEEDS",
        unit: 1,
        full: 1_000,
    },
    Soak {
        name: "disk",
        package: "swap-tensor",
        test: "soak_disk",
        features: "swap-tensor/disk,swap-tensor/conformance",
        flag: "--faults",
        variable: "SOAK_FAULTS",
        unit: 1,
        full: 10_000,
    },
    Soak {
        name: "faults",
        package: "swap-tensor",
        test: "fault_tier",
        features: "swap-tensor/disk,swap-tensor/conformance",
        flag: "--faults",
        variable: "FAULTS",
        unit: 1,
        full: 10_000,
    },
    Soak {
        name: "threads",
        package: "swap-tensor",
        test: "soak_threads",
        features: "swap-tensor/disk,swap-tensor/conformance",
        flag: "--minutes",
        variable: "SOAK_SECONDS",
        unit: 60,
        full: 30 * 60,
    },
];

/// Which run, how long, from which seed.
pub(crate) struct Options {
    soak: &'static Soak,
    length: u64,
    seed: Option<u64>,
}

impl Options {
    pub(crate) fn parse(args: &[String]) -> Result<Options, String> {
        let names = || SOAKS.iter().map(|soak| soak.name).collect::<Vec<_>>().join(" or ");
        let name = args.first().ok_or_else(|| format!("soak what: {}?", names()))?;
        let soak = SOAKS
            .iter()
            .find(|soak| soak.name == name)
            .ok_or_else(|| format!("no soak `{name}`: it is {}", names()))?;
        let mut options = Options { soak, length: soak.full, seed: None };
        let mut rest = args[1..].iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a number"))?;
            let number: u64 =
                value.replace('_', "").parse().map_err(|_| format!("{flag}: `{value}` is not a number"))?;
            match flag.as_str() {
                "--seed" => options.seed = Some(number),
                flag if flag == soak.flag => options.length = number.saturating_mul(soak.unit),
                _ => return Err(format!("soak {name}: unknown argument `{flag}`")),
            }
        }
        Ok(options)
    }
}

/// Runs it; whether every invariant held.
pub(crate) fn run(options: &Options) -> bool {
    let Soak { package, test, features, variable, .. } = options.soak;
    let mut command = process::cargo(&[
        "test",
        "--release",
        "-p",
        package,
        "--features",
        features,
        "--test",
        test,
        "--",
        "--nocapture",
    ]);
    command.env(variable, options.length.to_string());
    if let Some(seed) = options.seed {
        command.env("SOAK_SEED", seed.to_string());
    }
    process::passes(&mut command)
}

/// A hundredth of each, built and run by one command, so that what they share is built once; whether every invariant held.
pub(crate) fn hundredths() -> bool {
    let mut args = vec!["test", "--release", "--no-fail-fast"];
    for Soak { package, test, features, .. } in SOAKS {
        args.extend(["-p", package, "--features", features, "--test", test]);
    }
    args.extend(["--", "--nocapture"]);
    let mut command = process::cargo(&args);
    for soak in SOAKS {
        println!("{}: {} of {}", soak.name, soak.full / 100, soak.full);
        command.env(soak.variable, (soak.full / 100).to_string());
    }
    process::passes(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soaks_of_one_command_agree_on_its_environment() {
        for one in SOAKS {
            let mut others = SOAKS.iter().filter(|other| other.variable == one.variable);
            assert!(others.all(|other| other.full == one.full), "{}", one.variable);
        }
    }

    fn parse(text: &str) -> Result<Options, String> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        let options = parse("arena --ops 5_000 --seed 7").ok().unwrap();
        assert_eq!((options.soak.name, options.length, options.seed), ("arena", 5000, Some(7)));
        assert_eq!(parse("swap").ok().unwrap().length, 100_000);
        assert_eq!(parse("faults --faults 300").ok().unwrap().length, 300);
        assert_eq!(parse("threads --minutes 2").ok().unwrap().length, 120, "seconds");
        for wrong in ["", "nothing", "arena --schedules 5", "swap --schedules", "swap --schedules many"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
