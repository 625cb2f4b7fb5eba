//! `[network]`: the default bridge, where ports may be published, and where networks come from.

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
    /// Where ports go that are published without an address; 0.0.0.0: to every address.
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
    /// Checked by [`Network::wrong_cni`].
    pub(super) fn cni(&self) -> CniSettings {
        CniSettings {
            conf_dir: self.cni_conf_dir.clone(),
            bin_dirs: self.cni_bin_dirs.clone(),
            timeout: Duration::from_secs(self.cni_plugin_seconds),
        }
    }

    pub(super) fn wrong_cni(&self) -> Vec<(&'static str, String)> {
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
