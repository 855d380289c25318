//! How results are shown: aligned for people, or as markdown for a page.

/// Where results go as they come.
pub(crate) struct Table {
    markdown: bool,
}

/// One comparison.
pub(crate) struct Row<'a> {
    pub(crate) what: String,
    /// Ours and the peer's, with their unit.
    pub(crate) ours: String,
    pub(crate) peer: String,
    pub(crate) peer_is: &'a str,
    /// How many times as good as the peer ours is.
    pub(crate) ratio: f64,
    pub(crate) bar: Bar,
}

/// What was promised.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    None,
    /// The ratio is at least this.
    Ratio(f64),
    /// Ours takes at most as many nanoseconds: how many it takes, and may take.
    Nanoseconds(f64, f64),
}

impl Table {
    pub(crate) fn new(markdown: bool) -> Table {
        Table { markdown }
    }

    pub(crate) fn header(&self, lines: &[(&str, String)]) {
        for (key, value) in lines {
            match self.markdown {
                true => println!("- {key}: {value}"),
                false => println!("{key:15} {value}"),
            }
        }
    }

    /// Begins a table.
    pub(crate) fn section(&self, title: &str) {
        if self.markdown {
            println!("\n### {title}\n");
            println!("| what | ours | peer | peer is | ratio | bar | |");
            println!("|---|---|---|---|---|---|---|");
        } else {
            println!("\n{title}");
            print_aligned(["what", "ours", "peer", "ratio", "bar", "", "peer is"]);
        }
    }

    pub(crate) fn row(&self, row: &Row<'_>) {
        let (bar, verdict) = match row.bar {
            Bar::None => (String::new(), ""),
            Bar::Ratio(least) => (format!("{least:.2}"), if row.ratio >= least { "ok" } else { "BELOW" }),
            Bar::Nanoseconds(is, most) => (format!("{most:.0} ns"), if is <= most { "ok" } else { "BELOW" }),
        };
        let Row { what, ours, peer, peer_is, .. } = row;
        let ratio = format!("{:.2}", row.ratio);
        if self.markdown {
            println!("| {what} | {ours} | {peer} | {peer_is} | {ratio} | {bar} | {verdict} |");
        } else {
            print_aligned([what, ours, peer, &ratio, &bar, verdict, peer_is]);
        }
    }

    /// A row that cannot be: why not.
    pub(crate) fn absent(&self, what: &str, why: &str) {
        match self.markdown {
            true => println!("| {what} | {why} | | | | | |"),
            false => println!("{what:50} {why}"),
        }
    }
}

fn print_aligned([what, ours, peer, ratio, bar, verdict, peer_is]: [&str; 7]) {
    let line = format!("{what:50} {ours:>13} {peer:>13} {ratio:>8} {bar:>8}  {verdict:5}  {peer_is}");
    println!("{}", line.trim_end());
}

/// `bytes` copied in `seconds`.
pub(crate) fn rate(bytes: u64, seconds: f64) -> String {
    format!("{:.2} GB/s", bytes as f64 / seconds / 1e9)
}

pub(crate) fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", seconds * 1e3)
}

pub(crate) fn nanoseconds(seconds: f64) -> String {
    format!("{:.0} ns", seconds * 1e9)
}

/// A number of bytes in the largest unit that it is a whole number of.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}
