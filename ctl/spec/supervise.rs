//! What keeps a container going: `--restart`.

use crate::error::{Error, Result};
use berth::v1::{self, restart_policy::Mode};

/// `no`, `always`, `on-failure[:MAX]`, `unless-stopped`.
pub fn restart(text: &str) -> Result<v1::RestartPolicy> {
    let bad = || {
        Error::usage(format!("--restart {text:?}: must be no, always, on-failure, on-failure:MAX or unless-stopped"))
    };
    let (word, max) = text.split_once(':').map_or((text, None), |(word, max)| (word, Some(max)));
    let mode = match (word, max) {
        ("no", None) => Mode::No,
        ("always", None) => Mode::Always,
        ("unless-stopped", None) => Mode::UnlessStopped,
        ("on-failure", _) => Mode::OnFailure,
        _ => return Err(bad()),
    };
    let max_retries = max.map_or(Ok(0), str::parse).map_err(|_| bad())?;
    Ok(v1::RestartPolicy { mode: mode.into(), max_retries })
}

/// The same as text, for inspect.
pub fn restart_words(policy: Option<&v1::RestartPolicy>) -> (&'static str, u32) {
    let Some(policy) = policy else { return ("no", 0) };
    let word = match policy.mode() {
        Mode::Unspecified | Mode::No => "no",
        Mode::Always => "always",
        Mode::OnFailure => "on-failure",
        Mode::UnlessStopped => "unless-stopped",
    };
    (word, policy.max_retries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        for (text, word, max) in [
            ("no", "no", 0),
            ("always", "always", 0),
            ("unless-stopped", "unless-stopped", 0),
            ("on-failure", "on-failure", 0),
            ("on-failure:3", "on-failure", 3),
        ] {
            assert_eq!(restart_words(Some(&restart(text).expect(text))), (word, max));
        }
        for bad in ["", "yes", "always:3", "on-failure:", "on-failure:-1", "on-failure:x"] {
            restart(bad).expect_err(bad);
        }
    }
}
