//! Decoders of this crate for the fuzz targets in `fuzz/`, which build with `--cfg fuzzing`.

use std::fs;
use std::path::PathBuf;

use bytes::BytesMut;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use rota_protocol::peer::DiskId;
use tokio_util::codec::Decoder;

use crate::peers::FrameCodec;
use crate::store::{Identity, LogPosition, LogStore, NewDisk};

/// Largest frame that is tried.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Cuts bytes from another server into frames, as they may arrive.
pub fn decode_frames(bytes: &[u8]) {
    let mut codec = FrameCodec::new(FRAME_BYTES_MAX);
    let mut buffer = BytesMut::new();
    for part in bytes.chunks(7) {
        buffer.extend_from_slice(part);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Decodes an HTTP request body, whose kind is the first byte, and applies what its handler proposes.
pub fn apply_http_body(bytes: &[u8]) {
    crate::http::fuzzing::apply_body(bytes);
}

/// Opens a log whose only file has these bytes, and reads what is in it.
pub fn open_log(bytes: &[u8]) {
    let data = scratch("log");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    runtime.block_on(async {
        LogPosition::create(&data).expect("there is room");
        let open = async || {
            let positions = LogPosition::open(&data).expect("it was just made");
            LogStore::open(&data.join("log"), positions, std::sync::Arc::default()).await
        };
        drop(open().await.expect("an empty log opens"));
        let mut files = fs::read_dir(data.join("log")).expect("it is there");
        let file = files.find_map(|file| file.ok().filter(|file| file.path().extension().is_some()));
        fs::write(file.expect("a log has a file").path(), bytes).expect("there is room");
        let Ok(mut log) = open().await else { return };
        let state = log.get_log_state().await.expect("it is in memory");
        let end = state.last_log_id.map_or(0, |last| last.index + 1);
        let begin = state.last_purged_log_id.map_or(0, |purged| purged.index + 1);
        if begin < end {
            let _ = log.try_get_log_entries(begin..end).await;
        }
        let _ = log.read_vote().await;
    });
}

/// Opens a data directory whose identity, and then one whose log position, has these bytes.
pub fn open_data_directory(bytes: &[u8]) {
    for name in ["identity.json", LogPosition::FILE] {
        let data = scratch("data");
        drop(
            Identity::claim(&data, "rota", 1, NewDisk { id: DiskId(7), now_ms: 0 })
                .expect("an empty directory is taken"),
        );
        fs::write(data.join(name), bytes).expect("there is room");
        let _ = Identity::claim(&data, "rota", 1, NewDisk { id: DiskId(7), now_ms: 0 });
        let _ = LogPosition::open(&data);
    }
}

/// An empty directory of this process.
fn scratch(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("rota-fuzz-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("there is room for temporary files");
    directory
}
