//! Decoders of this crate for the fuzz targets in `fuzz/`, which build with `--cfg fuzzing`.

use rota_protocol::http::TableBody;

use crate::store::{Fault, HEAD, decode};
use crate::table::Table;

/// Decodes the table cache's records, the first line being the head and the others rows, and then
/// applies each line as a table response.
pub fn decode_table(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let head = lines.next().unwrap_or_default();
    let records = std::iter::once((HEAD, head)).chain(lines.map(|row| (&b"0"[..], row)));
    let cached = decode(records.map(Ok::<_, Fault>)).ok().flatten();
    let mut table = cached.map_or_else(Table::default, |(table, _)| table);
    look_up(&table);
    for body in bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        let body: TableBody = body;
        let (version, whole) = (body.version, body.whole.then_some(body.rows.len()));
        let is_newer = version >= table.version;
        table.take(body);
        if is_newer {
            assert_eq!(table.version, version);
            assert!(whole.is_none_or(|rows| table.rows.len() <= rows), "a whole table has no other rows");
        }
        look_up(&table);
    }
}

fn look_up(table: &Table) {
    let _ = table.owner_of_key(b"alice@example.org");
    for bucket in table.rows.keys() {
        let _ = table.owner_of(bucket);
    }
}
