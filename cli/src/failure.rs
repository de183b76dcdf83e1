//! How a command that failed says so: a sentence on standard error, or with
//! `--output json` the API's error body.

use std::process::ExitCode;

use anyhow::Error;
use rota_client::ClientError;
use rota_protocol::http::{Code, ErrorBody};

use crate::args::Format;
use crate::output::say;

/// The exit code of a command line that is not one, or lacks a confirmation.
pub(crate) const USAGE: u8 = 2;

/// Says why the command failed.
pub(crate) fn report(error: &Error, format: Format) -> ExitCode {
    match format {
        Format::Table => say(&sentence(error)),
        Format::Json => eprintln!("{}", serde_json::to_string(&body(error)).unwrap_or_default()),
    }
    match client_error(error) {
        Some(ClientError::BadAddress(_)) => ExitCode::from(USAGE),
        _ => ExitCode::FAILURE,
    }
}

fn client_error(error: &Error) -> Option<&ClientError> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// With the code of a refusal, to look it up by; and the fence that stands
/// against a stale one, to judge how stale it is.
fn sentence(error: &Error) -> String {
    let refused = match client_error(error) {
        Some(ClientError::Refused(refused)) => refused,
        Some(ClientError::Unreachable { .. }) => {
            return format!("{error:#}; --servers or ROTA_SERVERS says where coordinators are");
        }
        _ => return format!("{error:#}"),
    };
    let fence = refused.details.get("fence").filter(|_| refused.code == Code::StaleFence);
    let fence = fence.map(|fence| format!(", the fence is {fence} now")).unwrap_or_default();
    format!("{error:#} ({}{fence})", refused.code)
}

/// What no server said is put in the words of one.
fn body(error: &Error) -> ErrorBody {
    let code = match client_error(error) {
        Some(ClientError::Refused(body)) => return body.clone(),
        Some(ClientError::Unreachable { .. }) => Code::Unreachable,
        Some(ClientError::OutcomeUnknown) => Code::OutcomeUnknown,
        Some(ClientError::SessionEnded) => Code::SessionExpired,
        Some(ClientError::BadAnswer(_) | ClientError::Store { .. }) => Code::Internal,
        Some(ClientError::BadAddress(_) | ClientError::BadRequest(_)) | None => Code::BadRequest,
    };
    ErrorBody::new(code, format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn refused(code: Code) -> Error {
        let body = ErrorBody::new(code, "no").with(serde_json::json!({"fence": 7, "given": 3}));
        Error::new(ClientError::Refused(body))
    }

    #[test]
    fn refusals_show_their_code_and_a_stale_fence_the_current_one() {
        assert_eq!(sentence(&refused(Code::NoPool)), "no (no_pool)");
        assert_eq!(sentence(&refused(Code::StaleFence)), "no (stale_fence, the fence is 7 now)");
    }

    #[test]
    fn programs_get_a_body_whoever_refused() {
        assert_eq!(body(&refused(Code::StaleFence)).details["fence"], 7);
        let unknown = Error::new(ClientError::OutcomeUnknown).context("sending");
        assert_eq!(body(&unknown).code, Code::OutcomeUnknown);
        let local = std::fs::read("/nonexistent").context("cannot read it").unwrap_err();
        let body = body(&local);
        assert!(body.code == Code::BadRequest && body.message.starts_with("cannot read it: "), "{body:?}");
    }
}
