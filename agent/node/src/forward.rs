//! Connections into containers: to what listens on their own loopback, published or not.

use crate::container::{Container, Life};
use crate::node::Inner;
use crate::{Node, NodeError, nets};
use berth_network::{Streams, listeners_of, streams_in};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// Over the loopback only a full queue of the listener takes time.
const CONNECT: Duration = Duration::from_secs(10);
/// What listens elsewhere is named, up to so many.
const LISTENERS: usize = 8;

/// A TCP connection to a port of a container.
pub struct Dialed {
    pub stream: TcpStream,
    /// What was connected to, in the container.
    pub address: SocketAddr,
    pub container: String,
    pub run: Run,
}

/// The run of a container.
#[derive(Clone)]
pub struct Run(watch::Receiver<Life>);

impl Run {
    /// Waits for its end.
    pub async fn over(&mut self) {
        // Err: the container is gone altogether.
        let _ = self.0.wait_for(|life| *life != Life::Open).await;
    }
}

impl Node {
    /// Connects to 127.0.0.1, or where nobody listens there to [::1], in the network namespace of a running container.
    ///
    /// # Errors
    /// `NotRunning`; `PortRefused`: nobody listens; `PortFailed`: the kernel's word, or no answer within 10 seconds.
    pub async fn dial(&self, container: &str, port: u16) -> Result<Dialed, NodeError> {
        let container = self.find(container)?;
        let run = Run(container.life());
        let pid = container.running_shim()?.pid().0;
        let streams = sockets(self.inner(), &container).await?;
        let name = container.record().name.clone();
        let failed = |source| NodeError::PortFailed { container: name.clone(), port, source };
        let addresses = [(Ipv4Addr::LOCALHOST.into(), Some(streams.v4)), (Ipv6Addr::LOCALHOST.into(), streams.v6)];
        for (ip, socket) in addresses {
            let Some(socket) = socket else { continue };
            let address = SocketAddr::new(ip, port);
            let socket = TcpSocket::from_std_stream(socket.into());
            match tokio::time::timeout(CONNECT, socket.connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    return Ok(Dialed { stream, address, container: name, run });
                }
                // Nobody listens there, or there is no such address in this namespace.
                Ok(Err(e)) if is_nobody(&e) => {}
                Ok(Err(e)) => return Err(failed(e)),
                Err(_) => return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 seconds"))),
            }
        }
        let listens = self.inner().blocking(move || Ok(shown(&listeners_of(pid)))).await?;
        Err(NodeError::PortRefused { container: name, port, listens })
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable)
}

async fn sockets(inner: &Arc<Inner>, container: &Container) -> Result<Streams, NodeError> {
    let (inner_, id) = (inner.clone(), container.id.clone());
    let visit = move || {
        let namespace = nets::namespace_of(&inner_, id.as_str())?;
        Ok(streams_in(namespace.as_fd())?)
    };
    inner.blocking(visit).await
}

/// Ports of the loopback by number, others with their address: those cannot be reached by it.
fn shown(listeners: &[SocketAddr]) -> Vec<String> {
    let here = |at: &SocketAddr| at.ip().is_loopback() || at.ip().is_unspecified();
    let mut all: Vec<String> =
        listeners.iter().map(|at| if here(at) { at.port().to_string() } else { at.to_string() }).collect();
    all.dedup();
    if all.len() > LISTENERS {
        let more = all.len() - LISTENERS;
        all.truncate(LISTENERS);
        all.push(format!("{more} more"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_shown_by_what_reaches_them() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(shown(&[]), Vec::<String>::new());
        let found = shown(&[at("0.0.0.0:80"), at("[::]:80"), at("10.0.0.2:81"), at("127.0.0.1:82")]);
        assert_eq!(found, ["80", "10.0.0.2:81", "82"]);
        let many: Vec<SocketAddr> = (1..20).map(|n| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), n)).collect();
        assert_eq!(shown(&many).last().unwrap(), "11 more");
    }
}
