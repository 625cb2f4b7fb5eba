//! Where a call belongs in a trace: the header `traceparent` (W3C Trace Context, level 1).

use crate::hex;
use std::fmt;
use std::str::FromStr;

/// Name of the metadata, and in capitals of the environment variable that callers hand it to a command with.
pub const TRACEPARENT: &str = "traceparent";

/// A trace, and the span in it that makes the call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceParent {
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// Somebody keeps what belongs to this trace.
    pub sampled: bool,
}

/// It is none, and is to be ignored (section 4.3 of the recommendation).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadTraceParent;

impl TraceParent {
    /// The trace's id in lower-case hexadecimal, 32 digits.
    pub fn trace_id(&self) -> String {
        hex::encode(&self.trace)
    }
}

/// Lower-case digits alone, as many as fill `N` bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let good = text.len() == 2 * N && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let mut out = [0; N];
    for (n, byte) in out.iter_mut().enumerate().filter(|_| good) {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    good.then_some(out)
}

impl FromStr for TraceParent {
    type Err = BadTraceParent;
    fn from_str(text: &str) -> Result<Self, BadTraceParent> {
        let parse = || {
            let mut parts = text.splitn(5, '-');
            let [version] = bytes::<1>(parts.next()?)?;
            let trace = bytes::<16>(parts.next()?)?;
            let span = bytes::<8>(parts.next()?)?;
            let [flags] = bytes::<1>(parts.next()?)?;
            // Later versions may have more behind it; 255 is none.
            let good = version != 0xff && (version > 0 || parts.next().is_none()) && trace != [0; 16] && span != [0; 8];
            good.then_some(TraceParent { trace, span, sampled: flags & 1 == 1 })
        };
        parse().ok_or(BadTraceParent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex::encode(&self.trace), hex::encode(&self.span), u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_the_recommendation_has_them() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed: TraceParent = good.parse().unwrap();
        assert_eq!((parsed.trace_id().as_str(), parsed.sampled), ("4bf92f3577b34da6a3ce929d0e0e4736", true));
        assert_eq!(parsed.to_string(), good);
        let later: TraceParent = good.replacen("00", "01", 1).replace("b7-01", "b7-00-more-of-it").parse().unwrap();
        assert!(!later.sampled);
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &format!("{good}-more"),
            &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &good.replace("-01", "-1"),
            &good.replace("4bf9", "4bé"),
            &good.replace("4bf9", "+bf9"),
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(BadTraceParent), "{bad}");
        }
    }
}
