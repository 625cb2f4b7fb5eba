//! `container prune`, `image prune`, `system prune` and `system gc`: what is not needed goes, and what went is told as it goes.

use super::list::prune_filters;
use crate::connect::{Connection, Patience, request_id};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{self, Sink, print};
use crate::progress::short;
use crate::term;
use crate::units::human_size;
use berth::v1::{self, Reclaimed, ReclaimedTotal, reclaimed::Kind};
use clap::Args;
use serde_json::json;
use std::collections::HashSet;
use std::io::{BufRead, Write};
use std::rc::Rc;
use tonic::{Response, Status, Streaming};

// No doc comment: clap would take it for the description of each command that has them.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Tell what would go and how much it takes; remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// json: one object a line
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    output: String,
}

impl How {
    pub fn is_json(&self) -> bool {
        self.output == "json"
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  berthctl container prune --filter until=24h --filter 'label!=keep'")]
pub struct Containers {
    /// Only what fits: until=TIME (made before), label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  berthctl image prune -a --filter until=720h --dry-run")]
pub struct Images {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what fits: until=TIME (made before), label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  berthctl volume prune -a --filter 'label!=keep'")]
pub struct Volumes {
    /// All volumes that no container refers to, not only those with a made-up name
    #[arg(short, long)]
    all: bool,
    /// Only what fits: label=, label!=, all=true|false
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  berthctl --all system prune -f")]
pub struct Everything {
    /// Volumes with a made-up name that no container refers to, too
    #[arg(long)]
    volumes: bool,
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what fits: until=TIME (made before), label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The policy stands in the agent's configuration, [gc]. Example:\n  berthctl system gc --dry-run"
)]
pub struct Gc {
    /// Tell what would go and why; remove nothing
    #[arg(long)]
    dry_run: bool,
    /// json: one object a line
    #[arg(short, long, value_parser = ["table", "json"], default_value = "table")]
    output: String,
}

/// One command on all hosts.
#[derive(Clone)]
struct Plan {
    containers: bool,
    /// Some(true): also those with a name.
    images: Option<bool>,
    /// Some(true): also those with a name.
    volumes: Option<bool>,
    /// In the place of all: the host's own policy.
    policy: bool,
    filters: Vec<v1::ListFilter>,
    dry_run: bool,
    json: bool,
}

const STOPPED: &str = "all stopped containers";
const DANGLING: &str = "all images without a name";
const NAMELESS: &str = "anonymous volumes not used by at least one container";
const IDLE: &str = "all volumes not used by at least one container";
const UNUSED: &str = "all images without at least one container associated to them";

pub async fn containers(fleet: &Fleet, args: Containers) -> Result<u8> {
    let filters = prune_filters(&args.filter)?;
    confirm(fleet, &args.how, &[STOPPED], &args.filter)?;
    run(fleet, plan(true, None, filters, &args.how)).await
}

pub async fn images(fleet: &Fleet, args: Images) -> Result<u8> {
    let filters = prune_filters(&args.filter)?;
    confirm(fleet, &args.how, &[if args.all { UNUSED } else { DANGLING }], &args.filter)?;
    run(fleet, plan(false, Some(args.all), filters, &args.how)).await
}

pub async fn everything(fleet: &Fleet, args: Everything) -> Result<u8> {
    let filters = prune_filters(&args.filter)?;
    if args.volumes && filters.iter().any(|f| f.key == "until") {
        return Err(Error::usage("--volumes does not go with --filter until: volumes have no age to go by"));
    }
    let mut what = vec![STOPPED, if args.all { UNUSED } else { DANGLING }];
    what.extend(args.volumes.then_some(NAMELESS));
    confirm(fleet, &args.how, &what, &args.filter)?;
    let volumes = args.volumes.then_some(false);
    run(fleet, Plan { volumes, ..plan(true, Some(args.all), filters, &args.how) }).await
}

pub async fn volumes(fleet: &Fleet, args: Volumes) -> Result<u8> {
    let filters = super::list::filters(&args.filter, &["label", "label!", "all"])?;
    // Docker's filter, which holds more than the flag.
    let said = filters.iter().rfind(|f| f.key == "all").map(|f| !matches!(f.value.as_str(), "0" | "false"));
    confirm(fleet, &args.how, &[if said.unwrap_or(args.all) { IDLE } else { NAMELESS }], &args.filter)?;
    run(fleet, Plan { volumes: Some(args.all), ..plan(false, None, filters, &args.how) }).await
}

pub async fn gc(fleet: &Fleet, args: Gc) -> Result<u8> {
    let how = How { dry_run: args.dry_run, force: true, output: args.output };
    run(fleet, Plan { policy: true, ..plan(false, None, Vec::new(), &how) }).await
}

fn plan(containers: bool, images: Option<bool>, filters: Vec<v1::ListFilter>, how: &How) -> Plan {
    Plan { containers, images, volumes: None, policy: false, filters, dry_run: how.dry_run, json: how.output == "json" }
}

/// Docker's question. Where nobody can be asked, -f has to say it.
pub(super) fn confirm(fleet: &Fleet, how: &How, what: &[&str], filters: &[String]) -> Result<()> {
    if how.force || how.dry_run {
        return Ok(());
    }
    if !term::stdin_is_terminal() {
        return Err(Error::usage("nobody can be asked: standard input is no terminal")
            .hint("-f removes without asking, --dry-run tells what would go"));
    }
    let mut text = String::from("WARNING! This will remove:\n");
    text.extend(what.iter().map(|w| format!("  - {w}\n")));
    if !filters.is_empty() {
        text.push_str("  Items to be pruned will be filtered with:\n");
        text.extend(filters.iter().map(|f| format!("  - {f}\n")));
    }
    if fleet.labelled {
        let hosts: Vec<&str> = fleet.hosts.iter().map(|h| h.label.as_str()).collect();
        text.push_str(&format!("  on {} hosts: {}\n", hosts.len(), hosts.join(", ")));
    }
    anstream::eprint!("{text}Are you sure you want to continue? [y/N] ");
    _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|e| Error::io("reading the answer", &e))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::new("nothing was removed")),
    }
}

async fn run(fleet: &Fleet, plan: Plan) -> Result<u8> {
    let (labels, plan) = (fleet.clone(), Rc::new(plan));
    let call = move |c: Connection| {
        let plan = plan.clone();
        let sink = Sink::new(labels.label(&c.label));
        async move {
            let sum = ReclaimedTotal::default();
            let mut report =
                Report { host: c.label.clone(), sink, plan: plan.clone(), heading: "", sum, broken: false };
            if plan.policy {
                collect(&c, &plan, &mut report).await?;
            }
            if plan.containers {
                prune_containers(&c, &plan, &mut report).await?;
            }
            if let Some(all) = plan.images {
                prune_images(&c, &plan, all, &mut report).await?;
            }
            if let Some(all) = plan.volumes {
                prune_volumes(&c, &plan, all, &mut report).await?;
            }
            report.finish()
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

async fn prune_containers(c: &Connection, plan: &Plan, report: &mut Report) -> Result<()> {
    use v1::prune_containers_response::Kind;
    let request =
        v1::PruneContainersRequest { request_id: request_id()?, filters: plan.filters.clone(), dry_run: plan.dry_run };
    let ask = async || c.containers().prune(c.request(request.clone(), None)).await;
    through(c, report, ask, |answer| {
        Some(match answer.kind? {
            Kind::Item(item) => Told::Item(item),
            Kind::Total(total) => Told::Total(total),
        })
    })
    .await
}

async fn prune_images(c: &Connection, plan: &Plan, all: bool, report: &mut Report) -> Result<()> {
    use v1::prune_images_response::Kind;
    let (filters, dry_run) = (plan.filters.clone(), plan.dry_run);
    let request = v1::PruneImagesRequest { request_id: request_id()?, all, filters, dry_run };
    let ask = async || c.images().prune(c.request(request.clone(), None)).await;
    through(c, report, ask, |answer| {
        Some(match answer.kind? {
            Kind::Item(item) => Told::Item(item),
            Kind::Total(total) => Told::Total(total),
        })
    })
    .await
}

async fn prune_volumes(c: &Connection, plan: &Plan, all: bool, report: &mut Report) -> Result<()> {
    use v1::prune_volumes_response::Kind;
    // Volumes have no age that a prune could go by.
    let filters = plan.filters.iter().filter(|f| f.key != "until").cloned().collect();
    let request = v1::PruneVolumesRequest { request_id: request_id()?, all, filters, dry_run: plan.dry_run };
    let ask = async || c.volumes().prune(c.request(request.clone(), None)).await;
    through(c, report, ask, |answer| {
        Some(match answer.kind? {
            Kind::Item(item) => Told::Item(item),
            Kind::Total(total) => Told::Total(total),
        })
    })
    .await
}

async fn collect(c: &Connection, plan: &Plan, report: &mut Report) -> Result<()> {
    use v1::collect_garbage_response::Kind;
    let request = v1::CollectGarbageRequest { request_id: request_id()?, dry_run: plan.dry_run };
    let ask = async || c.node().collect_garbage(c.request(request.clone(), None)).await;
    through(c, report, ask, |answer| {
        Some(match answer.kind? {
            Kind::Item(item) => Told::Item(item),
            Kind::Total(total) => Told::Total(total),
        })
    })
    .await
}

enum Told {
    Item(Reclaimed),
    Total(ReclaimedTotal),
}

/// Reports a whole stream. One that breaks is asked for again under the same request id: an agent that went on without us answers with the sum
/// of all, a new one removes the rest.
async fn through<M>(
    c: &Connection,
    report: &mut Report,
    mut ask: impl AsyncFnMut() -> Result<Response<Streaming<M>>, Status>,
    told: fn(M) -> Option<Told>,
) -> Result<()> {
    let mut patience = Patience::default();
    let mut stream: Option<Streaming<M>> = None;
    let (mut seen, mut sum) = (HashSet::new(), ReclaimedTotal::default());
    // Of this stream; and streams before it.
    let (mut here, mut broken) = (0, false);
    loop {
        let Some(open) = &mut stream else {
            match ask().await {
                Ok(answer) => (stream, here) = (Some(answer.into_inner()), 0),
                Err(status) => patience.wait(c, &status).await?,
            }
            continue;
        };
        match open.message().await {
            Ok(None) => return Ok(()),
            Ok(Some(answer)) => match told(answer) {
                Some(Told::Item(item)) => {
                    here += 1;
                    if seen.insert((item.kind, item.id.clone())) {
                        patience.rest();
                        count(&mut sum, &item);
                        report.item(&item)?;
                    }
                }
                Some(Told::Total(total)) if broken => {
                    report.broken = true;
                    let whole = total.containers + total.images + total.layers + total.volumes > here;
                    report.add(if whole { total } else { ReclaimedTotal { problems: total.problems, ..sum.clone() } });
                }
                Some(Told::Total(total)) => report.add(total),
                None => {}
            },
            Err(status) => {
                (stream, broken) = (None, true);
                patience.wait(c, &status).await?;
            }
        }
    }
}

fn count(sum: &mut ReclaimedTotal, item: &Reclaimed) {
    match item.kind() {
        Kind::Container => sum.containers += 1,
        Kind::Image => sum.images += 1,
        Kind::Volume => sum.volumes += 1,
        Kind::Layer | Kind::Unspecified => sum.layers += 1,
    }
    sum.bytes += item.bytes;
}

/// Tells of one host what went, as it goes.
struct Report {
    host: String,
    sink: Sink,
    plan: Rc<Plan>,
    heading: &'static str,
    sum: ReclaimedTotal,
    /// The agent went away in between.
    broken: bool,
}

impl Report {
    fn item(&mut self, item: &Reclaimed) -> Result<()> {
        if self.plan.json {
            let mut value = json!({
                "Type": word(item.kind()), "ID": item.id, "Name": item.name, "Untagged": item.untagged,
                "SizeBytes": item.bytes, "Reason": item.reason, "DryRun": self.plan.dry_run,
            });
            if self.sink.labelled() {
                value["Host"] = self.host.clone().into();
            }
            return print(output::json(&value) + "\n");
        }
        if self.plan.dry_run || self.plan.policy {
            let verb = if self.plan.dry_run { "would remove" } else { "removed" };
            return self.sink.line(&format!("{verb} {} {} ({})", described(item), human_size(item.bytes), item.reason));
        }
        let heading = match item.kind() {
            Kind::Container => "Deleted Containers:",
            Kind::Image => "Deleted Images:",
            Kind::Volume => "Deleted Volumes:",
            Kind::Layer | Kind::Unspecified => "Deleted Layers:",
        };
        if heading != self.heading {
            if !self.heading.is_empty() {
                self.sink.line("")?;
            }
            self.heading = heading;
            self.sink.line(heading)?;
        }
        match item.kind() {
            Kind::Image => {
                item.untagged.iter().try_for_each(|name| self.sink.line(&format!("untagged: {name}")))?;
                self.sink.line(&format!("deleted: {}", item.id))
            }
            _ => self.sink.line(&item.id),
        }
    }

    fn add(&mut self, total: ReclaimedTotal) {
        self.sum.containers += total.containers;
        self.sum.images += total.images;
        self.sum.layers += total.layers;
        self.sum.volumes += total.volumes;
        self.sum.bytes += total.bytes;
        self.sum.problems.extend(total.problems);
    }

    fn finish(self) -> Result<()> {
        if self.broken && !self.plan.dry_run {
            let host = &self.host;
            anstream::eprintln!("{host} was away in between: what was removed just then may be missing in the list");
        }
        if !self.plan.json {
            if !self.heading.is_empty() {
                self.sink.line("")?;
            }
            let words = if self.plan.dry_run { "Space that would be reclaimed" } else { "Total reclaimed space" };
            self.sink.line(&format!("{words}: {}", human_size(self.sum.bytes)))?;
        }
        match self.sum.problems.len() {
            0 => Ok(()),
            n => {
                let mut error = Error::new(format!("{n} things could not be removed"));
                error.details = self.sum.problems;
                Err(error)
            }
        }
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "unknown",
        Kind::Container => "container",
        Kind::Image => "image",
        Kind::Layer => "layer",
        Kind::Volume => "volume",
    }
}

/// `container web 0123456789ab`, `image nginx:latest 0123456789ab`.
fn described(item: &Reclaimed) -> String {
    let familiar = |name: &String| name.parse::<berth_model::Reference>().map_or(name.clone(), |r| r.familiar());
    let names = match item.kind() {
        Kind::Image if item.untagged.is_empty() => "<none>".to_owned(),
        Kind::Image => item.untagged.iter().map(familiar).collect::<Vec<_>>().join(", "),
        _ => item.name.clone(),
    };
    let parts = [word(item.kind()), names.as_str(), short(&item.id)];
    parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
}
