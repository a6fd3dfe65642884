//! The thread that owns a [`Spool`], and the handle by which others reach it.
//!
//! A request is a closure run on that thread. Requests that wait together share one commit: all are run,
//! what they staged is written and synced once, then every answer is given. An answer is therefore never
//! given before what it speaks of is stable. When the commit fails every answer of the batch is
//! [`SpoolError::Poisoned`], and so is every later one.
//!
//! The queue is bounded ([`QUEUE_MAX`]): a caller that may not block bounds its own requests below that.
