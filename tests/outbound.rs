//! Scenarios of mail out: the whole relay, scripted mail exchangers, a name server of our own.

mod means;
