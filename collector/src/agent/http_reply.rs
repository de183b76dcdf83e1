//! HTTP requests and answers of the agent as values: headers in, headers out.

use axum::Json;
use axum::http::header::{CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, RANGE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use rota_protocol::http::{Code, ErrorBody};

use super::source::Reader;
use crate::wire::{
    Gap, HEADER_COLLECTED, HEADER_GAP, HEADER_GAP_REASON, HEADER_GAPS, HEADER_NEXT, HEADER_OLDEST,
    HEADER_RESUME,
};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Which incarnation; `None`: the oldest.
    pub incarnation: Option<u64>,
    /// From where on.
    pub offset: u64,
    /// Where the checkpoint is said to be: a hint, nothing more.
    pub claimed: Option<Reader>,
}

impl Asked {
    /// Reads `If-Match`, `Range` and [`HEADER_COLLECTED`].
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(headers: &HeaderMap) -> Result<Self, &'static str> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let incarnation = match text(IF_MATCH) {
            None => None,
            Some(tag) => {
                let number = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
                let number = number.and_then(|number| number.parse().ok());
                Some(number.ok_or("if-match must be one incarnation's number in quotes")?)
            }
        };
        let offset = match text(RANGE) {
            None => 0,
            Some(range) => {
                let from = range.trim().strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                from.and_then(|from| from.parse().ok()).ok_or("range must have the form bytes=<offset>-")?
            }
        };
        if incarnation.is_none() && offset > 0 {
            return Err("an offset means nothing without if-match");
        }
        let claimed = match text(HeaderName::from_static(HEADER_COLLECTED)) {
            None => None,
            Some(position) => {
                let numbers: Option<Vec<u64>> =
                    position.trim().split(':').map(|number| number.parse().ok()).collect();
                let Some(&[incarnation, offset, gaps]) = numbers.as_deref() else {
                    return Err("rota-collected must have the form <incarnation>:<offset>:<gaps>");
                };
                Some(Reader { incarnation, offset, gaps })
            }
        };
        Ok(Self { incarnation, offset, claimed })
    }
}

/// 206: bytes from `offset` on, of `size` that there are now.
pub fn chunk(incarnation: u64, offset: u64, size: u64, bytes: Bytes) -> Response {
    let last = offset + bytes.len() as u64 - 1;
    let headers = [
        (ETAG, tag(incarnation)),
        (CONTENT_RANGE, format!("bytes {offset}-{last}/{}", size.max(last + 1))),
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, bytes).into_response()
}

/// 204: nothing yet.
pub fn nothing(incarnation: u64) -> Response {
    (StatusCode::NO_CONTENT, [(ETAG, tag(incarnation))]).into_response()
}

/// 416: the incarnation is over.
pub fn ended(incarnation: u64, next: u64, gap: Option<Gap>) -> Response {
    let body =
        Json(ErrorBody::new(Code::BadRequest, format!("the incarnation is over: go on with {next} from 0")));
    let headers = [(ETAG, tag(incarnation)), (HeaderName::from_static(HEADER_NEXT), next.to_string())];
    with_gap((StatusCode::RANGE_NOT_SATISFIABLE, headers, body).into_response(), gap)
}

/// 416: the rest of the incarnation is lost, and there is no next one yet.
pub fn skipped(resume: u64, gap: Gap) -> Response {
    let message = format!("the rest of the incarnation is lost: go on from {resume}");
    let body = Json(ErrorBody::new(Code::BadRequest, message));
    let headers =
        [(ETAG, tag(gap.incarnation)), (HeaderName::from_static(HEADER_RESUME), resume.to_string())];
    with_gap((StatusCode::RANGE_NOT_SATISFIABLE, headers, body).into_response(), Some(gap))
}

/// 416: nobody has ever seen so many bytes of the incarnation.
pub fn beyond_end(incarnation: u64, size: u64) -> Response {
    let message = format!("the incarnation has {size} bytes: start again from the checkpoint");
    let body = Json(ErrorBody::new(Code::BadRequest, message));
    let headers = [(ETAG, tag(incarnation)), (CONTENT_RANGE, format!("bytes */{size}"))];
    (StatusCode::RANGE_NOT_SATISFIABLE, headers, body).into_response()
}

fn with_gap(mut response: Response, gap: Option<Gap>) -> Response {
    if let Some(Gap { from, to, reason, .. }) = gap {
        let to = to.map(|to| to.to_string()).unwrap_or_default();
        insert(&mut response, HEADER_GAP, &format!("{from}-{to}"));
        insert(&mut response, HEADER_GAP_REASON, reason.as_str());
    }
    response
}

/// The same answer, with the number of the source's last gap, if there is any.
pub fn with_last_gap(mut response: Response, number: u64) -> Response {
    if number > 0 {
        insert(&mut response, HEADER_GAPS, &number.to_string());
    }
    response
}

fn insert(response: &mut Response, name: &'static str, value: &str) {
    let value = value.parse().expect("digits and letters are a header's value");
    response.headers_mut().insert(name, value);
}

/// 412: that incarnation is not known.
pub fn unknown(oldest: u64) -> Response {
    let body =
        Json(ErrorBody::new(Code::BadRequest, format!("no such incarnation: go on with {oldest} from 0")));
    let headers = [(HeaderName::from_static(HEADER_OLDEST), oldest.to_string())];
    (StatusCode::PRECONDITION_FAILED, headers, body).into_response()
}

/// An error.
pub fn error(code: Code, message: impl Into<String>) -> Response {
    body(ErrorBody::new(code, message))
}

/// An error, as a body says it.
pub fn body(body: ErrorBody) -> Response {
    let status = StatusCode::from_u16(body.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}

fn tag(incarnation: u64) -> String {
    format!("\"{incarnation}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked() {
        let cases = [
            (None, None, Ok((None, 0))),
            (Some("\"7\""), None, Ok((Some(7), 0))),
            (Some("\"7\""), Some("bytes=12-"), Ok((Some(7), 12))),
            (None, Some("bytes=0-"), Ok((None, 0))),
            (None, Some("bytes=12-"), Err(())),
            (Some("7"), None, Err(())),
            (Some("*"), None, Err(())),
            (Some("\"7\""), Some("bytes=1-2"), Err(())),
            (Some("\"7\""), Some("bytes=-2"), Err(())),
        ];
        for (tag, range, asked) in cases {
            let mut headers = HeaderMap::new();
            tag.and_then(|tag| headers.insert(IF_MATCH, tag.parse().unwrap()));
            range.and_then(|range| headers.insert(RANGE, range.parse().unwrap()));
            let parsed = Asked::parse(&headers).map(|asked| (asked.incarnation, asked.offset)).map_err(drop);
            assert_eq!(parsed, asked, "{tag:?} {range:?}");
        }
    }
}
