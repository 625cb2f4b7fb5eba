//! What registries and their token servers say in their answers.

use serde::Deserialize;
use std::time::Duration;

/// Of an error's text, for a person.
const MAX_ERROR_CHARS: usize = 300;

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

/// The token of a token server's answer (distribution, token authentication).
///
/// # Errors
/// Why there is none, without a word of the answer: it may be a secret.
pub(crate) fn token(body: &[u8]) -> Result<String, &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "its token server's answer is not understood")?;
    let given = [answer.token, answer.access_token].into_iter().flatten().find(|t| !t.is_empty());
    given.ok_or("its token server gave no token")
}

/// The first message of a registry's error (distribution-spec, error codes), short and printable; empty: there is none.
pub(crate) fn error(body: &[u8]) -> String {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &json["errors"][0];
    let parts: Vec<&str> = ["code", "message"].iter().filter_map(|k| first[k].as_str()).collect();
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    parts.join(": ").chars().map(printable).take(MAX_ERROR_CHARS).collect()
}

/// `Content-Range`: the first byte, and how many there are in all (RFC 9110 section 14.4).
pub(crate) fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

/// `Retry-After` in seconds or as a date (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(header: &str) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(7 * 24 * 3600)));
    }
    let at = jiff::fmt::rfc2822::parse(header.trim()).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(jiff::Timestamp::now())).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_two_names() {
        assert_eq!(token(br#"{"token":"a","access_token":"b","expires_in":60}"#).unwrap(), "a");
        assert_eq!(token(br#"{"token":"","access_token":"b"}"#).unwrap(), "b");
        assert_eq!(token(br#"{"expires_in":60}"#), Err("its token server gave no token"));
        assert_eq!(token(b"<html>s3cr3t"), Err("its token server's answer is not understood"));
    }

    #[test]
    fn errors_are_short_and_printable() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"},{"code":"OTHER"}]}"#;
        assert_eq!(error(body), "DENIED: no [31m way");
        assert_eq!(
            error(format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "é".repeat(999)).as_bytes()).chars().count(),
            300
        );
        for none in [&b"<html>"[..], b"", b"[]", b"{\"errors\":{}}"] {
            assert_eq!(error(none), "");
        }
    }

    #[test]
    fn reads_content_range() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("bytes */10"), None);
        assert_eq!(content_range("items 5-9/10"), None);
    }

    #[test]
    fn reads_retry_after() {
        assert_eq!(retry_after(" 7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
    }
}
