//! What a run found: tables and bars, for the terminal and as markdown.

/// One table of a row of the benchmark.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// What is counted, and in which unit.
    pub(crate) note: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// What was aimed at, and what came out.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) figure: String,
    pub(crate) bar: String,
    pub(crate) holds: bool,
}

/// Everything a row of the benchmark has to say.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) tables: Vec<Table>,
    pub(crate) bars: Vec<Bar>,
    /// Overlapping blocks, lost bytes: what no allocator may do.
    pub(crate) faults: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, note: impl Into<String>, head: &[&str]) -> Table {
        let head = head.iter().map(|cell| (*cell).to_owned()).collect();
        Table { title: title.into(), note: note.into(), head, rows: Vec::new() }
    }

    pub(crate) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Aligned columns, the first to the left.
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        if !self.note.is_empty() {
            text += &format!("  {}\n", self.note);
        }
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| {
            lines().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        for cells in lines() {
            let mut line = String::from("  ");
            for (column, cell) in cells.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                line += &if column == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") };
            }
            text += line.trim_end();
            text += "\n";
        }
        text
    }

    fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.title);
        if !self.note.is_empty() {
            text += &format!("{}\n\n", self.note);
        }
        text += &format!("| {} |\n|{}\n", self.head.join(" | "), "---|".repeat(self.head.len()));
        for cells in &self.rows {
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text + "\n"
    }
}

impl Bar {
    /// A figure that must not be above its bar.
    pub(crate) fn at_most(what: impl Into<String>, figure: f64, bar: f64, unit: &str) -> Bar {
        Bar {
            what: what.into(),
            figure: format!("{}{unit}", number(figure)),
            bar: format!("<= {}{unit}", number(bar)),
            holds: figure <= bar,
        }
    }

    /// A figure that must not be below its bar.
    pub(crate) fn at_least(what: impl Into<String>, figure: f64, bar: f64, unit: &str) -> Bar {
        Bar {
            what: what.into(),
            figure: format!("{figure:.3}{unit}"),
            bar: format!(">= {bar:.3}{unit}"),
            holds: figure >= bar,
        }
    }

    fn verdict(&self) -> &'static str {
        if self.holds { "ok" } else { "BELOW" }
    }
}

impl Findings {
    pub(crate) fn text(&self) -> String {
        let mut text: String = self.tables.iter().map(|table| table.text() + "\n").collect();
        for bar in &self.bars {
            text += &format!("  {:5} {}: {} (bar {})\n", bar.verdict(), bar.what, bar.figure, bar.bar);
        }
        for fault in &self.faults {
            text += &format!("  WRONG {fault}\n");
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text: String = self.tables.iter().map(Table::markdown).collect();
        for bar in &self.bars {
            text += &format!("- **{}** {}: {} (bar {})\n", bar.verdict(), bar.what, bar.figure, bar.bar);
        }
        for fault in &self.faults {
            text += &format!("- **WRONG** {fault}\n");
        }
        text + "\n"
    }
}

/// A number with about three digits.
pub(crate) fn number(figure: f64) -> String {
    match figure.abs() {
        x if x >= 1000.0 => {
            let digits = format!("{figure:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0
                    && digit.is_ascii_digit()
                    && (digits.len() - at).is_multiple_of(3)
                    && !text.ends_with('-')
                {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        x if x >= 100.0 => format!("{figure:.0}"),
        x if x >= 10.0 => format!("{figure:.1}"),
        x if x >= 0.1 => format!("{figure:.2}"),
        _ => format!("{figure:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_about_three_digits() {
        let texts = [0.003, 0.5, 12.34, 123.4, 1234.0, 9_734_001.0, -1234.0].map(number);
        assert_eq!(texts, ["0.0030", "0.50", "12.3", "123", "1,234", "9,734,001", "-1,234"]);
    }

    #[test]
    fn a_table_is_aligned_and_bars_speak() {
        let mut table = Table::new("churn", "", &["engine", "ns"]);
        table.row(["a long name", "1"]);
        table.row(["b", "1000"]);
        assert_eq!(table.text(), "churn\n  engine         ns\n  a long name     1\n  b            1000\n");
        assert!(table.markdown().contains("| a long name | 1 |\n| b | 1000 |\n"));
        let bars = vec![Bar::at_most("speed", 2.0, 1.0, " ns"), Bar::at_least("use", 0.96, 0.95, "")];
        let findings = Findings { bars, ..Findings::default() };
        assert_eq!(
            findings.text(),
            "  BELOW speed: 2.00 ns (bar <= 1.00 ns)\n  ok    use: 0.960 (bar >= 0.950)\n"
        );
    }
}
