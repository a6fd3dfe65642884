//! What the relay finds out about senders: SPF, DKIM, DMARC and ARC, before suites and judges that we did not write,
//! with a name server of our own in place of the Internet.

mod evasions;
mod policies;
mod relay;
mod signatures;
mod spf_suite;
mod trouble;
mod vectors;
mod world;
