//! On which addresses of the host ports may be published.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The host's policy. What is published on a loopback address is always allowed: it leaves the host nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishPolicy {
    /// Where a port goes that names no address; `None`: to every address.
    pub default: Option<IpAddr>,
    /// Where else ports may go when they say so.
    pub allow: Vec<Allowed>,
    /// What comes from outside has to pass the host's own input rules first.
    pub input_rules: bool,
}

impl Default for PublishPolicy {
    fn default() -> Self {
        PublishPolicy { default: Some(IpAddr::from([127, 0, 0, 1])), allow: Vec::new(), input_rules: true }
    }
}

impl PublishPolicy {
    /// A mapping's `host_ip` and `localhost` when nobody names an address.
    pub fn unnamed(&self) -> (Option<IpAddr>, bool) {
        (self.default, self.default == Some(IpAddr::from([127, 0, 0, 1])))
    }

    /// `None`: every address; an unspecified one: every address of its family.
    pub fn allows(&self, address: Option<IpAddr>) -> bool {
        address == self.default
            || address.is_some_and(|a| a.is_loopback())
            || self.default.is_none()
            || self.allow.iter().any(|allowed| allowed.includes(address))
    }
}

/// An entry of the policy's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowed {
    Any,
    /// Addresses with these first bits.
    Net(IpAddr, u8),
}

impl Allowed {
    fn includes(self, address: Option<IpAddr>) -> bool {
        match (self, address) {
            (Allowed::Any, _) => true,
            // It stands for all: no smaller subnet has it.
            (Allowed::Net(net, len), Some(all)) if all.is_unspecified() => len == 0 && net.is_ipv4() == all.is_ipv4(),
            (Allowed::Net(IpAddr::V4(net), len), Some(IpAddr::V4(a))) => {
                (net.to_bits() ^ a.to_bits()).checked_shr(32 - u32::from(len)).unwrap_or(0) == 0
            }
            (Allowed::Net(IpAddr::V6(net), len), Some(IpAddr::V6(a))) => {
                (net.to_bits() ^ a.to_bits()).checked_shr(128 - u32::from(len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Why a text is no entry of the list.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} must be \"any\", an address of the host, or a subnet such as 10.0.0.0/8")]
pub struct AllowedError(String);

impl FromStr for Allowed {
    type Err = AllowedError;

    fn from_str(text: &str) -> Result<Self, AllowedError> {
        let wrong = || AllowedError(text.to_owned());
        if text == "any" {
            return Ok(Allowed::Any);
        }
        let (address, len) = text.split_once('/').map_or((text, None), |(a, len)| (a, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if len > most || (address.is_unspecified() && len == most) {
            return Err(wrong());
        }
        Ok(Allowed::Net(address, len))
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Any => f.write_str("any"),
            Allowed::Net(address, len) => write!(f, "{address}/{len}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        let strict = PublishPolicy::default();
        let policy = |allow: &[&str]| PublishPolicy {
            allow: allow.iter().map(|a| a.parse().unwrap()).collect(),
            ..PublishPolicy::default()
        };
        let at = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (policy, address, allowed) in [
            (&strict, at("127.0.0.1"), true),
            (&strict, at("127.7.0.1"), true),
            (&strict, at("::1"), true),
            (&strict, at("192.0.2.1"), false),
            (&strict, None, false),
            (&policy(&["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"]), at("192.0.2.1"), true),
            (&policy(&["192.0.2.1", "10.0.0.0/8"]), at("192.0.2.2"), false),
            (&policy(&["192.0.2.1", "10.0.0.0/8"]), at("10.9.8.7"), true),
            (&policy(&["10.0.0.0/8", "0.0.0.0/0"]), None, false),
            (&policy(&["0.0.0.0/0"]), at("192.0.2.1"), true),
            (&policy(&["0.0.0.0/0"]), at("2001:db8::1"), false),
            (&policy(&["2001:db8::/32"]), at("2001:db8::1"), true),
            (&policy(&["0.0.0.0/0"]), at("0.0.0.0"), true),
            (&policy(&["0.0.0.0/0"]), at("::"), false),
            (&policy(&["0.0.0.0/8", "::/16"]), at("0.0.0.0"), false),
            (&policy(&["0.0.0.0/8", "::/16"]), at("::"), false),
            (&strict, at("0.0.0.0"), false),
            (&strict, at("::"), false),
            (&policy(&["any"]), at("::"), true),
            (&policy(&["any"]), None, true),
            (&PublishPolicy { default: None, ..strict.clone() }, at("192.0.2.1"), true),
            (&PublishPolicy { default: at("192.0.2.1"), ..strict.clone() }, at("192.0.2.1"), true),
            (&PublishPolicy { default: at("192.0.2.1"), ..strict.clone() }, None, false),
        ] {
            assert_eq!(policy.allows(address), allowed, "{policy:?} {address:?}");
        }
        for bad in ["", "all", "0.0.0.0", "::", "10.0.0.0/33", "10.0.0.0/x", "eth0"] {
            bad.parse::<Allowed>().unwrap_err();
        }
    }
}
