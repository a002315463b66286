//! What is measured where, and by whom.

use std::fmt;

use crate::harness::{Entry, Job, Work, label};

pub(crate) const ONE_WAY_SIZES: [usize; 6] = [64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20];
pub(crate) const SEND_SIZES: [usize; 2] = [64, 1 << 10];
pub(crate) const PING_PONG_SIZES: [usize; 4] = [64, 4 << 10, 64 << 10, 1 << 20];

/// What a ratio is one to.
pub(crate) const BASELINE: &str = "Framed";
pub(crate) const OURS: &str = "asyncipc";
pub(crate) const SHARED: &str = "asyncipc, shared sender";
pub(crate) const LOW_LATENCY: &str = "asyncipc, low latency";
pub(crate) const OVERLAPPED: &str = "asyncipc, overlapped";
pub(crate) const MESSAGE_MODE: &str = "asyncipc, message mode";

/// Where the two ends run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Two processes, each on a processor of its own.
    Two,
    /// Two processes on one processor.
    One,
    /// One process with a multi-thread runtime, which has two threads.
    Inside,
    /// As `Two`, with both processors busy with something else.
    Loaded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) work: Work,
    pub(crate) size: usize,
    pub(crate) place: Place,
}

pub(crate) fn cell(work: Work, size: usize, place: Place) -> Cell {
    Cell { work, size, place }
}

impl Cell {
    pub(crate) fn job(&self, messages: u64) -> Job {
        Job {
            work: self.work,
            size: self.size,
            messages,
        }
    }

    pub(crate) fn what(&self) -> String {
        let size = label(self.size);
        match self.work {
            Work::OneWay => format!("one way, {size}"),
            Work::Send => format!("send each, {size}"),
            Work::Producers(1) => format!("send each, {size}, 1 task"),
            Work::Producers(tasks) => format!("send each, {size}, {tasks} tasks"),
            Work::PingPong => format!("ping-pong, {size}"),
            Work::Clients(clients) => format!("{clients} clients echoing, {size}"),
            Work::Beside(busy) => format!("ping-pong beside {busy} busy clients, {size}"),
            Work::Connect(1) => "connect, echo, close, one at a time".into(),
            Work::Connect(at_once) => format!("connect, echo, close, {at_once} at once"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Two => "two processes",
            Place::One => "one processor",
            Place::Inside => "one process",
            Place::Loaded => "loaded processors",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what())
    }
}

pub(crate) fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for place in [Place::Two, Place::One, Place::Inside] {
        cells.extend(ONE_WAY_SIZES.map(|size| cell(Work::OneWay, size, place)));
        if place != Place::Inside {
            cells.extend(SEND_SIZES.map(|size| cell(Work::Send, size, place)));
        }
        cells.extend(PING_PONG_SIZES.map(|size| cell(Work::PingPong, size, place)));
    }
    for tasks in [1, 16] {
        cells.extend(SEND_SIZES.map(|size| cell(Work::Producers(tasks), size, Place::Two)));
        cells.push(cell(Work::Connect(tasks), 64, Place::Two));
    }
    cells.push(cell(Work::Clients(1000), 64, Place::Two));
    cells.push(cell(Work::Beside(999), 64, Place::Two));
    cells.extend([64, 4 << 10].map(|size| cell(Work::PingPong, size, Place::Loaded)));
    cells
}

impl Cell {
    /// Whether a contender is measured here: some figures are asked of some only, and a round of
    /// everything must stay short.
    pub(crate) fn is_for(&self, contender: &Entry, is_light: bool) -> bool {
        let name = contender.name;
        let is_ours_or_plain = [BASELINE, OURS].contains(&name);
        let can = match self.work {
            Work::Producers(_) => contender.produce.is_some(),
            Work::Clients(_) | Work::Connect(_) => is_light,
            Work::Beside(_) => is_ours_or_plain,
            _ => true,
        };
        let wanted = match self.place {
            // Nobody asks for more there, and processors cannot be chosen.
            _ if cfg!(windows) => {
                self.place == Place::Two
                    && matches!(self.work, Work::OneWay | Work::Send | Work::PingPong)
            }
            Place::Two => true,
            Place::One => is_light,
            Place::Inside => is_ours_or_plain,
            Place::Loaded => is_ours_or_plain || name == LOW_LATENCY,
        };
        let special = match name {
            LOW_LATENCY => self.work == Work::PingPong,
            SHARED => matches!(
                self.work,
                Work::PingPong | Work::Send | Work::Producers(_) | Work::Connect(_)
            ),
            _ => true,
        };
        can && wanted && special
    }
}
