//! Holds what is sent to what `errors.proto` says of it, in builds for tests: a caller may act by the code of a reason and by its metadata.

use super::DOMAIN;
use std::collections::HashMap;
use std::sync::LazyLock;
use tonic::Code;
use tonic_types::ErrorDetails;

const PROTO: &str = include_str!("../../proto/berth/v1/errors.proto");

/// What the comment over each reason says.
static REASONS: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
    let (mut reasons, mut comment) = (HashMap::new(), String::new());
    let (_, inside) = PROTO.split_once("enum ErrorReason {").unwrap_or_default();
    for line in inside.lines().map(str::trim) {
        match (line.strip_prefix("//"), line.split_once(" = ")) {
            (Some(text), _) => comment.push_str(text),
            (None, Some((name, _))) => drop(reasons.insert(name, std::mem::take(&mut comment))),
            (None, None) => comment.clear(),
        }
    }
    reasons
});

/// Why a status is not as documented.
pub fn wrong(code: Code, details: &ErrorDetails) -> Option<String> {
    let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
        return Some("it has no reason".to_owned());
    };
    let Some(comment) = REASONS.get(info.reason.as_str()) else {
        return Some(format!("{} is not in errors.proto", info.reason));
    };
    let codes = comment.split(". ").next().unwrap_or("").trim_end_matches('.');
    if !codes.split([' ', ',']).any(|word| word == name(code)) {
        return Some(format!("{} comes with {}, not with {codes}", info.reason, name(code)));
    }
    let unknown = info.metadata.keys().find(|key| !comment.contains(&format!("`{key}`")))?;
    Some(format!("{} has metadata {unknown:?}, which errors.proto does not have", info.reason))
}

/// As google.rpc.Code has it.
fn name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: Code, reason: &str, keys: &[&str]) -> Option<String> {
        let metadata: HashMap<String, String> = keys.iter().map(|key| ((*key).to_owned(), String::new())).collect();
        wrong(code, &ErrorDetails::with_error_info(reason, DOMAIN, metadata))
    }

    #[test]
    fn a_status_is_held_to_what_is_documented() {
        assert_eq!(said(Code::PermissionDenied, "ROLE_DENIED", &["role"]), None);
        assert_eq!(said(Code::NotFound, "CONTAINER_NOT_FOUND", &[]), None);
        assert_eq!(said(Code::FailedPrecondition, "CNI_FAILED", &["plugin", "verb", "code"]), None);
        assert_eq!(said(Code::Unavailable, "CNI_FAILED", &["plugin", "verb"]), None);
        for (code, reason, keys) in [
            (Code::NotFound, "ROLE_DENIED", &["role"][..]),
            (Code::PermissionDenied, "ROLE_DENIED", &["roles"]),
            (Code::NotFound, "CONTAINER_LOST", &[]),
            (Code::Ok, "ERROR_REASON_UNSPECIFIED", &[]),
        ] {
            assert!(said(code, reason, keys).is_some(), "{reason}");
        }
        assert!(wrong(Code::NotFound, &ErrorDetails::new()).is_some());
    }

    #[test]
    fn every_reason_has_its_code() {
        assert!(REASONS.len() > 120, "{}", REASONS.len());
        for (reason, comment) in REASONS.iter().filter(|(reason, _)| **reason != "ERROR_REASON_UNSPECIFIED") {
            let word = comment.split([' ', '.', ',']).find(|word| !word.is_empty()).unwrap_or("");
            let is_code = (0..17).any(|n| name(Code::from(n)) == word);
            assert!(is_code, "{reason}: {comment:?} does not begin with a code of gRPC");
        }
    }
}
