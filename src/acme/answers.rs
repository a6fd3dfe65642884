//! What the HTTP listener answers to http-01 validations (RFC 8555 section 8.3).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Validations at a time: one for each name of a certificate.
const ANSWERS_MAX: usize = 100;

/// Tokens that are being validated, and their key authorizations.
#[derive(Debug, Default)]
pub struct Answers(Mutex<HashMap<String, String>>);

impl Answers {
    /// The key authorization of a token that is being validated now.
    #[must_use]
    pub fn answer(&self, token: &str) -> Option<String> {
        self.lock().get(token).cloned()
    }

    pub(super) fn show(&self, token: &str, answer: &str) {
        let mut answers = self.lock();
        if answers.len() < ANSWERS_MAX {
            answers.insert(token.to_owned(), answer.to_owned());
        }
    }

    pub(super) fn hide(&self, token: &str) {
        self.lock().remove(token);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_shown_is_answered() {
        let answers = Answers::default();
        answers.show("token", "token.thumb");
        assert_eq!(answers.answer("token").as_deref(), Some("token.thumb"));
        assert_eq!(answers.answer("other"), None);
        answers.hide("token");
        assert_eq!(answers.answer("token"), None);
        for n in 0..ANSWERS_MAX + 10 {
            answers.show(&n.to_string(), "x");
        }
        assert_eq!(answers.lock().len(), ANSWERS_MAX);
    }
}
