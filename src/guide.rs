//! The guide: what each layer does, with examples.
//!
//! These are the chapters of `docs/guide`. Only the documentation has this module.

/// A chapter of the guide. The links come first: on GitHub a chapter's own lead to files instead.
macro_rules! chapter {
    ($name:ident, $file:literal) => {
        #[doc = include_str!("../docs/guide/links")]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    };
}

chapter!(connections, "guide/connections.md");
chapter!(hub, "guide/hub.md");
chapter!(endpoint, "guide/endpoint.md");
chapter!(worker, "guide/worker.md");
chapter!(windows, "guide/windows.md");
chapter!(c, "guide/c.md");
chapter!(promises, "guide/promises.md");
chapter!(testing, "guide/testing.md");
chapter!(migrating, "guide/migrating.md");
chapter!(architecture, "../ARCHITECTURE.md");
chapter!(reliability, "reliability.md");
chapter!(windows_calls, "windows.md");
chapter!(benchmarks, "benchmarks.md");
chapter!(performance, "performance.md");
