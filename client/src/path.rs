//! Addresses of servers and paths of endpoints, from names that callers give: what means something
//! in a URL is encoded, and what cannot be sent is refused before it is.

use http::uri::{Authority, PathAndQuery};

use crate::client::Client;
use crate::error::ClientError;

/// Makes sure that a text is the address of a server, `HOST:PORT`.
///
/// # Errors
/// When it is not.
pub(crate) fn check_address(address: &str) -> Result<(), ClientError> {
    let is_sound = address.parse::<Authority>().is_ok_and(|authority| {
        let has_port = authority.port_u16().is_some_and(|port| port > 0);
        has_port && !authority.host().is_empty() && !address.contains('@')
    });
    if is_sound { Ok(()) } else { Err(ClientError::BadAddress(address.to_owned())) }
}

/// Makes sure that a path can be asked for.
///
/// # Errors
/// When it cannot.
pub(crate) fn check_path(path: &str) -> Result<(), ClientError> {
    let is_sound = path.starts_with('/') && path.parse::<PathAndQuery>().is_ok_and(|parsed| parsed == *path);
    if is_sound { Ok(()) } else { Err(ClientError::BadRequest(format!("{path:?} is no path of a URL"))) }
}

/// One name in a path, with every byte that means something there encoded.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Client {
    /// The path of an endpoint, its names encoded: `Client::path(["v1", "pools",
    /// name])`.
    #[must_use]
    pub fn path<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
        names.into_iter().map(|name| format!("/{}", segment(name))).collect()
    }

    /// The same with parameters, their values encoded. Those without a value are
    /// left out.
    #[must_use]
    pub fn query<'a>(path: &str, params: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
        let given = params.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", segment(&value))).collect();
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["localhost:7710", "10.0.0.1:1", "[::1]:7710"] {
            assert!(check_address(good).is_ok(), "{good}");
        }
        // Some of these would be other hosts, or other ports, in a URL.
        for bad in [
            "localhost",
            ":1",
            "a:0",
            "a:65536",
            "a b:1",
            "http://a:1/",
            "a?b:1",
            "a#b:1",
            "a@b:1",
            "",
            "a:1\n",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths() {
        assert!(check_path("/v1/x?a=%20b&c").is_ok());
        for bad in ["", "v1", "/a b", "/a\r\nx: y", "/a#b", "http://a/b"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_in_paths_are_encoded() {
        assert_eq!(Client::path(["v1", "a/b", "é?"]), "/v1/a%2Fb/%C3%A9%3F");
        let params = [("key", Some("a&b+ c".to_owned())), ("since", None), ("wait_ms", Some("5".to_owned()))];
        assert_eq!(Client::query("/v1/x", params), "/v1/x?key=a%26b%2B%20c&wait_ms=5");
        assert_eq!(Client::query("/v1/x", [("since", None)]), "/v1/x");
    }
}
