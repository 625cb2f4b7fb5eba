//! Published ports of containers.

use crate::Node;
use berth_model::publish::PublishPolicy;

impl Node {
    /// Where ports may be published.
    pub fn publish_policy(&self) -> &PublishPolicy {
        self.inner().networks.publish_policy()
    }
}
