//! The backends the test matrix knows. A new backend is one more row.

/// One column of the matrix.
pub(crate) struct Backend {
    /// First segment of its conformance tests' names: `<name>::<suite>::<promise>`.
    pub(crate) name: &'static str,
    /// Its package, whose integration test `conformance` holds those of the lower floors.
    pub(crate) package: &'static str,
    /// Features of that package that the tests need.
    pub(crate) features: &'static [&'static str],
    /// Says why the backend cannot run on this machine, if so.
    pub(crate) absent: fn() -> Option<String>,
    /// What would make it present.
    pub(crate) install: &'static str,
}

pub(crate) const BACKENDS: &[Backend] = &[
    Backend {
        name: "cpu",
        package: "backend-cpu",
        features: &[],
        absent: needs_unix,
        install: "page locking is only implemented on Unix",
    },
    // Host memory from the global allocator and virtual queues: nothing a machine could lack.
    Backend {
        name: "sim",
        package: "backend-cpu",
        features: &[],
        absent: || None,
        install: "nothing to install",
    },
];

/// The row called `name`.
pub(crate) fn named(name: &str) -> Option<&'static Backend> {
    BACKENDS.iter().find(|backend| backend.name == name)
}

fn needs_unix() -> Option<String> {
    (!cfg!(unix)).then(|| format!("no page locking on {}", std::env::consts::OS))
}
