//! What CNI plugins say of an attachment.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What the plugins of a network have answered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CniAttachment {
    /// The last plugin's result: JSON in the shape of its version.
    pub result: String,
    #[serde(default)]
    pub dns: CniDns,
}

/// What of a result goes into resolv.conf(5). Words without blanks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CniDns {
    pub nameservers: Vec<IpAddr>,
    /// Searched when there is no `search`; empty: none.
    pub domain: String,
    pub search: Vec<String>,
    pub options: Vec<String>,
}
