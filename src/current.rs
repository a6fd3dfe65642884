//! A value that can be replaced while others use it: settings that an operator changes on a running relay.
//!
//! Promises: whoever has taken the value keeps that one, whole, for as long as it wants; whoever takes it later gets the
//! newest. Costs one short lock. Failure policy: nothing can fail.

use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
#[derive(Debug, Default)]
pub struct Current<T>(Mutex<Arc<T>>);

impl<T> Current<T> {
    /// Holds `value` until it is replaced.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Mutex::new(Arc::new(value)))
    }

    /// The newest value.
    #[must_use]
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it, for whoever asks from now on.
    pub fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_taken_a_value_keeps_it() {
        let current = Current::new(1);
        let before = current.get();
        current.set(2);
        assert_eq!((*before, *current.get()), (1, 2));
    }
}
