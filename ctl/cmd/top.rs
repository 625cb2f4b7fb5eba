//! `top`: the processes of a container, in the columns of ps(1).

use crate::complete;
use crate::connect::{Connection, UNARY_TIMEOUT};
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::{Listing, Show};
use crate::units::time;
use berth::v1;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use serde_json::{Map, Value};

#[derive(Debug, Args)]
#[command(after_help = "Options of ps(1) that are known: -ef, aux, and -o with COLUMN[,COLUMN...] of\n  \
    pid ppid cpid user uid comm args cmd command pcpu %cpu pmem %mem rss vsz stat state s nice ni nlwp tty tt\n  \
    stime start lstart etime etimes time cputime\n\
    cpid is the pid in the container. The processes are read by the agent; nothing is run in the container.\n\n\
    Examples:\n  berthctl top web\n  berthctl top web -o pid,user,rss,args\n  berthctl top -o json web aux")]
pub struct Top {
    #[command(flatten)]
    show: Show,
    /// Container, and behind it options of ps(1) [default: -ef]
    // One list, as ps's options would be taken for ours if they had one of their own.
    #[arg(value_names = ["CONTAINER", "PS OPTIONS"], required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true, add = ArgValueCompleter::new(complete::running))]
    words: Vec<String>,
}

/// Names of ps(1), its header, and what it shows.
const COLUMNS: &[(&[&str], &str, Show1)] = &[
    (&["pid"], "PID", |p, _| p.pid.to_string()),
    (&["ppid"], "PPID", |p, _| p.parent_pid.to_string()),
    (&["cpid"], "CPID", |p, _| p.inner_pid.to_string()),
    (&["user", "euser"], "USER", |p, _| user(p)),
    (&["uid", "euid"], "UID", |p, _| p.uid.to_string()),
    (&["comm", "ucmd", "ucomm"], "COMMAND", |p, _| p.command.clone()),
    (&["args", "command"], "COMMAND", |p, _| arguments(p)),
    (&["cmd"], "CMD", |p, _| arguments(p)),
    (&["pcpu", "%cpu"], "%CPU", |p, a| percent(p.cpu_ns as f64 / 1e9, age(p, a) as f64)),
    (&["pmem", "%mem"], "%MEM", |p, a| percent(p.resident_bytes as f64, a.host_memory_bytes as f64)),
    (&["rss", "rssize", "rsz"], "RSS", |p, _| (p.resident_bytes / 1024).to_string()),
    (&["vsz", "vsize"], "VSZ", |p, _| (p.virtual_bytes / 1024).to_string()),
    (&["stat", "state", "s"], "S", |p, _| p.state.clone()),
    (&["nice", "ni"], "NI", |p, _| p.nice.to_string()),
    (&["nlwp", "thcount"], "NLWP", |p, _| p.threads.to_string()),
    (&["tty", "tt", "tname"], "TTY", |p, _| terminal(p.tty)),
    (&["stime", "start", "start_time"], "STIME", started),
    (&["lstart"], "STARTED", |p, _| time(p.started.as_ref()).map_or("-".into(), |t| t.to_string())),
    (&["etime"], "ELAPSED", |p, a| clock(age(p, a), false)),
    (&["etimes"], "ELAPSED", |p, a| age(p, a).to_string()),
    (&["time", "cputime"], "TIME", |p, _| clock(i64::try_from(p.cpu_ns / 1_000_000_000).unwrap_or(i64::MAX), true)),
];

type Show1 = fn(&v1::ContainerProcess, &v1::TopResponse) -> String;
type Column = (String, Show1);

/// `-ef`: what Docker shows.
const FULL: &str = "user,pid,ppid,pcpu,stime,tty,time,cmd";
/// `aux`
const USERS: &str = "user,pid,%cpu,%mem,vsz,rss,tty,stat,stime,time,args";

/// The columns of ps's options.
fn columns(options: &[String]) -> Result<Vec<Column>> {
    let mut lists: Vec<&str> = Vec::new();
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-e" | "-A" | "ax" | "-ax" => {}
            "-f" | "-ef" | "-fe" | "-Af" => lists.push(FULL),
            "aux" | "u" | "-aux" => lists.push(USERS),
            "-o" | "-eo" | "o" | "--format" => {
                let list = words.next().ok_or_else(|| Error::usage(format!("{word} needs a list of columns")))?;
                lists.push(list);
            }
            other => match other.strip_prefix("-eo").or_else(|| other.strip_prefix("-o")) {
                Some(list) => lists.push(list.trim_start_matches('=')),
                None => {
                    return Err(Error::usage(format!("option {other:?} of ps is not known here"))
                        .hint("-ef, aux, or -o pid,user,args; berthctl top --help lists the columns"));
                }
            },
        }
    }
    if lists.is_empty() {
        lists.push(FULL);
    }
    // The letter of -ef's headers.
    let full = lists == [FULL];
    let mut found = Vec::new();
    for name in lists.iter().flat_map(|list| list.split([',', ' '])).filter(|name| !name.is_empty()) {
        let Some((_, header, show)) = COLUMNS.iter().find(|(names, ..)| names.contains(&name)) else {
            return Err(
                Error::usage(format!("column {name:?} is not known")).hint("berthctl top --help lists the columns")
            );
        };
        let header = match (full, *header) {
            (true, "USER") => "UID",
            (true, "%CPU") => "C",
            (_, header) => header,
        };
        if !found.iter().any(|(h, _): &Column| h == header) {
            found.push((header.to_owned(), *show));
        }
    }
    if found.is_empty() {
        return Err(Error::usage("no column was named"));
    }
    Ok(found)
}

pub async fn top(fleet: &Fleet, args: Top) -> Result<u8> {
    let mut words = args.words.into_iter();
    let container = words.next().unwrap_or_default();
    let columns = columns(&words.collect::<Vec<_>>())?;
    let call = move |c: Connection| {
        let request = v1::TopRequest { container: container.clone() };
        async move {
            let answer = c.retry(async || c.containers().top(c.request(request.clone(), Some(UNARY_TIMEOUT))).await);
            Ok(answer.await?.into_inner())
        }
    };
    let headers = columns.iter().map(|(h, _)| (h.clone(), h.clone())).collect();
    let host_width = fleet.labelled.then(|| fleet.width());
    let mut list = Listing::with(headers, "PID", args.show.format()?, host_width);
    let code = fleet
        .each(call, |host, answer: v1::TopResponse| {
            if answer.truncated {
                anstream::eprintln!("warning: {host} has more processes than it shows");
            }
            let row = |p: &v1::ContainerProcess| {
                let mut row: Map<String, Value> = Map::new();
                // For -o name, whatever the columns are.
                row.insert("PID".into(), p.pid.to_string().into());
                row.extend(columns.iter().map(|(h, show)| (h.clone(), show(p, &answer).into())));
                Value::Object(row)
            };
            list.add(host, answer.processes.iter().map(row).collect())
        })
        .await?;
    list.finish()?;
    Ok(code)
}

fn user(p: &v1::ContainerProcess) -> String {
    if p.user.is_empty() { p.uid.to_string() } else { p.user.clone() }
}

fn arguments(p: &v1::ContainerProcess) -> String {
    if p.arguments.is_empty() { format!("[{}]", p.command) } else { p.arguments.join(" ") }
}

/// Seconds since its start.
fn age(p: &v1::ContainerProcess, answer: &v1::TopResponse) -> i64 {
    match (time(p.started.as_ref()), time(answer.time.as_ref())) {
        (Some(started), Some(now)) => (now.as_second() - started.as_second()).max(0),
        _ => 0,
    }
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1}", part / whole * 100.0) } else { "0.0".into() }
}

/// The time of a start today, else its day.
fn started(p: &v1::ContainerProcess, answer: &v1::TopResponse) -> String {
    match (time(p.started.as_ref()), time(answer.time.as_ref())) {
        (Some(t), Some(now)) if now.as_second() - t.as_second() < 86_400 => t.strftime("%H:%M").to_string(),
        (Some(t), _) => t.strftime("%b%d").to_string(),
        _ => "-".into(),
    }
}

/// `[DD-]HH:MM:SS`; without hours where `short` ones are left out.
fn clock(seconds: i64, hours: bool) -> String {
    let (days, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, h) {
        (0, 0) if !hours => format!("{m:02}:{s:02}"),
        (0, _) => format!("{h:02}:{m:02}:{s:02}"),
        _ => format!("{days}-{h:02}:{m:02}:{s:02}"),
    }
}

/// The name behind a terminal's number (proc_pid_stat(5), field 7).
fn terminal(number: u32) -> String {
    let (major, minor) = (number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xfff00));
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => format!("{major}:{minor}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(options: &[&str]) -> Result<Vec<String>> {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        Ok(columns(&options)?.into_iter().map(|(h, _)| h).collect())
    }

    #[test]
    fn options_of_ps() {
        let full = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
        assert_eq!(headers(&[]).expect("default"), full);
        assert_eq!(headers(&["-ef"]).expect("-ef"), full);
        assert_eq!(headers(&["aux"]).expect("aux")[..4], ["USER", "PID", "%CPU", "%MEM"]);
        for o in [&["-o", "pid,comm"][..], &["-eo", "pid comm"], &["-opid,comm"], &["-e", "-o", "pid", "-o", "comm"]] {
            assert_eq!(headers(o).expect("columns"), ["PID", "COMMAND"], "{o:?}");
        }
        for bad in [&["-o"][..], &["-o", "pid,nonsense"], &["--forest"], &["-o", ","]] {
            headers(bad).expect_err(&bad.join(" "));
        }
    }

    #[test]
    fn times_and_terminals() {
        assert_eq!((clock(59, false).as_str(), clock(59, true).as_str()), ("00:59", "00:00:59"));
        assert_eq!((clock(3661, false).as_str(), clock(90_061, true).as_str()), ("01:01:01", "1-01:01:01"));
        assert_eq!((terminal(0).as_str(), terminal(136 << 8 | 3).as_str()), ("?", "pts/3"));
        assert_eq!((terminal(4 << 8 | 1).as_str(), terminal(4 << 8 | 64).as_str()), ("tty1", "ttyS0"));
    }
}
