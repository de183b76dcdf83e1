//! Rota's HTTP API, over connections that are kept.

use std::ops::Range;

use anyhow::{Context, ensure};
use bytes::{Buf, BytesMut};

use super::codec::{Answer, Ask, Codec, path};

/// Requests and answers in order.
#[derive(Debug, Default)]
pub struct Requests {
    asked: u64,
    answered: u64,
}

impl Codec for Requests {
    fn hello(&mut self, _to: &mut BytesMut) {}

    fn welcome(&mut self, _from: &mut BytesMut) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn ask(&mut self, ask: Ask<'_>, to: &mut BytesMut) -> u64 {
        self.asked += 1;
        match ask {
            Ask::Set { key, value } => put(to, "PUT", &path('k', key), &body(value)),
            Ask::Create { path, value } => put(to, "POST", path, &body(value)),
            Ask::Get { key } => put(to, "GET", &path('k', key), ""),
            Ask::Fill { key, count, value } => put_multi(to, "create", key..key + count, value),
            Ask::Multi { key, count, value } => put_multi(to, "set", key..key + count, value),
        }
        self.asked
    }

    fn answer(&mut self, from: &mut BytesMut, _to: &mut BytesMut) -> anyhow::Result<Option<Answer>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(from)? else { return Ok(None) };
        let code = response.code.context("no status")?;
        let length =
            response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length: usize = match length {
            Some(length) => std::str::from_utf8(length.value)?.parse()?,
            None => 0,
        };
        ensure!(code != 500, "the server is at fault");
        if from.len() < head + length {
            return Ok(None);
        }
        from.advance(head + length);
        self.answered += 1;
        let is_done = (200..300).contains(&code);
        Ok(Some(if is_done { Answer::Done(self.answered) } else { Answer::Refused(self.answered) }))
    }
}

fn body(value: &[u8]) -> String {
    format!(r#"{{"data":"{}"}}"#, String::from_utf8_lossy(value))
}

fn put_multi(to: &mut BytesMut, op: &str, keys: Range<u64>, value: &[u8]) {
    let value = String::from_utf8_lossy(value);
    let op = |key| {
        let path = path('k', key);
        let path = String::from_utf8_lossy(&path);
        format!(r#"{{"op":"{op}","path":"{path}","data":"{value}"}}"#)
    };
    let ops: Vec<String> = keys.map(op).collect();
    put_to(to, "POST", "/v1/multi", &format!(r#"{{"ops":[{}]}}"#, ops.join(",")));
}

fn put(to: &mut BytesMut, method: &str, path: &[u8], body: &str) {
    put_to(to, method, &format!("/v1/nodes{}", String::from_utf8_lossy(path)), body);
}

fn put_to(to: &mut BytesMut, method: &str, target: &str, body: &str) {
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    to.extend_from_slice(head.as_bytes());
    to.extend_from_slice(body.as_bytes());
}
