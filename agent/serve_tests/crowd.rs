//! More who knock than there is room for.

use super::*;

#[tokio::test]
async fn silent_clients_are_hung_up_on_and_do_not_keep_others_out() {
    let limits = Limits { handshakes: 8, handshake_seconds: 1, ..Limits::default() };
    let agent = Agent::start_with("slow", limits).await;
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(agent.address).await.unwrap());
    }
    // Two of the six hold this address' part of the handshakes; the rest were closed at once.
    let begun = std::time::Instant::now();
    for stream in &mut silent {
        let n = tokio::time::timeout(Duration::from_secs(3), stream.read(&mut [0; 1])).await.expect("hung up on");
        assert!(matches!(n, Ok(0) | Err(_)));
    }
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
    agent.client(&agent.ca.issue("a", CLIENT)).await.check(check()).await.unwrap();
}

#[tokio::test]
async fn silent_clients_of_many_addresses_give_way_to_a_new_one() {
    let agent = Agent::start_with("crowd", Limits { handshakes: 8, ..Limits::default() }).await;
    let mut silent = Vec::new();
    for n in 0..24 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("127.0.0.{}:0", 2 + n / 2).parse().unwrap()).unwrap();
        silent.push(socket.connect(agent.address).await.unwrap());
    }
    let begun = std::time::Instant::now();
    agent.client(&agent.ca.issue("a", CLIENT)).await.check(check()).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // Long before the ten seconds of a handshake.
    for stream in &mut silent {
        let n = tokio::time::timeout(Duration::from_secs(4), stream.read(&mut [0; 1])).await.expect("hung up on");
        assert!(matches!(n, Ok(0) | Err(_)));
    }
}

/// A way to the agent on which the first byte of a handshake comes long before the rest.
async fn slow_way(agent: SocketAddr, begun: Arc<Notify>, rest: Arc<Notify>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut onward = TcpStream::connect(agent).await.unwrap();
        onward.write_u8(client.read_u8().await.unwrap()).await.unwrap();
        begun.notify_one();
        rest.notified().await;
        let _ = tokio::io::copy_bidirectional(&mut client, &mut onward).await;
    });
    address
}

#[tokio::test]
async fn a_handshake_in_its_middle_comes_to_its_end_however_many_come_behind_it() {
    // Two of an address.
    let agent = Agent::start_with("middle", Limits { handshakes: 8, ..Limits::default() }).await;
    let (begun, rest) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let way = slow_way(agent.address, begun.clone(), rest.clone()).await;
    let pair = agent.ca.issue("a", CLIENT);
    let crowd = async {
        begun.notified().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut held = Vec::new();
        for n in 0..20 {
            let mut stream = TcpStream::connect(agent.address).await.unwrap();
            if n % 2 == 0 {
                // It may have been hung up on.
                let _ = stream.write_all(&[0x16]).await;
            }
            held.push(stream);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rest.notify_one();
        held
    };
    let late = async {
        let mut client = agent.client_by(way, &pair).await;
        client.check(check()).await
    };
    let (answer, held) = tokio::join!(late, crowd);
    answer.expect("its handshake was begun");
    drop(held);
    agent.client(&pair).await.check(check()).await.unwrap();
}
