//! `rota node multi`: several operations, all or none of which take effect.

use anyhow::Context;
use http::Method;
use rota_client::Idempotency;
use rota_protocol::http::{MultiOp, MultiReply, MultiRequest, NodeBody};

use crate::input;
use crate::operator::Operator;
use crate::output::Table;

pub(super) async fn run(operator: &Operator, file: &str) -> anyhow::Result<()> {
    let text = input::read(file)?;
    let multi: MultiRequest = serde_json::from_slice(&text)
        .with_context(|| format!("{file} is not a multi: {{\"ops\":[…]}} is expected"))?;
    let body = operator.ask(Method::POST, "/v1/multi", Some(&multi), Idempotency::Unsafe).await?;
    operator.output.body(&body, |reply: &MultiReply| results(&multi, reply))
}

fn results(multi: &MultiRequest, reply: &MultiReply) -> String {
    let row = |(op, node): (&MultiOp, &Option<NodeBody>)| {
        let (kind, path) = match op {
            MultiOp::Create { path, .. } => ("create", path),
            MultiOp::Delete { path, .. } => ("delete", path),
            MultiOp::Set { path, .. } => ("set", path),
            MultiOp::Check { path, .. } => ("check", path),
            MultiOp::CheckFence { path, .. } => ("check_fence", path),
        };
        // A sequential node has got its name only now.
        let path = node.as_ref().map_or(path, |node| &node.path).clone();
        let stat = node.as_ref().map(|node| node.stat);
        let version = stat.map(|stat| stat.version.to_string()).unwrap_or_default();
        let zxid = stat.map(|stat| stat.mzxid.to_string()).unwrap_or_default();
        [kind.to_owned(), path, version, zxid]
    };
    let rows = multi.ops.iter().zip(&reply.results).map(row);
    Table::new(["DONE", "PATH", "VERSION", "ZXID"], rows).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_shown_in_order() {
        let ops = r#"{"ops":[{"op":"check","path":"/a"},{"op":"delete","path":"/b"}]}"#;
        let multi: MultiRequest = serde_json::from_str(ops).unwrap();
        let text = results(&multi, &MultiReply { results: vec![None, None] });
        assert_eq!(text, "DONE    PATH  VERSION  ZXID\ncheck   /a    -        -\ndelete  /b    -        -\n");
    }
}
