//! What can become of a stream that a gateway submits, as metrics and logs call it.

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubmissionOutcome {
    /// It is a submission now, to be delivered or delivered here.
    Accepted,
    /// It is a submission that failed at once.
    Refused,
    /// It was submitted before under the same name.
    Known,
    /// It repeats another one.
    Twin,
    /// Its name was used before with other content.
    Conflict,
    /// It could not be stored.
    NotNow,
}

impl SubmissionOutcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Accepted, Self::Refused, Self::Known, Self::Twin, Self::Conflict, Self::NotNow];

    /// The word in metrics and logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Known => "known",
            Self::Twin => "twin",
            Self::Conflict => "id_conflict",
            Self::NotNow => "not_now",
        }
    }
}
