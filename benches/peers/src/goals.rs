//! What the crate is to reach, and whether it does.

use std::fmt::Write;

use crate::cells::{BASELINE, Cell, LOW_LATENCY, OURS, OVERLAPPED, Place, SHARED, cell};
use crate::harness::{Work, label};
use crate::measure::Figures;
use crate::report::Spread;

struct Goal {
    words: String,
    needs: Needs,
    /// The same on one processor, where it is measured: the software's own cost.
    beside: Option<(Side, Side)>,
}

/// A contender somewhere.
type Side = (&'static str, Cell);

enum Needs {
    /// A ratio of messages per second.
    Ratio { one: Side, to: Side, at_least: f64 },
    /// Bytes for each client.
    Memory { after_a_message: bool },
    /// The 99th percentile in microseconds, to be printed.
    P99(Cell),
    /// Nothing to measure.
    Test,
}

const BYTES_PER_CLIENT: f64 = 2048.0;

fn goal(words: impl Into<String>, one: Side, to: Side, at_least: f64) -> Goal {
    let beside = (one.1.place == Place::Two && to.1.place == Place::Two).then(|| {
        let on_one = |(name, it): Side| (name, cell(it.work, it.size, Place::One));
        (on_one(one), on_one(to))
    });
    Goal {
        words: words.into(),
        needs: Needs::Ratio { one, to, at_least },
        beside,
    }
}

/// Messages per second, to those of the plain codec over the plain socket or pipe.
fn to_plain(who: &'static str, it: Cell, at_least: f64) -> Goal {
    let words = match who {
        OURS => format!("{it}"),
        _ => format!("{it}: {who}"),
    };
    goal(words, (who, it), (BASELINE, it), at_least)
}

fn test(words: &str) -> Goal {
    Goal {
        words: words.into(),
        needs: Needs::Test,
        beside: None,
    }
}

fn on_linux() -> Vec<(&'static str, Vec<Goal>)> {
    use Place::{Inside, Loaded, Two};
    use Work::{Beside, Clients, Connect, OneWay, PingPong, Producers, Send};

    let mut connection = Vec::new();
    for (size, at_least) in [
        (64, 1.75),
        (1 << 10, 1.6),
        (64 << 10, 1.15),
        (1 << 20, 1.6),
        (16 << 20, 1.9),
    ] {
        connection.push(to_plain(OURS, cell(OneWay, size, Two), at_least));
    }
    for (size, at_least) in [(64, 1.0), (4 << 10, 1.0), (64 << 10, 1.0), (1 << 20, 2.4)] {
        connection.push(to_plain(OURS, cell(PingPong, size, Two), at_least));
    }
    for size in crate::cells::ONE_WAY_SIZES {
        connection.push(to_plain(OURS, cell(OneWay, size, Inside), 1.1));
    }
    for size in crate::cells::PING_PONG_SIZES {
        connection.push(to_plain(OURS, cell(PingPong, size, Inside), 1.1));
    }

    let mut sender = Vec::new();
    for (size, at_least) in [(64, 8.0), (1 << 10, 4.5)] {
        let (size_of, send) = (label(size), cell(Send, size, Two));
        sender.push(to_plain(SHARED, send, at_least));
        let (one, many) = (
            cell(Producers(1), size, Two),
            cell(Producers(16), size, Two),
        );
        let words = format!("{size_of}: 16 tasks at least as fast as one, {SHARED}");
        sender.push(Goal {
            beside: None,
            ..goal(words, (SHARED, many), (SHARED, one), 1.0)
        });
    }
    for size in crate::cells::PING_PONG_SIZES {
        let it = cell(PingPong, size, Two);
        let words = format!("{it}: {SHARED}, to the connection itself (unharmed)");
        sender.push(goal(words, (SHARED, it), (OURS, it), 1.0));
    }
    sender.push(test(
        "`flush` and `close` mean what they say, and an error reaches every producer",
    ));

    let mut low_latency = Vec::new();
    for size in [64, 4 << 10] {
        low_latency.push(Goal {
            beside: None,
            ..to_plain(LOW_LATENCY, cell(PingPong, size, Two), 10.0)
        });
    }
    for size in [64, 4 << 10] {
        let it = cell(PingPong, size, Loaded);
        let words = format!("{it}: {LOW_LATENCY}, to the connection without it");
        low_latency.push(goal(words, (LOW_LATENCY, it), (OURS, it), 0.9));
        low_latency.push(to_plain(LOW_LATENCY, it, 0.9));
    }
    low_latency.push(test("other tasks of the runtime keep running"));

    let many_clients = vec![
        Goal {
            words: "memory of the server for each of 10,000 idle clients".into(),
            needs: Needs::Memory {
                after_a_message: false,
            },
            beside: None,
        },
        Goal {
            words: "the same after each has had a message of 60 kB echoed".into(),
            needs: Needs::Memory {
                after_a_message: true,
            },
            beside: None,
        },
        to_plain(OURS, cell(Clients(1000), 64, Two), 1.2),
        to_plain(OURS, cell(Connect(1), 64, Two), 1.0),
        to_plain(OURS, cell(Connect(16), 64, Two), 1.0),
        Goal {
            words: "p99 of one client beside 999 busy ones, 64 B: to be printed".into(),
            needs: Needs::P99(cell(Beside(999), 64, Two)),
            beside: None,
        },
    ];
    vec![
        ("The connection", connection),
        ("The cloneable sender", sender),
        ("Low latency, opt-in", low_latency),
        ("Many clients", many_clients),
    ]
}

fn on_windows() -> Vec<(&'static str, Vec<Goal>)> {
    use Place::Two;
    use Work::{OneWay, PingPong, Send};

    let mut over_tokio = Vec::new();
    for size in crate::cells::ONE_WAY_SIZES {
        let at_least = if size <= 1 << 10 { 1.5 } else { 1.0 };
        over_tokio.push(to_plain(OURS, cell(OneWay, size, Two), at_least));
    }
    for size in crate::cells::SEND_SIZES {
        over_tokio.push(to_plain(OURS, cell(Send, size, Two), 1.0));
    }
    for size in crate::cells::PING_PONG_SIZES {
        over_tokio.push(to_plain(OURS, cell(PingPong, size, Two), 1.0));
    }

    let mut overlapped = Vec::new();
    for who in [OVERLAPPED, crate::cells::MESSAGE_MODE] {
        for (size, at_least) in [
            (1 << 10, 4.0),
            (64 << 10, 3.0),
            (1 << 20, 3.5),
            (16 << 20, 4.0),
        ] {
            overlapped.push(to_plain(who, cell(OneWay, size, Two), at_least));
        }
        for (size, at_least) in [(64, 0.9), (4 << 10, 0.9), (64 << 10, 2.4), (1 << 20, 3.5)] {
            overlapped.push(to_plain(who, cell(PingPong, size, Two), at_least));
        }
        for size in crate::cells::SEND_SIZES {
            overlapped.push(to_plain(who, cell(Send, size, Two), 0.9));
        }
    }
    vec![
        ("Windows, over tokio's pipes", over_tokio),
        ("Windows, over overlapped I/O of our own", overlapped),
    ]
}

/// The table of all goals, those of a system that was not measured included.
pub(crate) fn table(linux: Option<&Figures>, windows: Option<&Figures>) -> String {
    let mut out = String::new();
    let systems = [
        (on_linux(), linux, "Linux"),
        (on_windows(), windows, "Windows"),
    ];
    for (groups, figures, system) in systems {
        for (title, goals) in groups {
            writeln!(out, "\n### {title}\n").unwrap();
            out.push_str(
                "| goal | at least | measured | on one processor | |\n|---|---|---|---|---|\n",
            );
            for goal in goals {
                goal.row(&mut out, figures, system);
            }
        }
    }
    out
}

impl Goal {
    fn row(&self, out: &mut String, figures: Option<&Figures>, system: &str) {
        let asked = match self.needs {
            Needs::Ratio { at_least, .. } => format!("{at_least}"),
            Needs::Memory { .. } => format!("at most {BYTES_PER_CLIENT} B"),
            Needs::P99(_) | Needs::Test => String::new(),
        };
        let (measured, verdict) = match (&self.needs, figures) {
            (Needs::Test, _) => ("shown by tests, nothing to measure".into(), ""),
            (_, None) => (format!("not measured: {system} only"), "not measured"),
            (_, Some(figures)) => self.judge(figures),
        };
        let beside = self.beside.zip(figures);
        let beside = beside.and_then(|((one, to), figures)| figures.ratio(one, to));
        let beside = beside.map_or(String::new(), |it| it.to_string());
        let words = &self.words;
        writeln!(
            out,
            "| {words} | {asked} | {measured} | {beside} | {verdict} |"
        )
        .unwrap();
    }

    fn judge(&self, figures: &Figures) -> (String, &'static str) {
        let not_measured = ("not measured".to_owned(), "not measured");
        match self.needs {
            Needs::Ratio { one, to, at_least } => match figures.ratio(one, to) {
                Some(ratio) => (ratio.to_string(), met(ratio.median >= at_least)),
                None => not_measured,
            },
            Needs::Memory { after_a_message } => {
                let of = |name| {
                    let memory = figures.memory.get(name)?;
                    Some(if after_a_message {
                        memory.after_a_message
                    } else {
                        memory.idle
                    })
                };
                match (of(OURS), of(BASELINE)) {
                    (Some(ours), Some(plain)) => {
                        let text = format!("{ours:.0} B ({BASELINE}: {plain:.0} B)");
                        (text, met(ours <= BYTES_PER_CLIENT))
                    }
                    _ => not_measured,
                }
            }
            Needs::P99(it) => {
                let of = |name| figures.series(it, name)?.percentiles.get(2);
                match (of(OURS), of(BASELINE)) {
                    (Some(ours), Some(plain)) => (
                        format!("{ours:.0} µs ({BASELINE}: {plain:.0} µs)"),
                        "printed",
                    ),
                    _ => not_measured,
                }
            }
            Needs::Test => unreachable!("a row without figures"),
        }
    }
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} ({:.2}-{:.2})",
            self.median, self.least, self.greatest
        )
    }
}
