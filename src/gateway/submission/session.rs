//! One connection of a local program: a loop that performs the receiver machine's outputs, then waits for one thing.

use std::net::SocketAddr;
use std::time::Duration;

use spool::ids::ItemId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use crate::gateway::outbox::{Draft, DraftError};
use crate::mail::address::ForwardPath;
use crate::mail::smtp::receiver::{Acceptance, Answer, Grace, Output, Question, Receiver};
use crate::{clock, crashpoint};

/// Read buffer of one connection.
const READ_BYTES: usize = 16 * 1024;
/// Longest wait for the outbox.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an open transaction may go without its message after a stop.
const OPEN_MAX: Duration = Duration::from_secs(3);
/// After closing: how much of what the client still sends is thrown away, so that it can read our last word.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// And for how long.
const LINGER: Duration = Duration::from_millis(500);

/// The other end is gone.
struct Gone;

struct Session<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    replies: Vec<u8>,
    draft: Option<Draft>,
}

/// Runs one session to its end.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared) {
    let _ = stream.set_nodelay(true); // replies are small and waited for
    // Local programs are not strangers: their line ends are repaired.
    let receiver = Receiver::new(shared.settings.clone(), true, clock::monotonic());
    let mut session = Session { shared, stream, replies: Vec::new(), draft: None };
    tracing::debug!(event = "gateway.submission.connected", client = %peer, "a local program connects");
    if session.converse(receiver).await.is_ok() {
        session.linger().await;
    }
}

impl Session<'_> {
    async fn converse(&mut self, mut receiver: Receiver) -> Result<(), Gone> {
        let mut input = vec![0; READ_BYTES];
        let (mut start, mut end) = (0, 0);
        let mut draining = false;
        loop {
            while let Some(output) = receiver.poll() {
                self.perform(output, &mut receiver).await;
            }
            if start < end && !receiver.is_closed() {
                start += receiver.receive(&input[start..end], clock::monotonic());
                continue;
            }
            self.flush().await?;
            if receiver.is_closed() {
                return Ok(());
            }
            let deadline = receiver.deadline();
            let time = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shared.kill.cancelled() => receiver.hang_up(),
                () = self.shared.stop.cancelled(), if !draining => {
                    draining = true;
                    receiver.drain(Grace { until: clock::monotonic() + OPEN_MAX, newcomers: false });
                }
                read = self.stream.read(&mut input) => match read {
                    Ok(0) | Err(_) => receiver.hang_up(),
                    Ok(read) => (start, end) = (0, read),
                },
                () = time => receiver.tick(clock::monotonic()),
            }
        }
    }

    async fn perform(&mut self, output: Output, receiver: &mut Receiver) {
        match output {
            Output::Write { reply, .. } => {
                if reply.is_refusal() {
                    tracing::info!(
                        event = "gateway.submission.refused",
                        smtp.code = reply.code(),
                        "refused: {}",
                        reply.text()
                    );
                }
                reply.encode(&mut self.replies);
            }
            Output::Ask(question) => receiver.answer(self.answer(&question), clock::monotonic()),
            Output::Begin { recipients } => self.draft = Some(self.shared.outbox.draft(recipients)),
            Output::Body(bytes) => self.keep(&bytes, receiver).await,
            Output::Abandon => self.draft = None,
            Output::Persist(acceptance) => self.persist(&acceptance, receiver).await,
            Output::StartTls => receiver.tls_failed(), // never offered here
            Output::Close => {}
        }
    }

    fn answer(&self, question: &Question) -> Answer {
        match question {
            Question::Transaction(sender) if self.shared.own.owns(sender) => Answer::Begin,
            Question::Transaction(_) => Answer::NotOwned { own: self.shared.own.address().to_owned() },
            Question::Offence => Answer::Offences { own: 0, around: 0 },
            // Whose postmaster? A submission names a domain.
            Question::Recipient(ForwardPath::Postmaster(_)) => Answer::Unknown,
            Question::Recipient(ForwardPath::Mailbox(_)) => {
                Answer::Lane { lane: self.shared.outbox.mailbox(), name: "outbox".to_owned() }
            }
        }
    }

    /// Hands octets to the outbox; waits while the disk is behind.
    async fn keep(&mut self, bytes: &[u8], receiver: &mut Receiver) {
        let Some(draft) = &mut self.draft else { return };
        let answer = match timeout(COMMIT_TIMEOUT, draft.write(bytes)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => refusal(&error),
            Err(_) => Answer::Failed,
        };
        self.draft = None;
        receiver.body_failed(&answer);
    }

    async fn persist(&mut self, acceptance: &Acceptance, receiver: &mut Receiver) {
        let ticket = acceptance.ticket;
        let stored = match self.draft.take() {
            Some(draft) => commit(draft, acceptance).await,
            None => Err(Answer::Failed),
        };
        let now = clock::monotonic();
        match stored {
            Ok(id) => receiver.persisted(ticket, id, now),
            Err(answer) => receiver.store_failed(ticket, answer, now),
        }
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let write = timeout(self.shared.settings.command_timeout, self.stream.write_all(&self.replies));
        let written = tokio::select! {
            written = write => written,
            () = self.shared.kill.cancelled() => return Err(Gone),
        };
        self.replies.clear();
        if matches!(written, Ok(Ok(()))) { Ok(()) } else { Err(Gone) }
    }

    /// Lets the client read our last word: closing with unread input would reset the connection.
    async fn linger(&mut self) {
        let mut sink = [0; 1024];
        let farewell = async {
            self.stream.shutdown().await?;
            let mut left = LINGER_BYTES_MAX;
            while left > 0 {
                match self.stream.read(&mut sink).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<(), std::io::Error>(())
        };
        let _ = timeout(LINGER, farewell).await;
    }
}

/// The first recipient's submission names the message in our `250`.
///
/// There is no time limit here: whether the commit came through must be known before anything is said, or a repeat
/// makes two. A ledger that does not answer is a poisoned one, and that is an answer.
async fn commit(draft: Draft, acceptance: &Acceptance) -> Result<ItemId, Answer> {
    let recipients: Vec<String> =
        acceptance.recipients.iter().map(|recipient| recipient.path.verbatim().to_owned()).collect();
    match draft.commit(acceptance.from.verbatim(), &recipients).await {
        Ok(ids) => {
            crashpoint::reach("gateway.submission.before_reply");
            ids.first().copied().ok_or(Answer::Failed)
        }
        Err(error) => {
            tracing::warn!(event = "gateway.submission.not_stored", %error, "a message was not stored");
            Err(refusal(&error))
        }
    }
}

fn refusal(error: &DraftError) -> Answer {
    match error {
        DraftError::Full(_) => Answer::NoSpace,
        DraftError::Broken(_) | DraftError::Recipients => Answer::Failed,
    }
}
