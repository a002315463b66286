//! Logs to standard error.

use std::fmt;
use std::io;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::failure::{Code, Failure};

/// The variable with the least level that is logged.
const LEVEL: &str = "ASYNCIPC_LOG";

/// Begins to log. Can be called once in a process.
pub(crate) fn init(process: &str) -> Result<(), Failure> {
    let level = match std::env::var(LEVEL) {
        Ok(level) => level.parse().map_err(|_| {
            let rule = "is none of off, error, warn, info, debug, trace";
            Failure::new(Code::InvalidArgument, format!("{LEVEL}={level} {rule}"))
        })?,
        Err(_) => LevelFilter::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        // Otherwise it would report on standard error that writing to it fails, and panic if that fails.
        .log_internal_errors(false)
        .event_format(Named(process.into(), Format::default()))
        .try_init()
        .map_err(|_| Failure::new(Code::WrongState, "logging was begun before"))
}

/// Lines that begin with the process's name.
struct Named(String, Format);

impl<S, N> FormatEvent<S, N> for Named
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.0)?;
        self.1.format_event(context, writer, event)
    }
}
