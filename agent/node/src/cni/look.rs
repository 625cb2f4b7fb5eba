//! What the doctor finds of networks that plugins make: CHECK of every attachment, and STATUS of every network.

use crate::doctor::{Finding, Verdict};
use crate::node::Inner;
use berth_model::Phase;
use berth_model::network::NetworkDriver;

/// Attachments that are checked at one look: each takes its plugins some hundredths of a second.
const AT_MOST: usize = 200;

pub(crate) fn findings(inner: &Inner) -> Vec<Finding> {
    let networks: Vec<_> =
        inner.nets.all().into_iter().filter(|n| n.driver == NetworkDriver::Cni && !n.removing).collect();
    if networks.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for network in &networks {
        if let Some(conflist) = &network.conflist
            && let Err(error) = inner.cni.status(conflist, &network.name)
        {
            let found = format!("no container can join network {}: {error}", network.name);
            findings.push(Finding::new("cni", Verdict::Bad, found, "look at what the plugin says"));
        }
    }
    let mut checked = 0;
    let mut more = false;
    for container in inner.containers.all() {
        let record = container.record();
        for attachment in record.networks.iter().filter(|a| a.is_cni() && record.phase == Phase::Running) {
            if checked == AT_MOST {
                more = true;
                continue;
            }
            match inner.cni.check(&record.id, &attachment.interface) {
                // It may have ended, or left, meanwhile.
                Err(_) if container.record().networks.on(&attachment.network) != Some(attachment) => {}
                Err(error) => {
                    let found = format!(
                        "{} is not on network {} as it was put there: {error}",
                        record.name, attachment.network
                    );
                    // A warning: some plugins are known to refuse what they have made themselves (portmap 1.1.1 without IPv6).
                    let advice = "restart it, or, where the plugin is wrong, have the list say \"disableCheck\": true";
                    findings.push(Finding::new("cni", Verdict::Warning, found, advice));
                }
                Ok(Some(())) => checked += 1,
                Ok(None) => {}
            }
        }
    }
    if findings.is_empty() {
        let found = format!(
            "{} networks of plugins, {checked}{} of their attachments were checked",
            networks.len(),
            if more { " (the first)" } else { "" }
        );
        findings.push(Finding::new("cni", Verdict::Good, found, ""));
    }
    findings
}
