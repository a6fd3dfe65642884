//! Waiting for a condition.

/// Looks again and again until something is so; gives up, with its name, after a minute.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let look = async {
        while !is() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(60), look).await;
    assert!(in_time.is_ok(), "waited in vain until {what}");
}
