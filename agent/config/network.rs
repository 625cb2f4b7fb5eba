//! `[network]`: the default bridge, where ports may be published, and where networks come from.

use super::Check;
use berth_model::publish::PublishPolicy;
use berth_node::{AddressPool, CniSettings};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The default bridge.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// At most 15 characters.
    pub bridge: String,
    /// Addresses of containers; the first one is the host's, unless another one is written: 10.9.0.254/24.
    pub subnet: String,
    /// Where ports go that are published without an address; 0.0.0.0: to every address of both families; 127.0.0.1: to ::1, too.
    pub publish_address: String,
    /// Where else ports may be published: any, addresses, subnets.
    pub publish_allow: Vec<String>,
    /// The host's own input rules decide about what comes from outside to a published port.
    pub input_rules: bool,
    /// Where subnets of networks come from that say none.
    pub pools: Vec<Pool>,
    /// Every CNI configuration list there is a network. Unset: none is read.
    pub cni_conf_dir: Option<PathBuf>,
    /// Where CNI plugins are, searched in this order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Seconds that a CNI plugin may take.
    pub cni_plugin_seconds: u64,
}

/// As Docker's default-address-pools.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// 10.224.0.0/12
    pub base: String,
    /// Prefix length of each subnet.
    pub size: u8,
}

impl Pool {
    pub(super) fn parse(&self) -> Result<AddressPool, String> {
        let wrong = || format!("{:?} must be an IPv4 network, such as 10.224.0.0/12", self.base);
        let (address, prefix) = self.base.split_once('/').ok_or_else(wrong)?;
        let base: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix_len: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=29).contains(&prefix_len) || u32::from(base) & (u32::MAX >> prefix_len) != 0 {
            return Err(wrong());
        }
        if !(prefix_len..=29).contains(&self.size) {
            return Err(format!("{:?}: size must be from {prefix_len} to 29", self.base));
        }
        Ok(AddressPool { base, prefix_len, size: self.size })
    }
}

impl Default for Network {
    fn default() -> Self {
        let pool = Pool { base: "10.224.0.0/12".into(), size: 24 };
        Network {
            bridge: "berth0".into(),
            subnet: "172.31.240.1/20".into(),
            publish_address: "127.0.0.1".into(),
            publish_allow: Vec::new(),
            input_rules: true,
            pools: vec![pool],
            cni_conf_dir: None,
            cni_bin_dirs: CniSettings::default().bin_dirs,
            cni_plugin_seconds: CniSettings::default().timeout.as_secs(),
        }
    }
}

impl Network {
    pub(super) fn check(&self, check: Check<'_>) {
        let bridge = &self.bridge;
        let good = (1..=15).contains(&bridge.len())
            && bridge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !matches!(bridge.as_str(), "." | "..");
        check(good, "network.bridge", "must be 1 to 15 letters, digits, '-', '_' and '.'");
        for (key, why) in self.publish().1.into_iter().chain(self.wrong_cni()) {
            check(false, key, &why);
        }
        if let Err(why) = self.gateway() {
            check(false, "network.subnet", &why);
        }
        for why in self.pools.iter().filter_map(|pool| pool.parse().err()) {
            check(false, "network.pools", &why);
        }
    }

    /// The host's address on the bridge, and the prefix length of its subnet.
    pub(super) fn gateway(&self) -> Result<(Ipv4Addr, u8), String> {
        parse_subnet(&self.subnet)
    }

    /// Checked by [`Network::check`].
    pub(super) fn cni(&self) -> CniSettings {
        CniSettings {
            conf_dir: self.cni_conf_dir.clone(),
            bin_dirs: self.cni_bin_dirs.clone(),
            timeout: Duration::from_secs(self.cni_plugin_seconds),
        }
    }

    fn wrong_cni(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let absolute = "must be an absolute path".to_owned();
        if self.cni_conf_dir.as_ref().is_some_and(|d| !d.is_absolute()) {
            wrong.push(("network.cni_conf_dir", absolute.clone()));
        }
        // CNI_PATH is a list with colons between.
        let good = |d: &PathBuf| d.is_absolute() && !d.as_os_str().as_encoded_bytes().contains(&b':');
        if self.cni_bin_dirs.is_empty() || !self.cni_bin_dirs.iter().all(good) {
            wrong.push(("network.cni_bin_dirs", "must be absolute paths without ':', at least one".to_owned()));
        }
        if !(1..=600).contains(&self.cni_plugin_seconds) {
            wrong.push(("network.cni_plugin_seconds", "must be 1 to 600".to_owned()));
        }
        wrong
    }

    /// The policy, and what is wrong with its keys.
    pub(super) fn publish(&self) -> (PublishPolicy, Vec<(&'static str, String)>) {
        let mut policy = PublishPolicy { input_rules: self.input_rules, ..PublishPolicy::default() };
        let mut wrong = Vec::new();
        match self.publish_address.parse::<IpAddr>() {
            Ok(address) => policy.default = Some(address).filter(|a| !a.is_unspecified()),
            Err(_) => {
                wrong.push(("network.publish_address", "must be an address of the host, or 0.0.0.0 for all".into()))
            }
        }
        for entry in &self.publish_allow {
            match entry.parse() {
                Ok(allowed) => policy.allow.push(allowed),
                Err(error) => wrong.push(("network.publish_allow", format!("{error}"))),
            }
        }
        (policy, wrong)
    }
}

/// `address/prefix`: the host's address in it and the prefix length. The network's own address means its first host.
pub(super) fn parse_subnet(text: &str) -> Result<(Ipv4Addr, u8), String> {
    let wrong = || format!("{text:?} must be an IPv4 address with a prefix length, such as 172.31.240.1/20");
    let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    if !(8..=29).contains(&prefix) {
        return Err(format!("{text:?} must have a prefix length of 8 to 29"));
    }
    let bits = u32::from(address);
    let host_mask = u32::MAX >> prefix;
    let gateway = match bits & host_mask {
        0 => bits + 1,
        host if host == host_mask => return Err(format!("{text:?} is the network's broadcast address")),
        _ => bits,
    };
    let gateway = Ipv4Addr::from(gateway);
    if gateway.is_loopback() || gateway.is_multicast() || gateway.is_unspecified() {
        return Err(format!("{text:?} is no address for hosts"));
    }
    Ok((gateway, prefix))
}
