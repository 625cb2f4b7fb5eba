//! Credentials: where they go, and where never.

use crate::fake::{Fake, Node, Reply, layer, limits, sha256};
use berth_image::{Auth, ImageError, RegistryConfig};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_in_mid_pull_are_renewed() {
    let images = [layer(600_000, 1), layer(600_000, 2), layer(600_000, 3)];
    // Each token is good for two requests.
    let (issued, used) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let port = Arc::new(AtomicUsize::new(0));
    let own = port.clone();
    let fake = Fake::start(move |request, reply| {
        if request.path.starts_with("/token") {
            used.store(0, Ordering::SeqCst);
            let n = issued.fetch_add(1, Ordering::SeqCst) + 1;
            return Reply { body: format!(r#"{{"token":"t{n}"}}"#).into_bytes(), ..Reply::status(200) };
        }
        let good = format!("Bearer t{}", issued.load(Ordering::SeqCst));
        if request.header("authorization") == Some(&good) && used.fetch_add(1, Ordering::SeqCst) < 2 {
            return reply;
        }
        let realm = format!("http://127.0.0.1:{}/token", own.load(Ordering::SeqCst));
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:auth:pull\"");
        Reply::status(401).with("WWW-Authenticate", challenge)
    })
    .await;
    port.store(fake.address.port().into(), Ordering::SeqCst);
    fake.put_image("auth", &images);
    let node = Node::with(|c| c.parallel_layers = 1, limits());
    let auth = Auth { username: "me".to_owned(), password: "s3cret".to_owned(), ..Auth::default() };
    node.pull_as(&fake.reference("auth"), Some(auth)).await.unwrap();
    let tokens = fake.requests(|r| r.path.starts_with("/token"));
    assert!(tokens.len() >= 3, "{}", tokens.len());
    for request in tokens {
        assert_eq!(request.path, "/token?service=s&scope=repository%3Aauth%3Apull&account=me");
        assert_eq!(request.header("authorization"), Some("Basic bWU6czNjcmV0"));
    }
    // An identity token goes to the token server as OAuth2 has it.
    let node = Node::new();
    let auth = Auth { identity_token: "refresh+me".to_owned(), ..Auth::default() };
    node.pull_as(&fake.reference("auth"), Some(auth)).await.unwrap();
    let post = fake.requests(|r| r.method == "POST");
    assert!(post[0].body.contains("grant_type=refresh_token"), "{}", post[0].body);
    assert!(post[0].body.contains("refresh_token=refresh%2Bme"), "{}", post[0].body);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_sent_when_asked_for_and_refused_in_words() {
    let image = layer(100_000, 1);
    let fake = Fake::start(|request, reply| match request.header("authorization") {
        Some("Basic bWU6czNjcmV0") => reply,
        _ => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    fake.put_image("basic", &[image]);
    let auth = |password: &str| Auth { username: "me".to_owned(), password: password.to_owned(), ..Auth::default() };
    let node = Node::new();
    node.pull_as(&fake.reference("basic"), Some(auth("s3cret"))).await.unwrap();
    let e = Node::new().pull_as(&fake.reference("basic"), Some(auth("wr0ng"))).await.unwrap_err();
    assert!(matches!(e, ImageError::Denied { .. }), "{e}");
    assert!(!format!("{e} {e:?}").contains("wr0ng"));
    let e = Node::new().pull(&fake.reference("basic")).await.unwrap_err();
    assert!(e.to_string().contains("no credentials"), "{e}");
    // config.json serves those who send nothing.
    let path = std::env::temp_dir().join(format!("berth-image-test-config-{}.json", std::process::id()));
    let json = json!({"auths": {fake.address.to_string(): {"auth": "bWU6czNjcmV0"}}});
    std::fs::write(&path, json.to_string()).unwrap();
    let node = Node::with(|c| c.docker_config = Some(path.clone()), limits());
    let pulled = node.pull(&fake.reference("basic")).await;
    std::fs::remove_file(path).unwrap();
    pulled.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_host_carries_no_credentials() {
    let image = layer(300_000, 1);
    let store = Fake::honest().await;
    store.put_image("r", std::slice::from_ref(&image));
    let there = store.address;
    let fake = Fake::start(move |request, reply| {
        if request.header("authorization").is_none() {
            return Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match request.is_blob() {
            true => Reply::status(307).with("Location", format!("http://{there}{}?signature=x", request.path)),
            false => reply,
        }
    })
    .await;
    let store_path = store.content.lock().unwrap().clone();
    for (path, (kind, bytes)) in store_path {
        store.put(&format!("{path}?signature=x"), &kind, &bytes);
        fake.put(&path, &kind, &bytes);
    }
    let auth = || Auth { username: "me".to_owned(), password: "s3cret".to_owned(), ..Auth::default() };
    // The store is another place, without TLS: only the configuration can say that the agent may be sent there.
    let e = Node::new().pull_as(&fake.reference("r"), Some(auth())).await.unwrap_err();
    let wanted = format!("add [registries.\"{there}\"] with plain_http = true");
    assert!(matches!(e, ImageError::Unavailable { .. }) && e.to_string().contains(&wanted), "{e}");
    assert_eq!(store.log.lock().unwrap().len(), 0);
    let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
    let node = Node::with(|c| c.registries = BTreeMap::from([(there.to_string(), plain)]), limits());
    node.pull_as(&fake.reference("r"), Some(auth())).await.unwrap();
    let log = store.log.lock().unwrap();
    assert_eq!(log.len(), 2, "the configuration and the layer");
    assert!(log.iter().all(|r| r.header("authorization").is_none()));
}

/// A registry, which may be a container's, names a service of the host's own loopback as its token server.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_is_no_service_of_the_hosts() {
    let inside = Fake::start(|_, _| Reply { body: br#"{"token":"of the host"}"#.to_vec(), ..Reply::status(200) }).await;
    let there = inside.address;
    for realm in [format!("http://{there}/internal/token?x=1"), format!("https://{there}/internal/token")] {
        let named = realm.clone();
        let fake = Fake::start(move |request, reply| match request.header("authorization") {
            Some("Bearer of the host") => reply,
            _ => Reply::status(401).with("WWW-Authenticate", format!("Bearer realm=\"{named}\"")),
        })
        .await;
        fake.put_image("r", &[layer(100_000, 1)]);
        let e = Node::new().pull(&fake.reference("r")).await.unwrap_err();
        let wanted = format!("add [registries.\"{there}\"]");
        assert!(matches!(e, ImageError::Denied { .. }) && e.to_string().contains(&wanted), "{realm}: {e}");
        assert_eq!(inside.log.lock().unwrap().len(), 0, "{realm}");
        assert!(fake.requests(|r| r.header("authorization").is_some()).is_empty(), "{realm}");
        if realm.starts_with("http:") {
            let plain = RegistryConfig { plain_http: true, ..RegistryConfig::default() };
            let node = Node::with(|c| c.registries = BTreeMap::from([(there.to_string(), plain)]), limits());
            node.pull(&fake.reference("r")).await.unwrap();
            inside.log.lock().unwrap().clear();
        }
    }
}

/// CVE-2020-15157: a manifest names another server for a layer, which asks for a password.
#[tokio::test(flavor = "multi_thread")]
async fn a_layer_comes_from_its_registry_and_from_nowhere_else() {
    let image = layer(300_000, 3);
    let thief = Fake::start(|_, _| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"registry\"")).await;
    let there = thief.address;
    let fake = Fake::start(move |request, reply| match request.header("authorization") {
        None => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"registry\""),
        Some(_) => reply,
    })
    .await;
    fake.put_image("r", std::slice::from_ref(&image));
    let (_, manifest) = fake.content.lock().unwrap()["/v2/r/manifests/latest"].clone();
    let mut manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    manifest["layers"][0]["urls"] = serde_json::json!([format!("http://{there}/v2/r/blobs/{digest}")]);
    fake.put_manifest("r", "latest", &manifest);
    let auth = || Auth { username: "me".to_owned(), password: "s3cret".to_owned(), ..Auth::default() };
    Node::new().pull_as(&fake.reference("r"), Some(auth())).await.unwrap();
    // Where the registry has no such layer, it is nowhere.
    fake.content.lock().unwrap().remove(&format!("/v2/r/blobs/{digest}"));
    Node::new().pull_as(&fake.reference("r"), Some(auth())).await.unwrap_err();
    assert_eq!(thief.log.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_the_registry_helps_out() {
    let images = [layer(300_000, 1), layer(300_000, 2)];
    let registry = Fake::start(|request, reply| match request.header("authorization") {
        Some(_) => reply,
        None => Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    })
    .await;
    registry.put_image("m", &images);
    let bad = Fake::start(|_, _| Reply::status(500)).await;
    let half = Fake::honest().await;
    let missing = sha256(&images[1].1).to_string();
    for (path, (kind, bytes)) in registry.content.lock().unwrap().clone() {
        if !path.ends_with(&missing) {
            half.put(&format!("/cache{path}"), &kind, &bytes);
        }
    }
    let mirrors = vec![format!("http://{}", bad.address), format!("http://{}/cache/", half.address)];
    let config = RegistryConfig { mirrors, plain_http: true, ..RegistryConfig::default() };
    let node = Node::with(|c| c.registries = BTreeMap::from([(registry.address.to_string(), config)]), limits());
    let auth = Auth { username: "me".to_owned(), password: "s3cret".to_owned(), ..Auth::default() };
    node.pull_as(&registry.reference("m"), Some(auth)).await.unwrap();
    assert_eq!(bad.log.lock().unwrap().len(), 2, "given up after its second failure");
    let asked = registry.requests(|r| r.header("authorization").is_some());
    assert_eq!(asked.len(), 1, "only what the mirror has not");
    assert!(asked[0].path.ends_with(&missing));
    for mirror in [&bad, &half] {
        assert!(mirror.log.lock().unwrap().iter().all(|r| r.header("authorization").is_none()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_callers_bad_credentials_are_not_mine() {
    let image = layer(1_000_000, 1);
    let fake = Fake::start(|request, reply| match request.header("authorization") {
        Some("Bearer good") => reply,
        // The other one gets as far as the layer.
        Some(_) if !request.is_blob() || reply.body.len() < 100_000 => reply,
        _ => Reply::status(403),
    })
    .await;
    fake.put_image("p", std::slice::from_ref(&image));
    let node = Node::new();
    let reference = fake.reference("p");
    let token = |t: &str| Some(Auth { registry_token: t.to_owned(), ..Auth::default() });
    let (bad, good) = tokio::join!(node.pull_as(&reference, token("bad")), node.pull_as(&reference, token("good")));
    assert!(matches!(bad, Ok(_) | Err(ImageError::Denied { .. })), "{bad:?}");
    good.unwrap();
}
