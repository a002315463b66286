//! The receiving end of a real connection beside a model: bytes go in by pieces, and what comes
//! out, by `next` and `recv_into` in turn, is what the rules of the wire say.
#![no_main]

mod wire;

use std::cell::RefCell;
use std::pin::pin;
use std::time::Duration;

use asyncipc::{
    Error, MessageCodec, PipeClient, PipeConnection, PipeListener, PipeServer, PipeStream,
};
use bytes::BytesMut;
use futures::{FutureExt, StreamExt};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use wire::{Part, wire};

/// The most that one run sends: enough for each way in which the receiver keeps a message.
const MOST: usize = 512 << 10;

const MOST_STEPS: usize = 200;

/// Longer than anything takes, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Arbitrary, Debug)]
struct Input {
    limit: Limit,
    wire: Vec<Part>,
    /// How the wire is cut, and what is done between the pieces: over and over.
    steps: Vec<Step>,
    /// Whether the messages are received by `next` or by `recv_into`: over and over.
    into: Vec<bool>,
    /// After so many messages, the rest is read as bytes.
    bytes_after: Option<u8>,
}

#[derive(Arbitrary, Debug)]
enum Limit {
    Bytes(u8),
    KiB(u8),
    Default,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Write(u8),
    WriteMore(u16),
    /// Writes to the end of a part: what comes behind it comes after a wait.
    WritePart,
    /// Lets the receiver try, and gives up if there is nothing.
    Try,
    /// Lets the runtime see what has come.
    Turn,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Message(Vec<u8>),
    TooLarge { size: usize, max: usize },
    Truncated { received: usize, expected: usize },
    End,
}

struct Bench {
    runtime: Runtime,
    listener: PipeListener,
    client: asyncipc::ClientBuilder,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

fuzz_target!(|input: Input| {
    BENCH.with_borrow_mut(|bench| {
        let Bench {
            runtime,
            listener,
            client,
        } = bench;
        runtime.block_on(async {
            let run = async {
                let (client, accepted) = tokio::join!(client.connect_bytes(), listener.accept());
                check(&input, client.unwrap(), accepted.unwrap()).await;
            };
            tokio::time::timeout(PATIENCE, run).await.expect("it hangs");
        });
    });
});

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let name = format!("asyncipc-fuzz-{}", std::process::id());
        let listener = {
            let _entered = runtime.enter();
            PipeServer::builder(&name).bind_bytes().unwrap()
        };
        Bench {
            runtime,
            listener,
            client: PipeClient::builder(&name),
        }
    }
}

async fn check(input: &Input, mut writer: PipeStream, stream: PipeStream) {
    let max = match input.limit {
        Limit::Bytes(bytes) => bytes.into(),
        Limit::KiB(kib) => usize::from(kib) << 10,
        Limit::Default => MessageCodec::DEFAULT_MAX_MESSAGE_SIZE,
    };
    let (wire, parts) = wire(&input.wire, MOST);
    let (expected, ends) = model(&wire, max);

    let mut receiver = Receiver {
        end: End::Messages(PipeConnection::new(stream, MessageCodec::new(max))),
        outcomes: Vec::new(),
        buf: BytesMut::new(),
        into: input.into.clone(),
        at_most: input.bytes_after.map_or(usize::MAX, usize::from),
        rest: Vec::new(),
    };
    let mut left = &wire[..];
    // After so many, the rest goes out at once: pieces of one byte would take for ever.
    let mut steps = input.steps.iter().cycle().take(MOST_STEPS);
    while !left.is_empty() {
        let size = match steps.next() {
            Some(Step::Write(size)) => usize::from(*size),
            Some(Step::WriteMore(size)) => usize::from(*size),
            Some(Step::WritePart) => {
                let at = wire.len() - left.len();
                let end = parts.iter().find(|end| **end > at);
                end.map_or(left.len(), |end| end - at)
            }
            Some(Step::Try) => {
                receiver.attempt();
                0
            }
            Some(Step::Turn) => {
                tokio::task::yield_now().await;
                0
            }
            None => left.len(),
        };
        let (piece, rest) = left.split_at(size.min(left.len()));
        left = rest;
        receiver.while_writing(&mut writer, piece).await;
    }
    drop(writer);
    while receiver.wants_more() {
        receiver.receive().await;
    }

    let received = receiver.outcomes.len();
    assert_eq!(receiver.outcomes[..], expected[..received]);
    match receiver.end {
        End::Messages(mut conn) => {
            assert_eq!(received, expected.len());
            assert_eq!(conn.stats().messages_received, ends.len() as u64);
            assert!(conn.next().await.is_none());
            let again = conn.recv_into(&mut BytesMut::new()).await;
            assert!(again.unwrap().is_none());
        }
        // The next message begins where the last one ended.
        End::Bytes(_) | End::Over => {
            let at = received.checked_sub(1).map_or(0, |last| ends[last]);
            assert!(receiver.rest == wire[at..], "bytes behind messages differ");
        }
    }
}

struct Receiver {
    end: End,
    outcomes: Vec<Outcome>,
    buf: BytesMut,
    into: Vec<bool>,
    at_most: usize,
    rest: Vec<u8>,
}

enum End {
    Messages(PipeConnection),
    /// What is behind the last message that was wanted.
    Bytes(PipeStream),
    Over,
}

impl Receiver {
    fn wants_more(&self) -> bool {
        match self.end {
            End::Messages(_) => {
                let last = self.outcomes.last();
                last.is_none_or(|it| matches!(it, Outcome::Message(_)))
            }
            End::Bytes(_) => true,
            End::Over => false,
        }
    }

    /// The next outcome, or the next bytes. Cancelling loses nothing.
    async fn receive(&mut self) {
        if self.outcomes.len() == self.at_most
            && self.wants_more()
            && let End::Messages(_) = self.end
            && let End::Messages(conn) = std::mem::replace(&mut self.end, End::Over)
        {
            // Nothing was fed, so that this does not wait.
            let stream = conn.into_stream().now_or_never().unwrap();
            self.end = End::Bytes(stream.unwrap());
        }
        let conn = match &mut self.end {
            End::Messages(conn) => conn,
            End::Bytes(stream) => {
                if stream.read_buf(&mut self.rest).await.unwrap() == 0 {
                    self.end = End::Over;
                }
                return;
            }
            End::Over => return,
        };
        let turn = self.outcomes.len() % self.into.len().max(1);
        let outcome = if self.into.get(turn) == Some(&true) {
            // It goes behind what is there.
            let before = self.buf.len();
            match conn.recv_into(&mut self.buf).await {
                Ok(Some(len)) => {
                    assert_eq!(self.buf.len(), before + len);
                    Outcome::Message(self.buf[before..].to_vec())
                }
                Ok(None) => Outcome::End,
                Err(error) => failure(error),
            }
        } else {
            match conn.next().await {
                Some(Ok(message)) => Outcome::Message(message.to_vec()),
                None => Outcome::End,
                Some(Err(error)) => failure(error),
            }
        };
        if self.buf.len() > MOST {
            self.buf.clear();
        }
        self.outcomes.push(outcome);
    }

    /// Takes what is there, and gives up on what is not.
    fn attempt(&mut self) {
        if self.wants_more() {
            let _ = self.receive().now_or_never();
        }
    }

    /// Receives when the pipe is full.
    async fn while_writing(&mut self, writer: &mut PipeStream, piece: &[u8]) {
        let mut writing = pin!(writer.write_all(piece));
        loop {
            if !self.wants_more() {
                // An error has ended it: nobody reads what is left.
                let _ = writing.now_or_never();
                return;
            }
            tokio::select! {
                biased;
                written = &mut writing => return written.unwrap(),
                () = self.receive() => {}
            }
        }
    }
}

fn failure(error: Error) -> Outcome {
    match error {
        Error::MessageTooLarge { size, max, .. } => Outcome::TooLarge { size, max },
        Error::Truncated {
            received,
            expected: Some(expected),
            ..
        } => Outcome::Truncated { received, expected },
        other => panic!("no error of receiving: {other}"),
    }
}

/// What comes out of this wire, and where in it each message ends.
fn model(wire: &[u8], max: usize) -> (Vec<Outcome>, Vec<usize>) {
    let (mut outcomes, mut ends, mut at) = (Vec::new(), Vec::new(), 0);
    let last = loop {
        let rest = &wire[at..];
        let Some(header) = rest.first_chunk::<4>() else {
            break match rest.len() {
                0 => Outcome::End,
                received => Outcome::Truncated {
                    received,
                    expected: 4,
                },
            };
        };
        let size = u32::from_be_bytes(*header) as usize;
        if size > max {
            break Outcome::TooLarge { size, max };
        }
        let Some(payload) = rest.get(4..4 + size) else {
            break Outcome::Truncated {
                received: rest.len(),
                expected: 4 + size,
            };
        };
        outcomes.push(Outcome::Message(payload.to_vec()));
        at += 4 + size;
        ends.push(at);
    };
    outcomes.push(last);
    (outcomes, ends)
}
