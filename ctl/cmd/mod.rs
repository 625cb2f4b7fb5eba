//! One file per verb, or per family of verbs that differ in a word.

pub mod act;
pub mod agent;
pub mod changes;
pub mod commit;
pub mod context;
pub mod cp;
pub mod details;
pub mod df;
pub mod events;
pub mod exec;
pub mod explain;
pub mod forward;
pub mod images;
pub mod info;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod man;
pub mod network;
pub mod node;
pub mod pki;
pub mod port;
pub mod prune;
pub mod ps;
pub mod pull;
pub mod run;
pub mod stats;
pub mod top;
pub mod update;
pub mod volume;

use crate::connect::Connection;
use crate::error::{Error, Result};
use crate::fanout::Fleet;
use crate::output::Sink;
use std::rc::Rc;

/// Does one thing to each of several names on each host, and prints what it says. An error of one name does not stop the others.
pub async fn for_names<F, Fut>(fleet: &Fleet, names: Vec<String>, act: F) -> Result<u8>
where
    F: Fn(Connection, String) -> Fut + 'static,
    Fut: Future<Output = Result<Vec<String>>> + 'static,
{
    let (names, act) = (Rc::new(names), Rc::new(act));
    let labels = fleet.clone();
    let call = move |connection: Connection| {
        let (names, act) = (names.clone(), act.clone());
        let sink = Sink::new(labels.label(&connection.label));
        async move {
            let mut failed: Vec<Error> = Vec::new();
            for name in names.iter() {
                match act(connection.clone(), name.clone()).await {
                    Ok(lines) => lines.iter().try_for_each(|line| sink.line(line))?,
                    Err(e) if e.quiet => return Err(e),
                    Err(e) => {
                        if !sink.labelled() {
                            e.report();
                        }
                        failed.push(e);
                    }
                }
            }
            together(failed, sink.labelled())
        }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// As [`for_names`], with all names at once; what is said comes in the order of the names.
pub async fn for_names_at_once<F, Fut>(fleet: &Fleet, names: Vec<String>, act: F) -> Result<u8>
where
    F: Fn(Connection, String) -> Fut + 'static,
    Fut: Future<Output = Result<Vec<String>>> + 'static,
{
    let (names, act) = (Rc::new(names), Rc::new(act));
    let labels = fleet.clone();
    let call = move |connection: Connection| {
        let (names, act) = (names.clone(), act.clone());
        let sink = Sink::new(labels.label(&connection.label));
        let work = async move {
            let mut failed: Vec<Error> = Vec::new();
            let running: Vec<_> =
                names.iter().map(|name| tokio::task::spawn_local(act(connection.clone(), name.clone()))).collect();
            for task in running {
                match task.await.map_err(|e| Error::new(format!("a call's task ended: {e}")))? {
                    Ok(lines) => lines.iter().try_for_each(|line| sink.line(line))?,
                    Err(e) => {
                        if !sink.labelled() {
                            e.report();
                        }
                        failed.push(e);
                    }
                }
            }
            together(failed, sink.labelled())
        };
        async move { tokio::task::LocalSet::new().run_until(work).await }
    };
    fleet.each(call, |_, ()| Ok(())).await
}

/// Tells what was asked for and is not given in full.
fn warn(sink: &Sink, warnings: &[String]) {
    for warning in warnings {
        sink.say(&format!("warning: {}", crate::output::printable(warning)));
    }
}

/// Several errors of one host as one; for one host they were told already.
fn together(mut failed: Vec<Error>, labelled: bool) -> Result<()> {
    match failed.len() {
        0 => Ok(()),
        _ if !labelled => Err(Error::silent(1)),
        1 => Err(failed.remove(0)),
        _ => Err(Error::new(failed.iter().map(Error::one_line).collect::<Vec<_>>().join("; "))),
    }
}
