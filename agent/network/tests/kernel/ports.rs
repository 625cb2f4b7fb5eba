//! Published ports, and what becomes of them when others change the host's rules.

use super::*;

#[test]
fn the_hosts_loopback_is_closed_to_containers() {
    on_a_host(|| {
        let networks = Networks::open(config(24)).unwrap();
        let a = networks.attach(&id(), &[]).unwrap();
        let host = net::current_network().unwrap();
        serve(host.as_fd(), 9000);
        let attempt = || {
            within(a.netns.as_fd(), || {
                // What a privileged container could set up: 127.0.0.1 by way of the bridge.
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
                run("ip address flush dev lo");
                run("ip route replace 127.0.0.0/8 via 10.99.0.1 src 10.99.0.2");
                ask(Ipv4Addr::LOCALHOST, 9000)
            })
        };
        assert!(attempt().is_err());
        // The same attempt succeeds without the guard: the test would see a hole.
        run("nft insert rule ip berth-test-bnt0 guard accept");
        attempt().unwrap();
    });
}

#[test]
fn ports_of_one_address() {
    on_a_host(|| {
        let world = outside();
        let networks = Networks::open(config(24)).unwrap();
        let on = |ip: Ipv4Addr, host_port| PortMapping {
            host_ip: Some(IpAddr::V4(ip)),
            host_port,
            container_port: 80,
            protocol: Protocol::Tcp,
            ..PortMapping::default()
        };
        let a = networks.attach(&id(), &[on(Ipv4Addr::LOCALHOST, 8081)]).unwrap();
        let b_id = id();
        let b = networks.attach(&b_id, &[on(UPLINK, 8081), port(0, 80, Protocol::Tcp)]).unwrap();
        serve(a.netns.as_fd(), 80);
        serve(b.netns.as_fd(), 80);
        let chosen = b.main().ports[1].host_port;
        assert!((1024..=65535).contains(&chosen));
        ask(Ipv4Addr::LOCALHOST, 8081).unwrap();
        ask(Ipv4Addr::LOCALHOST, chosen).unwrap();
        within(world.as_fd(), || ask(UPLINK, 8081)).unwrap();
        assert!(ask(GATEWAY, 8081).is_err());

        // Taken by a container, taken by a process; the refused attach leaves nothing.
        let refused = |mapping| networks.attach(&id(), &[port(0, 1, Protocol::Tcp), mapping]).unwrap_err();
        let before = (run("nft list table ip berth-test-bnt0"), container_links());
        assert!(
            matches!(refused(on(UPLINK, 8081)), NetworkError::PortInUse { holder: PortHolder::Container(c), .. } if c == b_id)
        );
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let busy = listener.local_addr().unwrap().port();
        let error = refused(port(busy, 1, Protocol::Tcp));
        assert!(matches!(error, NetworkError::PortInUse { holder: PortHolder::Process { .. }, .. }), "{error}");
        assert_eq!(before, (run("nft list table ip berth-test-bnt0"), container_links()));
    });
}

#[test]
fn what_others_took_away_comes_back() {
    on_a_host(|| {
        let networks = Networks::open(config(24)).unwrap();
        let a_id = id();
        let a = networks.attach(&a_id, &[port(8080, 80, Protocol::Tcp)]).unwrap();
        serve(a.netns.as_fd(), 80);
        ask(Ipv4Addr::LOCALHOST, 8080).unwrap();

        // It comes back by itself.
        run("nft flush ruleset");
        until("the rules come back", || ask(Ipv4Addr::LOCALHOST, 8080).is_ok());
        run("nft flush chain ip berth-test-bnt0 output");
        until("the rules come back", || ask(Ipv4Addr::LOCALHOST, 8080).is_ok());
        // The next attach sees a flushed ruleset and puts all of it back.
        run("nft flush ruleset");
        let b = networks.attach(&id(), &[]).unwrap();
        ask(Ipv4Addr::LOCALHOST, 8080).unwrap();

        // A new agent that knows of `a` only: `b` is sent away, although its namespace lives; stale rules go, missing ones come.
        run("nft flush ruleset");
        drop(networks);
        let networks = Networks::open(config(24)).unwrap();
        networks.recover(&[(a_id.clone(), a.attachments.clone())]).unwrap();
        ask(Ipv4Addr::LOCALHOST, 8080).unwrap();
        until("the link without an owner goes", || container_links() == 1);
        assert!(within(b.netns.as_fd(), || !run("ip -o link").contains("eth0")));
        let error = networks.attach(&id(), &[port(8080, 80, Protocol::Tcp)]).unwrap_err();
        assert!(matches!(error, NetworkError::PortInUse { holder: PortHolder::Container(c), .. } if c == a_id));
        let c = networks.attach(&id(), &[]).unwrap();
        assert_ne!(c.main().address, a.main().address);

        // The bridge deleted: recover makes it again and takes the links back in; so does an attach, which takes in its own.
        run("ip link del bnt0");
        networks.recover(&[(a_id, a.attachments.clone())]).unwrap();
        ask(Ipv4Addr::LOCALHOST, 8080).unwrap();
        run("ip link del bnt0");
        let d = networks.attach(&id(), &[]).unwrap();
        serve(d.netns.as_fd(), 80);
        ask(d.main().address, 80).unwrap();

        // Nobody lives: everything of the containers' goes.
        networks.recover(&[]).unwrap();
        until("all links go", || container_links() == 0);
        assert!(!run("nft list tables").contains("berth-test"));
    });
}

/// An agent that dies between making the way back in and its program leaves an interface without one.
#[test]
fn the_way_back_in_gets_its_program_again() {
    on_a_host(|| {
        let world = outside();
        let networks = Networks::open(config(24)).unwrap();
        let this = id();
        let first = networks.attach(&this, &[port(8081, 80, Protocol::Tcp)]).unwrap();
        serve(first.netns.as_fd(), 80);
        let asks = |to: u16| within(world.as_fd(), || ask(UPLINK, to)).is_ok();
        assert!(asks(8081));
        let links = run("ip -br link");
        let device = links.split(['@', ' ', '\n']).find(|word| word.starts_with("bti")).unwrap().to_owned();
        run(&format!("tc qdisc del dev {device} clsact"));
        assert!(!asks(8081));
        networks.detach(&this, &first.attachments).unwrap();
        drop(networks);
        let networks = Networks::open(config(24)).unwrap();
        let second = networks.attach(&id(), &[port(8082, 80, Protocol::Tcp)]).unwrap();
        serve(second.netns.as_fd(), 80);
        assert!(asks(8082));
    });
}

#[test]
fn udp_clients_find_the_next_container() {
    on_a_host(|| {
        let world = outside();
        let networks = Networks::open(config(24)).unwrap();
        let client = within(world.as_fd(), udp);
        // In the middle of a range.
        let to = (UPLINK, 5301);
        let range = PortMapping { count: 3, ..port(5300, 52, Protocol::Udp) };
        // Before anything is published, then with one container, then with the next: always the same client and port.
        let warm = networks.attach(&id(), &[]).unwrap();
        assert_eq!(ask_udp(&client, to), None);
        for answer in ["first", "second"] {
            let this = id();
            let attached = networks.attach(&this, std::slice::from_ref(&range)).unwrap();
            serve_udp(attached.netns.as_fd(), 53, answer);
            until("the client reaches this container", || ask_udp(&client, to).as_deref() == Some(answer));
            networks.detach(&this, &attached.attachments).unwrap();
        }
        drop(warm);
    });
}

/// A range is divided in one step: what stays is reached all the while, and the maps have what is left and nothing else.
#[test]
fn ranges_are_divided() {
    on_a_host(|| {
        let networks = Networks::open(config(24)).unwrap();
        let this = id();
        let local = |host_port, container_port, count| PortMapping {
            host_ip: Some(Ipv4Addr::LOCALHOST.into()),
            count,
            ..port(host_port, container_port, Protocol::Tcp)
        };
        // One element, and one for each port.
        let whole = [local(20000, 20000, 300), local(9000, 1, 201)];
        let attached = networks.attach(&this, &whole).unwrap();
        for number in [20000, 20150, 20299, 1, 100, 201] {
            serve(attached.netns.as_fd(), number);
        }
        let open = |list: &[u16]| list.iter().map(|p| ask(Ipv4Addr::LOCALHOST, *p).is_ok()).collect::<Vec<_>>();
        let all = [20000, 20150, 20299, 9000, 9099, 9200];
        assert_eq!(open(&all), [true; 6]);
        let before = attached.main().clone();
        let cut = |ports: &[PortMapping], closed: &[PortMapping]| NetworkAttachment {
            ports: ports.iter().flat_map(|p| p.without(closed).left).collect(),
            ..before.clone()
        };
        let now = cut(&whole, &[port(0, 20150, Protocol::Tcp), port(0, 100, Protocol::Tcp)]);
        networks.publish(&this, &before, &now).unwrap();
        assert_eq!(open(&all), [true, false, true, true, false, true]);
        let rules = run("nft list table ip berth-test-bnt0");
        assert!(rules.contains("tcp . 20000-20149 ") && rules.contains("tcp . 20151-20299 "), "{rules}");
        assert!(!rules.contains("20000-20299") && !rules.contains(". 9099 :"), "{rules}");
        // Somebody else has taken elements away meanwhile: what is wanted comes true all the same.
        run("nft flush map ip berth-test-bnt0 address_ranges");
        let last = cut(&now.ports, &[port(0, 20299, Protocol::Tcp), port(0, 201, Protocol::Tcp)]);
        networks.publish(&this, &now, &last).unwrap();
        until("only what is left answers", || open(&all) == [true, false, false, true, false, false]);
        let none = NetworkAttachment { ports: Vec::new(), ..before.clone() };
        networks.publish(&this, &last, &none).unwrap();
        assert_eq!(open(&all), [false; 6]);
        let rules = run("nft list table ip berth-test-bnt0");
        assert!(!rules.contains("tcp . "), "{rules}");
    });
}
