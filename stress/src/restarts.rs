//! An endpoint that is started again and again, while another one sends to it and hears from it all
//! the time.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use asyncipc::endpoint::{self, EndpointError, EndpointHandle, Envelope};
use asyncipc::{Endpoint, Error};
use futures::StreamExt;
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::run::{
    HANG, Result, Run, Started, count, ensure, fail, itself, lock, multi_thread, orders, unique,
    within, within_time,
};

/// How many messages an endpoint has in hand at a time, at most: the default.
const IN_HAND: u64 = 64;

/// How long an endpoint that restarts may take for each part of its life: more than its drain timeout,
/// and less than whoever waits for it.
const ENDS: Duration = Duration::from_secs(15);

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(async {
        let orderly = series(run, Ending::Orderly);
        let overlapping = series(run, Ending::Overlapping);
        let killed = series(run, Ending::Killed);
        let (orderly, overlapping, killed) = tokio::try_join!(orderly, overlapping, killed)?;
        Ok(format!(
            "{} orderly restarts, {} messages, {} of them out of order between two that overlap, \
             0 lost, 0 twice; {} kills, {} messages, {} lost and {} twice as the documentation allows",
            orderly.restarts + overlapping.restarts,
            count(orderly.messages + overlapping.messages),
            overlapping.disordered,
            killed.restarts,
            count(killed.messages),
            killed.lost,
            killed.twice
        ))
    })
}

/// How an endpoint ends before it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The next one starts when it has ended.
    Orderly,
    /// The next one starts at the same time, and binds as soon as the name is free.
    Overlapping,
    Killed,
}

#[derive(Debug, Default)]
struct Figures {
    restarts: u64,
    messages: u64,
    disordered: u64,
    lost: u64,
    twice: u64,
}

/// What the endpoint that stays knows.
#[derive(Debug, Default)]
struct Stays {
    /// What came from each of those that were started. Not by its process, whose number is another one's
    /// after some time.
    heard: Mutex<HashMap<u64, Vec<u64>>>,
    /// How often it was told that something may not have been read.
    unread: AtomicU64,
    /// What must not happen.
    wrong: Mutex<Vec<String>>,
}

async fn series(run: &Run, ending: Ending) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log").display().to_string();
    fs::File::create(&log)?;
    let (own, other) = (unique("stays"), unique("restarts"));
    let stays = Arc::new(Stays::default());
    let hearing = stays.clone();
    let endpoint = Endpoint::builder(&own)
        .backoff(Duration::from_millis(1), Duration::from_millis(50))
        .on("report", move |message: Envelope| {
            let stays = hearing.clone();
            async move {
                let (who, n): (u64, u64) = message.parse()?;
                lock(&stays.heard).entry(who).or_default().push(n);
                Ok(())
            }
        })
        .bind()?;
    let handle = endpoint.handle();
    let reading = tokio::spawn(read(endpoint, stays.clone(), ending));

    let over = Arc::new(AtomicBool::new(false));
    let mut tasks: JoinSet<Result<(u64, Vec<u64>)>> = JoinSet::new();
    {
        let (handle, other, over) = (handle.clone(), other.clone(), over.clone());
        let mut rng = run.choices(10 + ending as u64);
        tasks.spawn(async move {
            let mut accepted = 0;
            while !over.load(Relaxed) {
                handle.send(&other, "note", accepted).await?;
                accepted += 1;
                pace(&mut rng).await;
            }
            Ok((accepted, Vec::new()))
        });
    }
    {
        let (handle, other, over) = (handle.clone(), other.clone(), over.clone());
        tasks.spawn(async move {
            let mut answered = Vec::new();
            for n in 0.. {
                if over.load(Relaxed) {
                    break;
                }
                match handle.request(&other, "ask", n).await {
                    Ok(reply) => {
                        ensure!(reply == n, "request {n} was answered with {reply}");
                        answered.push(n);
                    }
                    // It may have been handled or not.
                    Err(EndpointError::Unanswered { .. }) => {}
                    Err(error) => fail!("request {n} during restarts: {error}"),
                }
                sleep(Duration::from_micros(300)).await;
            }
            Ok((0, answered))
        });
    }

    let mut rng = run.choices(20 + ending as u64);
    let mut figures = Figures::default();
    let (mut said, mut answered, mut accepted) = (HashMap::new(), Vec::new(), 0);
    let mut old: Option<Started> = None;
    loop {
        let last = !run.goes_on();
        let mut next = start(&other, &own, &log, folder.path())?;
        if let Some(old) = old.take() {
            finish(old, &mut said, folder.path()).await?;
        }
        if last {
            over.store(true, Relaxed);
            while let Some(done) = within("the senders end", tasks.join_next()).await? {
                let (sent, replies) = done??;
                accepted += sent;
                answered.extend(replies);
            }
        }
        let pause = rng.random_range(5_000..100_000);
        tokio::select! {
            () = sleep(Duration::from_micros(pause)) => {}
            status = next.process.wait() => fail!("an endpoint has ended by itself: {}", status?),
        }
        if last {
            // The last one takes the rest, and ends orderly.
            let asking = handle.request_within(HANG, &other, "ask", u64::MAX);
            within("the last one answers", asking).await??;
            next.stop().await?;
            finish(next, &mut said, folder.path()).await?;
            break;
        }
        figures.restarts += 1;
        match ending {
            Ending::Killed => next.kill().await?,
            Ending::Orderly => {
                next.stop().await?;
                finish(next, &mut said, folder.path()).await?;
            }
            Ending::Overlapping => {
                next.stop().await?;
                old = Some(next);
            }
        }
    }
    handle.shutdown();
    within("the endpoint that stays ends", reading).await??;
    if let Some(wrong) = lock(&stays.wrong).first() {
        fail!("{ending:?}: {wrong}");
    }
    check(&mut figures, ending, &log, accepted, &answered, &stays)?;
    for (who, said) in said {
        let heard = lock(&stays.heard).remove(&who).unwrap_or_default();
        ensure!(
            heard.iter().copied().eq(0..said),
            "{ending:?}: one that ended orderly had {said} messages accepted, and {} were heard: {heard:?}",
            heard.len()
        );
        figures.messages += said;
    }
    Ok(figures)
}

async fn pace(rng: &mut SmallRng) {
    match rng.random_range(0..200) {
        0 => sleep(Duration::from_micros(rng.random_range(0..3000))).await,
        _ => tokio::task::yield_now().await,
    }
}

fn start(name: &str, to: &str, log: &str, folder: &std::path::Path) -> Result<Started> {
    let folder = folder.display().to_string();
    let mut command = itself("restarts", &[name, to, log, &folder])?;
    Ok(Started::new(command.spawn()?))
}

/// Waits for an orderly end, and learns how many messages were accepted there.
async fn finish(
    mut ending: Started,
    said: &mut HashMap<u64, u64>,
    folder: &std::path::Path,
) -> Result<()> {
    let process = ending.process.id().ok_or("it has ended already")?;
    let what = format!("process {process} ends orderly");
    let status = within(what, ending.process.wait()).await??;
    ensure!(status.success(), "an endpoint that ends orderly: {status}");
    let noted = fs::read_to_string(folder.join(process.to_string()))?;
    let Some((who, accepted)) = noted.split_once(' ') else {
        fail!("process {process} notes {noted:?}");
    };
    said.insert(who.parse()?, accepted.parse()?);
    Ok(())
}

/// What the endpoint that stays is told.
async fn read(mut endpoint: Endpoint, stays: Arc<Stays>, ending: Ending) {
    while let Some(event) = endpoint.next().await {
        match event {
            endpoint::Event::Ready | endpoint::Event::Closed => {}
            endpoint::Event::Error(EndpointError::Unread { .. }) if ending == Ending::Killed => {
                stays.unread.fetch_add(1, Relaxed);
            }
            // Whoever was killed inside a message.
            endpoint::Event::Error(EndpointError::Pipe(
                Error::Truncated { .. } | Error::Closed { .. },
            )) if ending == Ending::Killed => {}
            event => lock(&stays.wrong).push(format!("the endpoint that stays is told {event:?}")),
        }
    }
}

/// Compares what the restarted ones have noted with what they were sent.
fn check(
    figures: &mut Figures,
    ending: Ending,
    log: &str,
    accepted: u64,
    answered: &[u64],
    stays: &Stays,
) -> Result<()> {
    let log = fs::read_to_string(log)?;
    let (mut notes, mut asked) = (Vec::new(), BTreeMap::<u64, u64>::new());
    for line in log.lines() {
        match line.split_once(' ') {
            Some(("note", n)) => notes.push(n.parse::<u64>()?),
            Some(("ask", n)) => *asked.entry(n.parse()?).or_default() += 1,
            _ => fail!("the log says {line:?}"),
        }
    }
    figures.messages += accepted + answered.len() as u64;
    if let Some(lost) = answered.iter().find(|it| !asked.contains_key(it)) {
        fail!("{ending:?}: request {lost} was answered, and is not in the log");
    }
    if let Some((n, times)) = asked.iter().find(|(_, times)| **times > 1) {
        fail!("{ending:?}: request {n} was handled {times} times");
    }
    let mut times = vec![0_u64; usize::try_from(accepted)?];
    for n in &notes {
        times[usize::try_from(*n)?] += 1;
    }
    let disordered = notes.windows(2).filter(|it| it[1] < it[0]).count() as u64;
    let lost = times.iter().filter(|it| **it == 0).count() as u64;
    let twice = times.iter().map(|it| it.saturating_sub(1)).sum();
    let first = |n: u64| {
        times
            .iter()
            .position(|it| if n == 0 { *it == 0 } else { *it > 1 })
    };
    if ending == Ending::Killed {
        // What was sent again comes before all others of the next one.
        ensure!(
            twice <= figures.restarts && disordered == 0,
            "killed {} times: {twice} messages came twice, {disordered} out of order",
            figures.restarts
        );
        let told = stays.unread.load(Relaxed);
        let untold = lost_at_once(&times).filter(|it| *it > IN_HAND).count() as u64;
        // What it had in hand it may have lost silently; the rest of what the system had, not.
        ensure!(
            untold <= told || !cfg!(target_os = "linux"),
            "more than {IN_HAND} messages were lost at once {untold} times, of which {told} were told"
        );
        ensure!(
            lost_at_once(&times).count() as u64 <= figures.restarts,
            "killed {} times, and messages were lost {} times",
            figures.restarts,
            lost_at_once(&times).count()
        );
    } else {
        ensure!(
            lost == 0,
            "{ending:?}: of {accepted} messages, {lost} were lost, the first: {:?}",
            first(0)
        );
        ensure!(
            twice == 0,
            "{ending:?}: of {accepted} messages, {twice} came twice, the first: {:?}",
            first(2)
        );
        ensure!(
            disordered == 0 || ending == Ending::Overlapping,
            "{ending:?}: {disordered} messages came out of order"
        );
    }
    (figures.disordered, figures.lost, figures.twice) = (disordered, lost, twice);
    Ok(())
}

/// The lengths of all gaps.
fn lost_at_once(times: &[u64]) -> impl Iterator<Item = u64> {
    let gaps = times.split(|it| *it > 0);
    gaps.filter(|it| !it.is_empty()).map(|it| it.len() as u64)
}

/// In a child: notes what it is sent, answers what it is asked, and sends as well.
pub(crate) fn endpoint(name: &str, to: &str, log: &str, folder: &str) -> Result<()> {
    let stop = orders();
    let log = Arc::new(OpenOptions::new().append(true).open(log)?);
    let note = |action: &'static str| {
        let log = log.clone();
        move |message: Envelope| {
            let log = log.clone();
            async move {
                let n: u64 = message.parse()?;
                // One write, which is there as a whole when this process is killed.
                (&*log).write_all(format!("{action} {n}\n").as_bytes())?;
                Ok(n)
            }
        }
    };
    crate::run::current_thread()?.block_on(async {
        let mut refused = String::new();
        let binding = async {
            loop {
                let builder = Endpoint::builder(name)
                    .backoff(Duration::from_millis(1), Duration::from_millis(50))
                    .on("note", note("note"))
                    .on("ask", note("ask"));
                match builder.bind() {
                    // The one before it has not let go of the name yet.
                    Err(error @ Error::AddressInUse { .. }) => {
                        refused = error.to_string();
                        sleep(Duration::from_micros(200)).await;
                    }
                    bound => break bound,
                }
            }
        };
        let who = RandomState::new().hash_one(std::process::id());
        let file = std::path::Path::new(folder).join(std::process::id().to_string());
        let bound = tokio::select! {
            bound = within_time(ENDS, "the name is free", binding) => bound,
            // The next one was faster, and lets go of the name only when this one has ended.
            () = stop.notified() => return Ok(fs::write(file, format!("{who} 0"))?),
        };
        let mut endpoint = bound.map_err(|e| format!("{e}: {refused}"))??;
        let handle = endpoint.handle();
        let saying = tokio::spawn(say(who, handle.clone(), to.to_string()));
        let reading = async {
            while let Some(event) = endpoint.next().await {
                match event {
                    endpoint::Event::Ready => {}
                    endpoint::Event::Closed => break,
                    event => fail!("an endpoint that restarts is told {event:?}"),
                }
            }
            Ok::<_, asyncipc::BoxError>(())
        };
        let ending = async {
            stop.notified().await;
            handle.shutdown();
            sleep(ENDS).await;
        };
        tokio::select! {
            read = reading => read?,
            () = ending => fail!("an endpoint that was shut down has not ended"),
        }
        let accepted = within_time(ENDS, "nothing more is sent", saying).await???;
        fs::write(file, format!("{who} {accepted}"))?;
        Ok(())
    })
}

/// Sends until the endpoint is shut down. Gives how many messages were accepted.
async fn say(who: u64, handle: EndpointHandle, to: String) -> Result<u64> {
    for n in 0.. {
        match handle.send(&to, "report", (who, n)).await {
            Ok(()) => {}
            Err(EndpointError::Pipe(Error::ShutDown { .. })) => return Ok(n),
            Err(error) => fail!("an endpoint that restarts cannot send: {error}"),
        }
        tokio::task::yield_now().await;
    }
    Ok(u64::MAX)
}
