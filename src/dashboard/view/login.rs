//! PURE: the way in.

use maud::{Markup, html};

use super::{Frame, Place, page};

/// Where the token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dashboard) enum Hint {
    /// In this file.
    File(String),
    /// Where the configuration says; strangers need not know.
    Configured,
}

/// * `to` – the page to go on with.
/// * `failed` – why the login before was refused.
pub(in crate::dashboard) fn login(frame: &Frame<'_>, hint: &Hint, to: &str, failed: Option<&str>) -> Markup {
    let body = html! {
        div.question.login {
            h1 { "Log in to " (frame.hostname) }
            @if let Some(failed) = failed { p.notice.bad role="alert" { (failed) } }
            form action="/login" method="post" {
                input type="hidden" name="to" value=(to);
                // Password managers want a name beside the password.
                input.unseen type="text" name="username" value="operator" autocomplete="username" tabindex="-1" aria-hidden="true" readonly;
                div.field {
                    label for="token" { "Token" }
                    input #token type="password" name="token" required autocomplete="current-password" spellcheck="false" maxlength="512" aria-describedby="token-hint" autofocus;
                }
                p.dim #token-hint {
                    @match hint {
                        Hint::File(file) => { "It is in the file " code { (file) } " on the relay's machine." },
                        Hint::Configured => { "It is in the file that " code { "admin.http_token_file" } " of the configuration names." },
                    }
                }
                div.actions { button.strong type="submit" { "Log in" } }
            }
        }
    };
    page(frame, Place::Nowhere, "Log in", None, &body)
}
