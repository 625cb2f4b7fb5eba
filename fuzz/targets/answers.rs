//! What berthctl makes of an agent's answers: an agent that means ill neither steers the terminal nor ends the program.
#![no_main]
#![allow(dead_code, reason = "what only the program uses")]

#[path = "../../ctl/fuzz.rs"]
mod ctl;

use berth::v1;
// Under the names that they have in the program.
use ctl::*;
use jiff::Timestamp;
use prost::Message;
use serde_json::Value;
use template::Template;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let now = Timestamp::UNIX_EPOCH;
    match which % 11 {
        0 => with(bytes, |c: v1::ContainerSummary| {
            show(&view::container(&c, now, true));
            show(&view::container(&c, now, false));
        }),
        1 => with(bytes, |i: v1::ImageSummary| view::images(&i, now, true).iter().for_each(show)),
        2 => with(bytes, |r: v1::InspectContainerResponse| {
            let ours = view::inspect_container(&r);
            show(&view::docker::beneath(ours, view::docker::container(&r)));
        }),
        3 => with(bytes, |r: v1::InspectImageResponse| {
            show(&view::docker::beneath(view::inspect_image(&r), view::docker::image(&r)));
        }),
        4 => with(bytes, |r: v1::InspectNetworkResponse| {
            let key = r.network.as_ref().map(|n| n.name.clone()).unwrap_or_default();
            show(&view::network::with_cni(view::network::inspect(&r), "Conflist", &key));
            r.network.iter().for_each(|n| show(&view::network::row(n, true)));
        }),
        5 => with(bytes, |e: v1::Event| {
            show(&view::event(&e));
            steady(&view::event_line(&e), "");
        }),
        6 => with(bytes, |r: v1::StatsResponse| {
            let (now, before) = (r.containers.first(), r.containers.get(1));
            now.into_iter().for_each(|now| show(&view::stats(now, before, r.time.as_ref(), true)));
        }),
        7 => with(bytes, |p: v1::PullProgress| steady(&progress::line(&p), "")),
        8 => with(bytes, |r: v1::InfoResponse| show(&view::info(&r))),
        9 => refusal(bytes),
        _ => rendered(bytes),
    }
});

fn with<M: Message + Default>(bytes: &[u8], then: impl FnOnce(M)) {
    if let Ok(message) = M::decode(bytes) {
        then(message);
    }
}

/// In every way in which a row can be asked for.
fn show(row: &Value) {
    steady(&output::json(row), "");
    steady(&output::pretty(row), "\n");
    steady(&yaml::emit(row), "\n");
    assert_eq!(serde_json::from_str::<Value>(&output::json(row)).as_ref().ok(), Some(row), "JSON loses nothing");
    let mut table = output::Columns::new(&["NAME"]);
    table.row(row.as_object().into_iter().flatten().map(|(_, cell)| template::shown(cell)).collect());
    let table = table.render();
    steady(&table, "\n");
    assert_eq!(table.lines().count(), 2, "a row is one line: {table:?}");
    let all = Template::parse("{{.}}|{{json .}}").expect("a template");
    steady(&all.render_for(row, true).expect("without a field"), "\n\t");
}

/// A refused call: its code, and the details that come with it in a header.
fn refusal(bytes: &[u8]) {
    let Some((code, bytes)) = bytes.split_first() else { return };
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let message = String::from_utf8_lossy(&bytes[..at]);
    let details = bytes::Bytes::copy_from_slice(bytes.get(at + 1..).unwrap_or_default());
    let status = tonic::Status::with_details(i32::from(*code).into(), message, details);
    let error = status::error(&status, "web", true, None);
    let text = error.text();
    // Its own colours are all of the terminal's.
    let plain = anstream::adapter::strip_str(&text).to_string();
    steady(&plain, "\n\t");
    let begin = |word: &str| plain.lines().filter(|line| line.starts_with(word)).count();
    assert!(begin("error: ") == 1 && begin("hint: ") <= 1, "{plain:?}");
    assert!(
        plain.lines().all(|line| line.starts_with("error: ") || line.starts_with("hint: ") || line.starts_with("  "))
    );
    steady(&error.one_line(), "");
    let _ = status::overloaded(&status);
}

/// A template of the user's, before the first zero byte, for a value that has come.
fn rendered(bytes: &[u8]) {
    let at = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let Ok(template) = Template::parse(&String::from_utf8_lossy(&bytes[..at])) else { return };
    let value = serde_json::from_slice(bytes.get(at + 1..).unwrap_or_default()).unwrap_or(Value::Null);
    let _ = (template.fields(), template.render_for(&value, true));
}

fn steady(text: &str, but: &str) {
    assert!(!text.chars().any(|c| c.is_control() && !but.contains(c)), "{text:?}");
}
