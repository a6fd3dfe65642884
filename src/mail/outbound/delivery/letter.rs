//! One submission's message as it goes on the wire: signatures, trace fields, stored body.
//!
//! A body is read from the spool twice when it is signed, once for its hash and once for the wire; nothing above
//! [`KEEP_BYTES_MAX`] is held in memory, and then one chunk at a time. Policy: a body that is damaged can never be
//! sent and says so; one that cannot be read now may be read later.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use spool::error::SpoolError;
use spool::submission::Submission;
use spool::types::ItemInfo;

use super::super::connection::{Envelope, MessageSource, SourceError};
use super::super::prepare::dkim::Signer;
use crate::clock;
use crate::mail::envelope::{BodyType, OutboundMeta};
use crate::spooler::Spooler;

/// Bodies up to this size are kept between the two readings, bytes; times the deliveries at a time.
const KEEP_BYTES_MAX: u64 = 256 * 1024;

/// Why there is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LetterError {
    /// It never will be.
    #[error("the stored message is damaged: {0}")]
    Damaged(String),
    /// It may be, later.
    #[error("the stored message cannot be read: {0}")]
    Unreadable(String),
}

impl LetterError {
    fn of(error: &SpoolError) -> Self {
        match error {
            SpoolError::Corrupt { .. } => Self::Damaged(error.to_string()),
            SpoolError::Io { .. }
            | SpoolError::Index(_)
            | SpoolError::Poisoned { .. }
            | SpoolError::Locked
            | SpoolError::NewerFormat { .. }
            | SpoolError::Foreign { .. }
            | SpoolError::Closed => Self::Unreadable(error.to_string()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Letter {
    spooler: Spooler,
    info: Arc<ItemInfo>,
    /// What goes before the body.
    front: Vec<Bytes>,
    /// The body, when it is small.
    kept: Option<Vec<Bytes>>,
    /// What servers are told.
    pub(super) envelope: Envelope,
}

impl Letter {
    /// Reads what is needed and signs, when there is a signer and the message is its to sign.
    pub(super) async fn open(
        spooler: &Spooler,
        submission: Submission,
        signer: Option<&Signer>,
    ) -> Result<Self, LetterError> {
        let info = Arc::new(submission.info);
        let meta =
            OutboundMeta::decode(&info.meta).map_err(|error| LetterError::Damaged(error.to_string()))?;
        let recipient = String::from_utf8(info.tag.clone());
        let recipient = recipient.map_err(|_| LetterError::Damaged("the recipient is no text".to_owned()))?;
        let mut letter = Self {
            spooler: spooler.clone(),
            front: vec![Bytes::from(info.head.clone())],
            kept: None,
            envelope: Envelope {
                mail_from: meta.mail_from,
                rcpt_to: vec![recipient],
                size_bytes: info.size_bytes,
                eight_bit: meta.body == BodyType::EightBit,
                smtputf8: meta.smtputf8,
            },
            info,
        };
        if letter.info.size_bytes <= KEEP_BYTES_MAX {
            let mut kept = Vec::with_capacity(letter.info.chunks.len());
            for n in 0..letter.info.chunks.len() {
                kept.push(letter.read(n).await?);
            }
            letter.kept = Some(kept);
        }
        if let Some(signer) = signer {
            letter.sign(signer).await?;
        }
        Ok(letter)
    }

    /// The message from its first octet on.
    pub(super) fn source(&self) -> Source<'_> {
        let mut parts: VecDeque<Bytes> = self.front.iter().cloned().collect();
        parts.extend(self.kept.iter().flatten().cloned());
        let next = if self.kept.is_some() { self.info.chunks.len() } else { 0 };
        Source { letter: self, parts, next, problem: None }
    }

    async fn sign(&mut self, signer: &Signer) -> Result<(), LetterError> {
        let mut signing = signer.begin();
        let mut source = self.source();
        while let Some(bytes) = source.piece().await? {
            signing.feed(&bytes);
        }
        match signing.finish(clock::wall()) {
            Ok(fields) => {
                self.envelope.size_bytes += fields.len() as u64;
                self.front.insert(0, Bytes::from(fields));
            }
            // Unsigned mail is still mail; a receiver that minds says so.
            Err(why) => tracing::debug!(submission.id = %self.info.id, %why, "message is not signed"),
        }
        Ok(())
    }

    async fn read(&self, n: usize) -> Result<Bytes, LetterError> {
        self.spooler.read_chunk(&self.info, n).await.map_err(|error| {
            tracing::error!(event = "relay.outbound.unreadable", submission.id = %self.info.id, %error,
                "a stored body cannot be read");
            LetterError::of(&error)
        })
    }
}

/// Hands a [`Letter`] out, once.
#[derive(Debug)]
pub(super) struct Source<'a> {
    letter: &'a Letter,
    parts: VecDeque<Bytes>,
    next: usize,
    /// Why it stopped before the end.
    pub(super) problem: Option<LetterError>,
}

impl Source<'_> {
    async fn piece(&mut self) -> Result<Option<Bytes>, LetterError> {
        while let Some(part) = self.parts.pop_front() {
            if !part.is_empty() {
                return Ok(Some(part));
            }
        }
        if self.next >= self.letter.info.chunks.len() {
            return Ok(None);
        }
        let n = self.next;
        self.next += 1;
        self.letter.read(n).await.map(Some)
    }
}

impl MessageSource for Source<'_> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, SourceError>> {
        Box::pin(async move {
            self.piece().await.map_err(|error| {
                self.problem = Some(error.clone());
                SourceError(error.to_string())
            })
        })
    }
}
