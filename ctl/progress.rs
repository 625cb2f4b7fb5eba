//! How a pull goes on: bars on a terminal, plain lines elsewhere, JSON lines for programs. On stderr, apart from the JSON.

use crate::error::Result;
use crate::output::{Sink, print, printable};
use crate::units::human_size;
use berth::v1::{PullProgress, pull_progress::State};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::collections::HashMap;

/// Layers that are shown apart; an image with more is hostile (OCI runtimes stop at about 500).
const MAX_LAYERS: usize = 1000;

/// Shows one pull on one host.
#[derive(Debug)]
pub struct Progress {
    host: String,
    sink: Sink,
    shape: Shape,
    layers: HashMap<String, Layer>,
}

#[derive(Debug)]
enum Shape {
    Quiet,
    Lines,
    Json,
    Bars(MultiProgress),
}

#[derive(Debug)]
struct Layer {
    state: i32,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Bars where stderr is a terminal and only one host is asked.
    pub fn new(host: &str, sink: Sink, quiet: bool, json: bool) -> Progress {
        let shape = match (quiet, json) {
            (_, true) => Shape::Json,
            (true, _) => Shape::Quiet,
            _ if crate::term::stderr_is_terminal() && !sink.labelled() => Shape::Bars(MultiProgress::new()),
            _ => Shape::Lines,
        };
        Progress { host: host.to_owned(), sink, shape, layers: HashMap::new() }
    }

    pub fn show(&mut self, p: &PullProgress) -> Result<()> {
        match &self.shape {
            Shape::Quiet => Ok(()),
            Shape::Json => print(crate::output::json(&self.json(p)) + "\n"),
            Shape::Lines => {
                if self.is_news(p) {
                    self.sink.say(&line(p));
                }
                Ok(())
            }
            Shape::Bars(all) => {
                let all = all.clone();
                self.bar(&all, p);
                Ok(())
            }
        }
    }

    fn json(&self, p: &PullProgress) -> serde_json::Value {
        let mut value = json!({
            "Layer": p.layer, "State": word(p.state()), "Current": p.current_bytes, "Total": p.total_bytes, "Status": p.status,
        });
        if self.sink.labelled() {
            value["Host"] = self.host.clone().into();
        }
        value
    }

    /// In lines, only changes are told: not every megabyte.
    fn is_news(&mut self, p: &PullProgress) -> bool {
        if self.layers.len() > MAX_LAYERS {
            return false;
        }
        let known = self.layers.insert(p.layer.clone(), Layer { state: p.state, bar: None });
        !p.status.is_empty() || known.is_none_or(|k| k.state != p.state)
    }

    fn bar(&mut self, all: &MultiProgress, p: &PullProgress) {
        if p.layer.is_empty() {
            if !p.status.is_empty() {
                _ = all.println(line(p));
            }
            return;
        }
        if self.layers.len() > MAX_LAYERS {
            return;
        }
        let layer = self.layers.entry(p.layer.clone()).or_insert_with(|| {
            // Dressed before it has a place to be drawn.
            let bar = ProgressBar::with_draw_target(Some(p.total_bytes), ProgressDrawTarget::hidden())
                .with_prefix(printable(short(&p.layer)));
            dress(&bar, p.state());
            Layer { state: p.state, bar: Some(all.add(bar)) }
        });
        let Some(bar) = &layer.bar else { return };
        if layer.state != p.state {
            layer.state = p.state;
            dress(bar, p.state());
        }
        bar.set_length(p.total_bytes);
        bar.set_position(p.current_bytes);
        if matches!(p.state(), State::Done | State::Exists) {
            bar.abandon();
        }
    }
}

/// The look of a bar in a state.
fn dress(bar: &ProgressBar, state: State) {
    let template = match state {
        State::Downloading => "{prefix}: {msg:<12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
        _ => "{prefix}: {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(words(state));
}

/// Twelve characters of a digest, as Docker shows them.
pub fn short(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

const fn words(state: State) -> &'static str {
    match state {
        State::Unspecified => "Working",
        State::Resolving => "Looking up",
        State::Waiting => "Waiting",
        State::Downloading => "Downloading",
        State::Verifying => "Verifying",
        State::Unpacking => "Unpacking",
        State::Done => "Pull complete",
        State::Exists => "Already exists",
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Resolving => "resolving",
        State::Waiting => "waiting",
        State::Downloading => "downloading",
        State::Verifying => "verifying",
        State::Unpacking => "unpacking",
        State::Done => "done",
        State::Exists => "exists",
    }
}

pub fn line(p: &PullProgress) -> String {
    let what = if p.layer.is_empty() { "pull" } else { short(&p.layer) };
    let mut text = format!("{what}: {}", words(p.state()));
    if p.state() == State::Downloading && p.total_bytes > 0 {
        text.push_str(&format!(" {}", human_size(p.total_bytes)));
    }
    if !p.status.is_empty() {
        text.push_str(&format!(" ({})", p.status));
    }
    printable(&text)
}
