//! What scenarios share.

#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod agent;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod dns;
pub(crate) mod home;
pub(crate) mod judges;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod line;
pub(crate) mod list_relay;
pub(crate) mod post;
pub(crate) mod process;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod programs;
pub(crate) mod relay;
pub(crate) mod script_relay;
pub(crate) mod signing_relay;
#[allow(dead_code, reason = "a means of proof is there before every one of its parts is used")]
pub(crate) mod sink;

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
