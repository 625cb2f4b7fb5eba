//! `port-forward`: connections from here to ports inside a container.
//!
//! Each accepted connection is one stream of the connection to the agent (`berth::tunnel`). When the agent goes away, connections break and say
//! so; the listeners stay, and the next connection waits for the next agent.

use crate::complete;
use crate::connect::{Connection, Patience, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::print;
use berth::tunnel::{self, Broken, Frame, Until};
use berth::v1::{self, ContainerState, port_forward_request, port_forward_response};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

/// Connections at once: below the 256 calls that an agent takes on one connection. More wait in the kernel's queue.
const AT_ONCE: usize = 240;
/// Frames on their way to the agent.
const QUEUE: usize = 2;
/// A port that is free for both families is found within so many choices.
const CHOICES: usize = 16;

#[derive(Debug, Args)]
#[command(
    after_help = "It listens on 127.0.0.1 and ::1 of this machine, until it is interrupted. In the container it connects to 127.0.0.1, or to \
        ::1 where only that listens: the port need not be published, and the container needs no network.\n\
        \x20 80            port 80 here to port 80 of the container\n\
        \x20 8080:80       port 8080 here\n\
        \x20 :80           a free port here, which is printed\n\
        \x20 0.0.0.0:8080:80   on that address: everybody who reaches it can use it\n\
        Only TCP. While the agent is away connections break, and new ones wait for it (BERTH_RECONNECT).\n\n\
        Examples:\n  berthctl port-forward db 5432\n  berthctl -H web-1 port-forward web 8080:80 8443:443\n  \
        ssh -o ProxyCommand='berthctl port-forward --stdio box 22' root@box"
)]
pub struct PortForward {
    /// Carry one connection over standard input and output, and listen nowhere; ends when the container's side has ended
    #[arg(long)]
    stdio: bool,
    /// Container
    #[arg(add = ArgValueCompleter::new(complete::running))]
    container: String,
    /// Ports here and in the container
    #[arg(required = true, value_name = "[[ADDRESS:]LOCAL:]REMOTE[/tcp]", value_parser = parse)]
    ports: Vec<Forward>,
}

/// Where it listens, and where that leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Forward {
    /// None: the loopback of both families.
    address: Option<IpAddr>,
    /// 0: any that is free.
    local: u16,
    remote: u16,
}

fn parse(text: &str) -> Result<Forward, String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    match protocol.to_ascii_lowercase().as_str() {
        "tcp" => {}
        udp @ ("udp" | "sctp") => {
            return Err(format!("{udp} cannot be forwarded, only tcp; berthctl port add publishes such a port"));
        }
        _ => return Err("the protocol must be tcp".into()),
    }
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let (front, remote) = match rest.rsplit_once(':') {
        Some((front, remote)) => (Some(front), remote),
        None => (None, rest),
    };
    let remote = number(remote).filter(|port| *port > 0);
    let remote = remote.ok_or("the container's port must be 1 to 65535, such as 80 or 8080:80")?;
    let same = |port: u16| if port == 0 { remote } else { port };
    let Some(front) = front else { return Ok(Forward { address: None, local: remote, remote }) };
    if front.is_empty() {
        return Ok(Forward { address: None, local: 0, remote });
    }
    if let Some(local) = number(front) {
        return Ok(Forward { address: None, local: same(local), remote });
    }
    let wrong = || format!("{front:?} must be a port, an address, or both; an IPv6 address stands in brackets");
    let (address, local) = match front.strip_prefix('[') {
        Some(v6) => {
            let (address, behind) = v6.split_once(']').ok_or_else(wrong)?;
            (address, if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => front.split_once(':').map_or((front, None), |(address, local)| (address, Some(local))),
    };
    let address = match address {
        "localhost" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| wrong())?),
    };
    let local = match local {
        None => remote,
        Some("") => 0,
        Some(text) => same(number(text).ok_or_else(wrong)?),
    };
    Ok(Forward { address, local, remote })
}

pub async fn port_forward(fleet: &Fleet, args: PortForward) -> Result<u8> {
    if fleet.labelled {
        return Err(Error::usage("port-forward goes with one host only"));
    }
    if args.stdio && args.ports.len() != 1 {
        return Err(Error::usage("--stdio carries one connection: name one port"));
    }
    let args = Rc::new(args);
    let call = move |c: Connection| {
        let args = args.clone();
        async move {
            match args.ports.as_slice() {
                [only] if args.stdio => stdio(&c, &args.container, only.remote).await,
                all => listen(&c, &args.container, all).await,
            }
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Listens until it is interrupted.
async fn listen(c: &Connection, container: &str, forwards: &[Forward]) -> Result<()> {
    must_run(c, container).await?;
    let mut bound = Vec::new();
    for forward in forwards {
        for listener in bind(*forward).await? {
            bound.push((listener, forward.remote));
        }
    }
    for (listener, remote) in &bound {
        let at = listener.local_addr().map_err(|e| Error::io("listening", &e))?;
        print(format!("Forwarding from {at} -> {remote}\n"))?;
        if !at.ip().is_loopback() {
            anstream::eprintln!("warning: everybody who reaches {at} can use it, with your rights");
        }
    }
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut accepting = JoinSet::new();
    for (listener, remote) in bound {
        let target = Target { connection: c.clone(), container: container.into(), port: remote };
        accepting.spawn(accept(listener, target, room.clone()));
    }
    while accepting.join_next().await.is_some() {}
    Err(Error::new("nothing listens any more"))
}

/// What is wrong with the container is said before anybody connects.
async fn must_run(c: &Connection, container: &str) -> Result<()> {
    let request = v1::InspectContainerRequest { container: container.to_owned() };
    let found = c.retry(async || c.containers().inspect(c.request(request.clone(), Some(UNARY_TIMEOUT))).await).await?;
    match found.into_inner().summary.unwrap_or_default().state() {
        ContainerState::Running => Ok(()),
        ContainerState::Paused => {
            anstream::eprintln!("warning: {container} is paused, and answers when it goes on");
            Ok(())
        }
        _ => Err(Error::new(format!("container {container} is not running")).hint("berthctl start starts it")),
    }
}

async fn bind(forward: Forward) -> Result<Vec<TcpListener>> {
    let at = |ip: IpAddr, port| async move {
        let address = SocketAddr::new(ip, port);
        TcpListener::bind(address).await.map_err(|e| (address, e))
    };
    let remote = forward.remote;
    let failed = |(address, error): (SocketAddr, io::Error)| {
        let failed = Error::io(format!("listening on {address}"), &error);
        match error.kind() {
            ErrorKind::AddrInUse => {
                failed.hint(format!("choose another port here, as OTHER:{remote}, or :{remote} for a free one"))
            }
            _ => failed,
        }
    };
    if let Some(ip) = forward.address {
        return Ok(vec![at(ip, forward.local).await.map_err(failed)?]);
    }
    let mut choices = 0;
    loop {
        choices += 1;
        let first = at(Ipv4Addr::LOCALHOST.into(), forward.local).await.map_err(failed)?;
        let port = first.local_addr().map_err(|e| Error::io("listening", &e))?.port();
        match at(Ipv6Addr::LOCALHOST.into(), port).await {
            Ok(second) => return Ok(vec![first, second]),
            Err((_, e)) if e.kind() == ErrorKind::AddrInUse && forward.local == 0 && choices < CHOICES => {}
            Err((address, e)) if e.kind() == ErrorKind::AddrInUse => return Err(failed((address, e))),
            // A machine without IPv6.
            Err(_) => return Ok(vec![first]),
        }
    }
}

/// Where connections lead.
#[derive(Clone)]
struct Target {
    connection: Connection,
    container: Arc<str>,
    port: u16,
}

async fn accept(listener: TcpListener, target: Target, room: Arc<Semaphore>) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, from)) => {
                let target = target.clone();
                tokio::spawn(async move {
                    if let Err(e) = serve(&target, stream).await {
                        anstream::eprintln!("{from} -> {}: {}", target.port, e.one_line());
                    }
                    drop(permit);
                });
            }
            Err(e) => {
                anstream::eprintln!("accepting a connection: {}", crate::error::io_words(&e));
                // Out of files, mostly: it passes when connections end.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(target: &Target, mut stream: TcpStream) -> Result<()> {
    let carried = async {
        stream.set_nodelay(true).map_err(|e| Error::io("TCP_NODELAY", &e))?;
        let (sender, frames) = dial(target).await?;
        let (reader, writer) = stream.split();
        let carried = tunnel::carry(reader, writer, frames, &sender, request, Until::ThereCloses).await;
        over(target, carried)
    };
    let carried = carried.await;
    if carried.is_err() {
        // Whoever connected hears that this is no good end.
        let _ = stream.set_zero_linger();
    }
    // What ended because of its caller is no news.
    carried.or_else(|e| if e.quiet { Ok(()) } else { Err(e) })
}

async fn stdio(c: &Connection, container: &str, port: u16) -> Result<()> {
    let target = Target { connection: c.clone(), container: container.into(), port };
    let (sender, frames) = dial(&target).await?;
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map(|fd| tokio::fs::File::from_std(fd.into()));
    let failed = |e| Error::io("opening standard input and output", &e);
    let reader = own(io::stdin().as_fd()).map_err(failed)?;
    let writer = own(io::stdout().as_fd()).map_err(failed)?;
    let carried = tunnel::carry(reader, writer, frames, &sender, request, Until::ThereEnds).await;
    over(&target, carried)
}

fn over(target: &Target, carried: Result<tunnel::Carried, Broken>) -> Result<()> {
    match carried {
        Ok(_) => Ok(()),
        Err(Broken::Here(_)) => Err(Error::silent(1)),
        Err(Broken::There(Some(status))) => Err(target.connection.error(&status)),
        Err(Broken::There(None)) => Err(Error::new(format!("{} ended the stream", target.connection.label))),
        Err(Broken::Rules(why)) => Err(Error::new(format!("{} breaks the rules: {why}", target.connection.label))),
    }
}

type Dialed<F> = (mpsc::Sender<v1::PortForwardRequest>, F);

/// Connects inside the container; an agent that is away is waited for.
async fn dial(target: &Target) -> Result<Dialed<impl Stream<Item = Result<Frame, Status>> + Unpin + use<>>> {
    let mut patience = Patience::default();
    loop {
        match try_dial(target).await {
            Ok((sender, frames)) => return Ok((sender, frames.filter_map(|answer| answer.map(frame).transpose()))),
            Err(status) => patience.wait(&target.connection, &status).await?,
        }
    }
}

async fn try_dial(target: &Target) -> Result<Dialed<Streaming<v1::PortForwardResponse>>, Status> {
    let start = v1::PortForwardStart {
        container: target.container.to_string(),
        port: target.port.into(),
        protocol: v1::Protocol::Tcp.into(),
    };
    let start = v1::PortForwardRequest { kind: Some(port_forward_request::Kind::Start(start)) };
    let (sender, stream) = mpsc::channel(QUEUE);
    sender.try_send(start).map_err(|e| Status::internal(e.to_string()))?;
    let c = &target.connection;
    let mut frames = c.containers().port_forward(c.request(ReceiverStream::new(stream), None)).await?.into_inner();
    match frames.message().await?.and_then(|m| m.kind) {
        Some(port_forward_response::Kind::Connected(_)) => Ok((sender, frames)),
        _ => Err(Status::internal(format!("{} does not say what it connected to", c.label))),
    }
}

/// None: nothing that is known.
fn frame(answer: v1::PortForwardResponse) -> Option<Frame> {
    use port_forward_response::Kind;
    match answer.kind? {
        Kind::Connected(_) => None,
        Kind::Data(bytes) => Some(Frame::Data(bytes)),
        Kind::End(_) => Some(Frame::End),
        Kind::Taken(taken) => Some(Frame::Taken(taken)),
    }
}

fn request(frame: Frame) -> v1::PortForwardRequest {
    use port_forward_request::Kind;
    let kind = match frame {
        Frame::Data(bytes) => Kind::Data(bytes),
        Frame::End => Kind::End(v1::PortForwardEnd {}),
        Frame::Taken(taken) => Kind::Taken(taken),
    };
    v1::PortForwardRequest { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_they_are_written() {
        let of =
            |text: &str| parse(text).map(|f| (f.address.map(|a| a.to_string()).unwrap_or_default(), f.local, f.remote));
        for (text, address, local, remote) in [
            ("80", "", 80, 80),
            ("80/tcp", "", 80, 80),
            ("8080:80", "", 8080, 80),
            ("0:80", "", 80, 80),
            (":80", "", 0, 80),
            ("127.0.0.2:80", "127.0.0.2", 80, 80),
            ("127.0.0.2:8080:80/TCP", "127.0.0.2", 8080, 80),
            ("127.0.0.2::80", "127.0.0.2", 0, 80),
            ("[::1]:8080:80", "::1", 8080, 80),
            ("[::1]:80", "::1", 80, 80),
            ("[::1]::80", "::1", 0, 80),
            ("localhost:8080:80", "", 8080, 80),
        ] {
            assert_eq!(of(text), Ok((address.to_owned(), local, remote)), "{text}");
        }
        for bad in [
            "",
            "0",
            ":0",
            "x",
            "80:x",
            "65536",
            "-1",
            "+80",
            "::1:80",
            "[::1:80",
            "[::1]x:80",
            "host:1:2",
            "1.2.3.4:x:80",
            "80/dccp",
        ] {
            parse(bad).expect_err(bad);
        }
        for bad in ["53/udp", "5353:53/UDP", "9/sctp"] {
            let why = parse(bad).expect_err(bad);
            assert!(why.contains("only tcp") && why.contains("port add"), "{why}");
        }
    }
}
