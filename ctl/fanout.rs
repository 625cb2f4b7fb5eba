//! One command on many hosts: side by side, a bounded number at once, each answer shown as it comes.

use crate::config::Host;
use crate::connect::{Connection, Limits};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::rc::Rc;
use tokio::task::{JoinSet, LocalSet};

/// Exit code when some hosts failed.
pub const SOME_FAILED: u8 = 3;
/// Exit code when all hosts failed.
pub const ALL_FAILED: u8 = 4;

/// The hosts of a command.
#[derive(Debug, Clone)]
pub struct Fleet {
    pub hosts: Vec<Host>,
    /// At most so many at once.
    pub parallel: usize,
    /// Per host, connecting included.
    pub limits: Limits,
    /// Answers are labelled: the caller named hosts, not one context.
    pub labelled: bool,
}

impl Fleet {
    /// The label in front of lines of this host, as wide as the widest; `None` for one host.
    pub fn label(&self, host: &str) -> Option<Rc<str>> {
        if !self.labelled {
            return None;
        }
        let width = self.width();
        Some(format!("{host:<width$} | ").into())
    }

    /// Characters of the longest label.
    pub fn width(&self) -> usize {
        self.hosts.iter().map(|h| h.label.chars().count()).max().unwrap_or(0)
    }

    /// Runs `call` on every host and shows each answer. Ends with an error only where there is one host, which then is the error itself;
    /// with several, who failed and why is told at the end and the exit code says how many.
    pub async fn each<T, C, Fut>(&self, call: C, mut show: impl FnMut(&str, T) -> Result<()>) -> Result<u8>
    where
        T: 'static,
        C: Fn(Connection) -> Fut + 'static,
        Fut: Future<Output = Result<T>> + 'static,
    {
        if let ([host], false) = (self.hosts.as_slice(), self.labelled) {
            let answer = one(host.clone(), self.limits, &call).await?;
            show(&host.label, answer)?;
            return Ok(0);
        }
        let local = LocalSet::new();
        local.run_until(self.all(Rc::new(call), usize::MAX, &mut show)).await
    }

    /// As [`Fleet::each`], `parallel` hosts at once; when more than `max_failures` have failed, the hosts behind them are left alone, and
    /// count as failed.
    pub async fn rolling<T, C, Fut>(
        &self,
        parallel: usize,
        max_failures: usize,
        call: C,
        mut show: impl FnMut(&str, T) -> Result<()>,
    ) -> Result<u8>
    where
        T: 'static,
        C: Fn(Connection) -> Fut + 'static,
        Fut: Future<Output = Result<T>> + 'static,
    {
        if self.hosts.len() == 1 && !self.labelled {
            return self.each(call, show).await;
        }
        let fleet = Fleet { parallel, ..self.clone() };
        LocalSet::new().run_until(fleet.all(Rc::new(call), max_failures, &mut show)).await
    }

    async fn all<T, C, Fut>(
        &self,
        call: Rc<C>,
        max_failures: usize,
        show: &mut impl FnMut(&str, T) -> Result<()>,
    ) -> Result<u8>
    where
        T: 'static,
        C: Fn(Connection) -> Fut + 'static,
        Fut: Future<Output = Result<T>> + 'static,
    {
        let mut waiting: VecDeque<Host> = self.hosts.iter().cloned().collect();
        let mut running = JoinSet::new();
        let mut failed: Vec<(String, Error)> = Vec::new();
        loop {
            if failed.len() > max_failures {
                let why = format!("left as it is: {} hosts have failed", failed.len());
                failed.extend(waiting.drain(..).map(|host| (host.label, Error::new(why.clone()))));
            }
            while running.len() < self.parallel.max(1)
                && let Some(host) = waiting.pop_front()
            {
                let (call, limits) = (call.clone(), self.limits);
                running.spawn_local(async move {
                    let label = host.label.clone();
                    (label, one(host, limits, &*call).await)
                });
            }
            let Some(done) = running.join_next().await else { break };
            let (label, answer) = done.map_err(|e| Error::new(format!("a host's task ended: {e}")))?;
            match answer {
                Ok(answer) => show(&label, answer)?,
                // The reader of our output went away: no host can be shown any more.
                Err(e) if e.quiet && e.exit == Some(141) => return Err(e),
                Err(e) => failed.push((label, e)),
            }
        }
        Ok(self.summary(&failed))
    }

    fn summary(&self, failed: &[(String, Error)]) -> u8 {
        if failed.is_empty() {
            return 0;
        }
        anstream::eprintln!("{} of {} hosts failed:", failed.len(), self.hosts.len());
        let width = self.width();
        for (label, error) in failed {
            anstream::eprintln!("  {label:<width$}  {error}");
            if let Some(hint) = &error.hint {
                anstream::eprintln!("  {:<width$}  hint: {hint}", "");
            }
        }
        if failed.len() == self.hosts.len() { ALL_FAILED } else { SOME_FAILED }
    }
}

async fn one<T, C, Fut>(host: Host, limits: Limits, call: &C) -> Result<T>
where
    C: Fn(Connection) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let work = async { call(Connection::open(&host, limits).await?).await };
    match limits.deadline {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Error::new(format!("no answer from {} within {} s", host.label, limit.as_secs_f64()))
                .hint("--deadline sets how long to wait"))
        }),
    }
}
