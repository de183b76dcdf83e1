//! What commands read besides their arguments: files and standard input.

use std::io::Read;

use anyhow::Context;
use rota_protocol::http::Data;

/// Stands for standard input.
const STDIN: &str = "-";

/// The data that an argument stands for: itself, or all of standard input.
pub(crate) fn data(given: &str) -> anyhow::Result<Data> {
    let bytes = if given == STDIN { read(given)? } else { given.as_bytes().to_vec() };
    Ok(Data::from(bytes.as_slice()))
}

/// A whole file, or all of standard input.
pub(crate) fn read(file: &str) -> anyhow::Result<Vec<u8>> {
    if file != STDIN {
        return std::fs::read(file).with_context(|| format!("cannot read {file}"));
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_the_argument_itself_and_a_file_its_content() {
        assert_eq!(data("x").unwrap().into_bytes().unwrap(), b"x");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"y").unwrap();
        assert_eq!(read(file.path().to_str().unwrap()).unwrap(), b"y");
        assert!(read("/nonexistent").unwrap_err().to_string().contains("/nonexistent"));
    }
}
