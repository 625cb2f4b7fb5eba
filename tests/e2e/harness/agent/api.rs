//! The API without the ctl.

use super::*;
use berth::v1::containers_client::ContainersClient;
use berth::v1::files_client::FilesClient;
use berth::v1::images_client::ImagesClient;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

impl Node {
    pub async fn channel(&self) -> Channel {
        self.channel_as(&self.pki.identity("admin")).await.expect("connect")
    }

    pub async fn channel_as(&self, identity: &Identity) -> Result<Channel, tonic::transport::Error> {
        let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.pki.ca())))
            .identity(tonic::transport::Identity::from_pem(read(&identity.cert), read(&identity.key)))
            .domain_name("localhost");
        Endpoint::from_shared(self.endpoint()).expect("endpoint").tls_config(tls)?.connect().await
    }

    pub async fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel().await)
    }

    pub async fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel().await)
    }

    /// A pull with credentials of its own; the ctl takes them from nowhere.
    pub fn pull_with_password(&self, reference: &str, password: &str) -> Result<(), tonic::Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let auth =
                berth::v1::RegistryAuth { username: "someone".into(), password: password.into(), ..Default::default() };
            let request =
                berth::v1::PullRequest { reference: reference.into(), auth: Some(auth), ..Default::default() };
            let mut stream = self.images().await.pull(request).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok(())
        })
    }

    pub async fn images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel().await)
    }
}
