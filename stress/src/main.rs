//! Attacks asyncipc for some time, and fails when something is lost, doubled, or hangs.
//!
//! ```sh
//! cargo run --release -p asyncipc-stress -- storm --seconds 60
//! ```
//!
//! Each campaign runs in a process of its own with a folder of its own, both of which are gone
//! afterwards. It prints its seed, which repeats its choices; its figures, on the last line; and exits
//! with 0 when nothing was wrong, 1 when something was, 3 when it hung.

mod cancel;
mod circles;
#[cfg(target_os = "linux")]
mod descriptors;
mod fuzzed_sockets;
mod hub;
mod kills;
mod platform;
#[cfg(unix)]
mod racing_binds;
mod restarts;
mod run;
mod runtimes;
mod soak;
mod storm;

use std::panic;
use std::process::{ExitCode, Stdio, exit};
use std::sync::Mutex;
use std::time::Duration;

use clap::{Arg, ArgAction, Command, value_parser};
use run::{Result, Run, lock, places};

/// An attack with a name.
struct Campaign {
    name: &'static str,
    about: &'static str,
    /// Gives its figures; or why it cannot run here.
    run: std::result::Result<fn(&Run) -> Result<String>, &'static str>,
}

const CAMPAIGNS: &[Campaign] = &[
    Campaign {
        name: "storm",
        about: "Many clients come at once, echo, and leave; the server takes few at a time",
        run: Ok(storm::run),
    },
    Campaign {
        name: "kills",
        about: "Servers, clients and workers are killed; what was acknowledged is not lost",
        run: Ok(kills::run),
    },
    Campaign {
        name: "fuzzed-sockets",
        about: "Raw peers send anything in pieces; honest clients beside them lose nothing",
        run: Ok(fuzzed_sockets::run),
    },
    Campaign {
        name: "cancel",
        about: "All that can be awaited is cancelled; nothing is lost or doubled",
        run: Ok(cancel::run),
    },
    Campaign {
        name: "racing-binds",
        about: "Processes and threads bind one name over dead servers' files; one wins at a time",
        #[cfg(unix)]
        run: Ok(racing_binds::run),
        #[cfg(not(unix))]
        run: Err("a pipe has no file that a dead server leaves"),
    },
    Campaign {
        name: "restarts",
        about: "Endpoints end, orderly and killed, and start again, while others send to them",
        run: Ok(restarts::run),
    },
    Campaign {
        name: "circles",
        about: "Endpoints in rings send to each other, and ask each other, within their handlers",
        run: Ok(circles::run),
    },
    Campaign {
        name: "hub",
        about: "A hub with fast, slow, dead and leaving clients; nobody delays others",
        run: Ok(hub::run),
    },
    Campaign {
        name: "runtimes",
        about: "Short-lived runtimes, and none, use what belongs to one that lives",
        run: Ok(runtimes::run),
    },
    Campaign {
        name: "descriptors",
        about: "A server runs out of descriptors again and again, and goes on",
        #[cfg(target_os = "linux")]
        run: Ok(descriptors::run),
        #[cfg(not(target_os = "linux"))]
        run: Err("only on Linux is there a limit that a process can set itself and reach"),
    },
    Campaign {
        name: "soak",
        about: "Everything at once for long; memory and descriptors do not grow",
        run: Ok(soak::run),
    },
];

/// How long a campaign may go on after its time, before it counts as hung.
const GRACE: Duration = Duration::from_secs(60);

/// The exit code of one that hung.
const HUNG: i32 = 3;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand() {
        Some(("list", _)) => {
            for campaign in CAMPAIGNS {
                println!("{}", campaign.name);
            }
            Ok(())
        }
        Some(("child", arguments)) => {
            let words: Vec<String> = arguments
                .get_many("words")
                .unwrap_or_default()
                .cloned()
                .collect();
            child(&words)
        }
        Some((name, arguments)) => {
            let seconds = *arguments.get_one("seconds").expect("has a default");
            let seed = arguments.get_one("seed").copied();
            let seed = seed.unwrap_or_else(random_seed);
            let campaign = CAMPAIGNS.iter().find(|it| it.name == name);
            let campaign = campaign.expect("all subcommands are listed");
            match campaign.run {
                Err(reason) => {
                    println!("{name}: skipped: {reason}");
                    Ok(())
                }
                Ok(run) if arguments.get_flag("inside") => inside(name, run, seconds, seed),
                Ok(_) => {
                    run::current_thread().and_then(|it| it.block_on(supervise(name, seconds, seed)))
                }
            }
        }
        None => unreachable!("a subcommand is required"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let mut command = Command::new("asyncipc-stress")
        .about("Attacks asyncipc, and fails when something is lost, doubled, or hangs")
        .subcommand_required(true)
        .subcommand(Command::new("list").about("Prints the names of the campaigns, one a line"))
        .subcommand(
            Command::new("child")
                .hide(true)
                .arg(Arg::new("words").num_args(1..)),
        );
    for campaign in CAMPAIGNS {
        command = command.subcommand(
            Command::new(campaign.name)
                .about(campaign.about)
                .arg(
                    Arg::new("seconds")
                        .long("seconds")
                        .value_parser(value_parser!(u64))
                        .default_value("5")
                        .help("How long it begins new rounds"),
                )
                .arg(
                    Arg::new("seed")
                        .long("seed")
                        .value_parser(value_parser!(u64))
                        .help("Repeats the choices of an earlier run [default: random]"),
                )
                .arg(
                    Arg::new("inside")
                        .long("inside")
                        .action(ArgAction::SetTrue)
                        .hide(true),
                ),
        );
    }
    command
}

/// A child of a campaign, in the role that its first word says.
fn child(words: &[String]) -> Result<()> {
    log();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["kills-server", name, log] => kills::server(name, log),
        ["kills-client", name, log, seed] => kills::client(name, log, seed),
        ["kills-worker", log] => kills::worker(log),
        ["cancel-worker"] => cancel::worker(),
        #[cfg(unix)]
        ["race", name, holder, seed] => racing_binds::racer(name, holder, seed),
        #[cfg(target_os = "linux")]
        ["descriptors", name, seed] => descriptors::server(name, seed),
        ["restarts", name, to, log, folder] => restarts::endpoint(name, to, log, folder),
        _ => Err(format!("no such role: {words:?}").into()),
    }
}

/// Runs the campaign as a child in a folder of its own, and leaves nothing of it behind.
async fn supervise(name: &str, seconds: u64, seed: u64) -> Result<()> {
    println!("{name}: seed {seed}");
    let folder = tempfile::Builder::new()
        .prefix("asyncipc-stress-")
        .tempdir()?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command
        .args([name, "--inside", "--seconds", &seconds.to_string()])
        .args(["--seed", &seed.to_string()])
        .env("XDG_RUNTIME_DIR", folder.path())
        .env("TMPDIR", folder.path())
        // Windows' word for it.
        .env("TMP", folder.path())
        // Its end tells the child that this process has ended.
        .stdin(Stdio::piped())
        .kill_on_drop(true);
    platform::in_own_group(&mut command);
    let mut child = command.spawn()?;
    let _stdin = child.stdin.take();
    let group = child.id();
    // The child's own watchdog comes first, and knows more.
    let limit = Duration::from_secs(seconds) + GRACE + Duration::from_secs(10);
    let ended = tokio::select! {
        status = child.wait() => Ok(status?),
        () = tokio::time::sleep(limit) => Err(format!("hung for {limit:?}, and its watchdog too")),
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    };
    let mut left = 0;
    if let Some(group) = group {
        if ended.is_ok() {
            left = left_behind(group).await;
        }
        platform::end_group(group);
    }
    let status = ended?;
    if status.code() == Some(HUNG) {
        exit(HUNG);
    }
    if !status.success() {
        return Err(format!("{name} with seed {seed}: {status}").into());
    }
    if left > 0 {
        return Err(format!("{name} with seed {seed}: {left} processes were left behind").into());
    }
    Ok(())
}

/// How many processes of the group live on for more than a moment.
async fn left_behind(group: u32) -> usize {
    let mut left = 0;
    for _ in 0..100 {
        left = platform::living(group);
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    left
}

/// The campaign itself, which the watchdog ends when it hangs.
fn inside(name: &str, campaign: fn(&Run) -> Result<String>, seconds: u64, seed: u64) -> Result<()> {
    log();
    count_panics();
    run::orders();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(seconds) + GRACE);
        eprintln!("hung, while it waited for\n{}", places());
        exit(HUNG);
    });
    let figures = campaign(&Run::new(seconds, seed));
    let panics = lock(&PANICS);
    if let Some(first) = panics.first() {
        let more = match &figures {
            Ok(_) => String::new(),
            Err(error) => format!("; and {error}"),
        };
        return Err(format!("{} panics; the first: {first}{more}", panics.len()).into());
    }
    println!("{name}: {}", figures?);
    Ok(())
}

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Panics that a runtime or a server has caught are failures too.
fn count_panics() {
    panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        lock(&PANICS).push(panic.to_string());
    }));
}

/// What the crate logs, as RUST_LOG says: nothing by default, for campaigns provoke warnings.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| "off".into()))
        .with_writer(std::io::stderr)
        .init();
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Short enough to be typed.
    RandomState::new().hash_one(()) % 1_000_000
}
