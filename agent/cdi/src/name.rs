//! Names of devices: `VENDOR/CLASS=DEVICE`.

use std::fmt;
use std::str::FromStr;

/// A device's whole name, such as `vendor.com/gpu=0`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    /// `VENDOR/CLASS`
    pub kind: String,
    pub device: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, device) = text.split_once('=').ok_or_else(|| format!("{text:?} is no name VENDOR/CLASS=DEVICE"))?;
        check_kind(kind)?;
        check_device(device)?;
        Ok(Name { kind: kind.to_owned(), device: device.to_owned() })
    }
}

/// `VENDOR/CLASS`, as SPEC.md has it: letters, digits, `_`, `-` and, for vendors, `.` inside; a letter first; a letter or digit last.
pub fn check_kind(kind: &str) -> Result<(), String> {
    let (vendor, class) = kind.split_once('/').ok_or_else(|| format!("kind {kind:?} is no VENDOR/CLASS"))?;
    let good = |part: &str, more: &[u8]| {
        let bytes = part.as_bytes();
        part.len() <= 128
            && bytes.first().is_some_and(u8::is_ascii_alphabetic)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || more.contains(b))
    };
    if good(vendor, b"_-.") && good(class, b"_-") { Ok(()) } else { Err(format!("kind {kind:?} is no VENDOR/CLASS")) }
}

/// The part behind the `=`; a digit may be first since 0.5.
pub fn check_device(device: &str) -> Result<(), String> {
    let bytes = device.as_bytes();
    let good = device.len() <= 128
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(b));
    if good { Ok(()) } else { Err(format!("device {device:?}: letters, digits, and _ - . : between them")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["vendor.com/gpu=0", "a/b=c", "nvidia.com/gpu=MIG-1:0", "v-1.x_y/net-dev=all"] {
            assert_eq!(good.parse::<Name>().unwrap().to_string(), good);
        }
        for bad in [
            "", "=", "a/b", "a/b=", "/b=c", "a/=c", "1/b=c", "a/b.c=d", "a/b/c=d", "a./b=c", "a/b=-c", "a/b=c/d",
            "a/b=c=d",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
