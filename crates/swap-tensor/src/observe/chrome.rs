//! The Chrome trace event format, which Perfetto opens.
//!
//! Source: "Trace Event Format", the document that the Catapult project publishes. Times are microseconds; three digits after
//! the point keep the nanoseconds.

use super::{
    Kind, Levels, Track, lanes,
    timeline::{Entry, Kept, Span},
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt::Arguments,
    io::{self, BufWriter, Write},
};

/// Writes everything in `kept`, tracks in their order.
pub(super) fn write(kept: &Kept, out: impl Write) -> io::Result<()> {
    let mut out = Json { out: BufWriter::new(out), events: 0 };
    write!(out.out, "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"dropped\":{}}}", kept.dropped)?;
    write!(out.out, ",\"traceEvents\":[")?;
    let mut tracks: BTreeMap<&Track, Vec<&Span>> = BTreeMap::new();
    for entry in &kept.entries {
        if let Entry::Span(span) = entry {
            tracks.entry(&span.track).or_default().push(span);
        }
    }
    out.process(PROGRAM, "program")?;
    for (number, name) in kept.pools.iter().enumerate() {
        out.process(process_of(number as u32), name)?;
    }
    let mut threads = 0;
    for (track, spans) in &mut tracks {
        // The longer first where two begin at once: it can hold the shorter.
        spans.sort_by_key(|span| (span.begin, Reverse(span.end)));
        threads += out.track(track, spans, threads)?;
    }
    for number in 0..kept.pools.len() as u32 {
        for kind in Kind::TRAVELS {
            if let Some(spans) = tracks.get(&Track::Pool(number, kind)) {
                out.bytes_under_way(process_of(number), kind, spans)?;
            }
        }
    }
    for entry in &kept.entries {
        if let Entry::Level { pool, at, now: Levels { device, host, leased } } = entry {
            let args = format_args!("{{\"device\":{device},\"host\":{host},\"leased\":{leased}}}");
            out.counter(process_of(*pool), "bytes held", *at, args)?;
        }
    }
    write!(out.out, "\n]}}\n")?;
    out.out.flush()
}

/// An array of events, and what they are written to.
struct Json<W: Write> {
    out: BufWriter<W>,
    events: u64,
}

impl<W: Write> Json<W> {
    /// One track on as many lanes as it needs, numbered from `first` on. Returns how many those are.
    fn track(&mut self, track: &Track, spans: &[&Span], first: u64) -> io::Result<u64> {
        let times = spans.iter().map(|span| (span.begin, span.end));
        let (process, title, chosen) = match track {
            // One copy within another would look like a call: lanes say that they ran beside one another.
            Track::Pool(number, kind) => (process_of(*number), kind.title(), lanes::apart(times)),
            Track::Program(title) => (PROGRAM, &**title, lanes::nested(times)),
        };
        let count = chosen.iter().max().map_or(0, |lane| *lane as u64 + 1);
        for lane in 0..count {
            let name = if lane == 0 { title.to_owned() } else { format!("{title} {}", lane + 1) };
            let thread = first + lane + 1;
            self.metadata(process, thread, "thread_name", format_args!("{{\"name\":{}}}", text(&name)?))?;
            self.metadata(process, thread, "thread_sort_index", format_args!("{{\"sort_index\":{thread}}}"))?;
        }
        for (span, lane) in spans.iter().zip(chosen) {
            self.span(span, process, first + lane as u64 + 1)?;
        }
        Ok(count)
    }

    fn span(&mut self, span: &Span, process: u32, thread: u64) -> io::Result<()> {
        let (category, tier) = match &span.track {
            Track::Pool(_, kind) => (kind.title(), Some(kind.tier())),
            Track::Program(_) => ("program", None),
        };
        self.next()?;
        let (begin, length) = (Micros(span.begin), Micros(span.end - span.begin));
        write!(
            self.out,
            "{{\"ph\":\"X\",\"pid\":{process},\"tid\":{thread},\"ts\":{begin},\"dur\":{length},\"cat\":\"{category}\",\"name\":{},\"args\":{{\"bytes\":{}",
            text(span.name.as_str())?,
            span.bytes,
        )?;
        if let Some(tier) = tier {
            write!(self.out, ",\"tier\":\"{tier}\"")?;
        }
        if span.failed {
            write!(self.out, ",\"failed\":true")?;
        }
        write!(self.out, "}}}}")
    }

    fn process(&mut self, process: u32, name: &str) -> io::Result<()> {
        self.metadata(process, 0, "process_name", format_args!("{{\"name\":{}}}", text(name)?))?;
        self.metadata(process, 0, "process_sort_index", format_args!("{{\"sort_index\":{process}}}"))
    }

    fn metadata(&mut self, process: u32, thread: u64, what: &str, args: Arguments<'_>) -> io::Result<()> {
        self.next()?;
        write!(
            self.out,
            "{{\"ph\":\"M\",\"pid\":{process},\"tid\":{thread},\"name\":\"{what}\",\"args\":{args}}}"
        )
    }

    /// How many bytes of one kind were under way at a time.
    fn bytes_under_way(&mut self, process: u32, kind: Kind, spans: &[&Span]) -> io::Result<()> {
        let mut edges: Vec<(u64, i64)> = Vec::new();
        for span in spans {
            // No memory is that large.
            let bytes = i64::try_from(span.bytes).unwrap_or(i64::MAX);
            edges.extend([(span.begin, bytes), (span.end, -bytes)]);
        }
        edges.sort_unstable();
        let mut sum = 0;
        for at_once in edges.chunk_by(|a, b| a.0 == b.0) {
            sum += at_once.iter().map(|(_, bytes)| bytes).sum::<i64>();
            let args = format_args!("{{\"bytes\":{sum}}}");
            self.counter(process, &format!("{} under way", kind.title()), at_once[0].0, args)?;
        }
        Ok(())
    }

    fn counter(&mut self, process: u32, name: &str, at: u64, args: Arguments<'_>) -> io::Result<()> {
        self.next()?;
        write!(
            self.out,
            "{{\"ph\":\"C\",\"pid\":{process},\"ts\":{},\"name\":\"{name}\",\"args\":{args}}}",
            Micros(at)
        )
    }

    /// What stands between two events.
    fn next(&mut self) -> io::Result<()> {
        self.events += 1;
        self.out.write_all(if self.events == 1 { b"\n" } else { b",\n" })
    }
}

/// Nanoseconds, shown as microseconds.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A string as JSON has it, quotes included.
fn text(text: &str) -> io::Result<String> {
    Ok(serde_json::to_string(text)?)
}

/// Zero is the idle process to some readers.
const PROGRAM: u32 = 1;

fn process_of(pool: u32) -> u32 {
    pool + PROGRAM + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, TensorSpec, observe::Name};
    use serde_json::Value;
    use std::{collections::HashMap, sync::Arc};

    fn span(track: Track, name: &str, times: (u64, u64)) -> Entry {
        let (begin, end) = times;
        Entry::Span(Span { track, name: Name::Text(name.into()), bytes: 7, begin, end, failed: false })
    }

    fn events(kept: &Kept) -> Vec<Value> {
        let mut json = Vec::new();
        write(kept, &mut json).unwrap();
        let mut json: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["otherData"]["dropped"], kept.dropped);
        match json["traceEvents"].take() {
            Value::Array(events) => events,
            other => panic!("no array: {other}"),
        }
    }

    fn of<'a>(events: &'a [Value], phase: &str) -> Vec<&'a Value> {
        events.iter().filter(|event| event["ph"] == phase).collect()
    }

    #[test]
    fn an_empty_timeline_is_a_trace() {
        assert_eq!(of(&events(&Kept::default()), "M").len(), 2);
    }

    #[test]
    fn names_come_back_as_they_were() {
        let names = [
            "a \"quoted\" \\ name",
            "tab\t new\nline\u{1}\u{1f}\u{7f}",
            "重み größe \u{2028} 🦀",
            "",
            "</script>",
        ];
        let spec = TensorSpec::new(names[0], DType::U8, [1]).unwrap();
        let mut kept = Kept { pools: vec![names[1].into()], ..Kept::default() };
        for name in names {
            kept.entries.push_back(span(Track::Program(name.into()), name, (1, 2)));
        }
        kept.entries.push_back(Entry::Span(Span {
            track: Track::Pool(0, Kind::Upload),
            name: Name::Tensor(Arc::new(spec)),
            bytes: 1,
            begin: 0,
            end: 1,
            failed: true,
        }));
        let events = events(&kept);
        let spans = of(&events, "X");
        let said: Vec<&str> = spans.iter().filter_map(|e| e["name"].as_str()).collect();
        for name in names {
            assert!(said.contains(&name), "{name:?} in {said:?}");
        }
        let called = |what: &str| {
            let named = events.iter().filter(|e| e["name"] == what);
            named.filter_map(|e| e["args"]["name"].as_str().map(str::to_owned)).collect::<Vec<_>>()
        };
        assert!(called("process_name").contains(&names[1].to_owned()));
        assert!(names.iter().all(|name| called("thread_name").contains(&(*name).to_owned())));
        let failed: Vec<_> = spans.iter().filter(|e| e["args"]["failed"] == true).collect();
        assert_eq!((failed.len(), &failed[0]["args"]["tier"]), (1, &Value::from("device")));
    }

    #[test]
    fn microseconds_keep_their_nanoseconds() {
        let mut kept = Kept::default();
        kept.entries.push_back(span(Track::Program("t".into()), "x", (1_234_567, 2_000_001_000)));
        let mut json = Vec::new();
        write(&kept, &mut json).unwrap();
        let json = String::from_utf8(json).unwrap();
        assert!(json.contains("\"ts\":1234.567,\"dur\":1998766.433,"), "{json}");
    }

    #[test]
    fn spans_that_overlap_lie_on_threads_of_their_own() {
        let mut kept = Kept { pools: vec!["p".into(), "q".into()], ..Kept::default() };
        for i in 0..40u64 {
            let times = (i * 3, i * 3 + 1 + (i * 7) % 10);
            for track in
                [Track::Pool(0, Kind::Upload), Track::Pool(1, Kind::Stall), Track::Program("t".into())]
            {
                kept.entries.push_back(span(track, "x", times));
            }
        }
        let events = events(&kept);
        let mut threads: HashMap<(u64, u64), Vec<(f64, f64)>> = HashMap::new();
        for e in of(&events, "X") {
            let (pid, tid) = (e["pid"].as_u64().unwrap(), e["tid"].as_u64().unwrap());
            let begin = e["ts"].as_f64().unwrap();
            threads.entry((pid, tid)).or_default().push((begin, begin + e["dur"].as_f64().unwrap()));
        }
        let slack = 1e-6;
        for ((pid, _), spans) in &threads {
            for (i, a) in spans.iter().enumerate() {
                for b in &spans[i + 1..] {
                    let apart = a.1 <= b.0 + slack || b.1 <= a.0 + slack;
                    let nests = a.0 <= b.0 + slack && b.1 <= a.1 + slack;
                    assert!(apart || (nests && *pid == u64::from(PROGRAM)), "{a:?} and {b:?}");
                }
            }
        }
        let named = of(&events, "M").iter().filter(|e| e["name"] == "thread_name").count();
        assert_eq!(named, threads.len(), "every thread has a name");
        let mut numbers: Vec<_> = threads.keys().map(|(_, tid)| tid).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), threads.len(), "no number is two threads");
    }

    #[test]
    fn counters_follow_what_was_under_way_and_held() {
        let mut kept = Kept { pools: vec!["p".into(), "q".into()], ..Kept::default() };
        let up = Track::Pool(0, Kind::Upload);
        for times in [(0, 10), (5, 20), (20, 20)] {
            kept.entries.push_back(span(up.clone(), "x", times));
        }
        kept.entries.push_back(span(Track::Pool(0, Kind::Download), "y", (5, 6)));
        kept.entries.push_back(span(Track::Pool(1, Kind::Upload), "z", (0, 30)));
        kept.entries.push_back(Entry::Level {
            pool: 0,
            at: 1500,
            now: Levels { device: 3, host: 4, leased: 5 },
        });
        let events = events(&kept);
        let counters = of(&events, "C");
        let under_way = |kind: Kind| -> Vec<(f64, i64)> {
            let name = format!("{} under way", kind.title());
            let of = counters.iter().filter(|e| e["name"] == *name && e["pid"] == process_of(0));
            of.map(|e| (e["ts"].as_f64().unwrap(), e["args"]["bytes"].as_i64().unwrap())).collect()
        };
        assert_eq!(under_way(Kind::Upload), [(0.0, 7), (0.005, 14), (0.01, 7), (0.02, 0)]);
        assert_eq!(under_way(Kind::Download), [(0.005, 7), (0.006, 0)]);
        assert!(under_way(Kind::Move).is_empty());
        let held = counters.iter().find(|e| e["name"] == "bytes held").unwrap();
        assert_eq!((held["ts"].as_f64(), &held["args"]["device"]), (Some(1.5), &Value::from(3)));
    }

    #[test]
    fn a_writer_that_refuses_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(write(&Kept::default(), Full).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
