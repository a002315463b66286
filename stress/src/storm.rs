//! Thousands of clients that come in waves, to a server that takes few at a time.

use asyncipc::PipeServer;
use futures::{SinkExt, StreamExt};
use rand::RngExt;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;

use crate::run::{
    Result, Run, connect, count, echo, ensure, length, multi_thread, number, numbered, unique,
    within,
};

/// How many clients a wave has at most. Under Wine each takes far longer.
const WAVE: u64 = if cfg!(windows) { 50 } else { 400 };

pub(crate) fn run(run: &Run) -> Result<String> {
    multi_thread()?.block_on(storm(run))
}

async fn storm(run: &Run) -> Result<String> {
    let name = unique("storm");
    let server = PipeServer::builder(&name)
        .max_connections(16)
        .backlog(4)
        .bind()?;
    let stop = server.shutdown_handle();
    let serving = server.serve(echo);
    let serving = tokio::spawn(serving);

    let mut rng = run.choices(0);
    let (mut clients, mut bytes, mut waves) = (0, 0, 0);
    while run.goes_on() {
        let mut wave = JoinSet::new();
        for _ in 0..rng.random_range(WAVE / 8..=WAVE) {
            clients += 1;
            wave.spawn(client(name.clone(), clients, run.choices(clients)));
        }
        while let Some(echoed) = wave.join_next().await {
            bytes += echoed?? as u64;
        }
        waves += 1;
    }
    stop.shutdown();
    let stats = within("the server drains", serving).await???;
    let traffic = stats.traffic;
    ensure!(
        (stats.clients, stats.connected) == (clients, 0),
        "{clients} clients came and left, but the server has counted {stats:?}"
    );
    ensure!(
        (traffic.messages_received, traffic.messages_sent) == (clients, clients),
        "{clients} messages went each way, but the server has counted {stats:?}"
    );
    ensure!(
        (traffic.bytes_received, traffic.bytes_sent) == (bytes, bytes),
        "{bytes} bytes went each way, but the server has counted {stats:?}"
    );
    Ok(format!(
        "{} clients in {waves} waves, all served, {} bytes echoed",
        count(clients),
        count(bytes)
    ))
}

/// Comes, has one message echoed, and leaves in one way or another. Gives the message's length.
async fn client(name: String, client: u64, mut rng: SmallRng) -> Result<usize> {
    let mut conn = connect(format!("client {client}"), &name).await?;
    let message = numbered(client, length(&mut rng, 50_000));
    within(format!("client {client} sends"), conn.send(message.clone())).await??;
    let echo = within(format!("client {client} waits for its echo"), conn.next()).await?;
    let Some(echo) = echo.transpose()? else {
        return Err(format!("client {client}: the stream ended before the echo").into());
    };
    let echoed = number(&echo)?;
    ensure!(
        echo == message,
        "client {client} sent {} bytes, and got message {echoed} with {}",
        message.len(),
        echo.len()
    );
    match rng.random_range(0..3) {
        0 => drop(conn),
        1 => within(format!("client {client} closes"), conn.close()).await??,
        _ => {
            // Windows pipes of bytes have no end of one direction.
            if cfg!(unix) {
                conn.close_write().await?;
                let end = within(format!("client {client} waits for the end"), conn.next()).await?;
                ensure!(end.is_none(), "client {client} got {end:?} and no end");
            }
        }
    }
    Ok(message.len())
}
