//! `Node.Doctor`: what the node finds, and how long the certificates still hold.

use crate::config::TlsFiles;
use crate::tls::{self, Held};
use berth::v1;
use berth_node::{Finding, Node, Verdict};
use std::time::Duration;

/// Fewer days are few: time to issue new ones and bring them to the host.
const SOON_DAYS: i64 = 30;
const VERY_SOON_DAYS: i64 = 7;
const DAY: Duration = Duration::from_secs(86_400);

/// Everything, the gravest first. Blocking.
pub fn look(node: &Node, tls: Option<&TlsFiles>) -> Vec<v1::DoctorFinding> {
    let mut findings = node.doctor();
    match tls {
        Some(files) => findings.extend(tls::validity(files).into_iter().map(certificate)),
        None => findings.push(Finding::new(
            "certificates",
            Verdict::Warning,
            "the agent listens on its Unix socket only",
            "for callers from afar: berthctl pki init, berthctl pki issue agent, and restart the agent",
        )),
    }
    findings.sort_by_key(|f| f.verdict);
    findings.into_iter().map(encode).collect()
}

fn certificate(held: Held) -> Finding {
    let (what, left) = match held {
        Held::Unreadable(reason) => {
            let advice = "the agent goes on with what it read before; mend the file before it is restarted";
            return Finding::new("certificates", Verdict::Bad, reason, advice);
        }
        Held::Until { what, left_seconds } => (what, left_seconds),
    };
    let days = left / DAY.as_secs() as i64;
    // Lists are made for a month or so, certificates for a year.
    let (soon, very_soon) =
        if what.starts_with(tls::FileKind::Crl.name()) { (7, 1) } else { (SOON_DAYS, VERY_SOON_DAYS) };
    let advice = "issue a new one (berthctl pki) and put it in its place: it is taken up without a restart";
    match left {
        l if l <= 0 => Finding::new("certificates", Verdict::Bad, format!("{what} is not valid any more"), advice),
        _ if days < very_soon => {
            Finding::new("certificates", Verdict::Bad, format!("{what} is valid for {days} days only"), advice)
        }
        _ if days < soon => {
            Finding::new("certificates", Verdict::Warning, format!("{what} is valid for {days} days only"), advice)
        }
        _ => Finding::new("certificates", Verdict::Good, format!("{what} is valid for {days} days"), ""),
    }
}

fn encode(finding: Finding) -> v1::DoctorFinding {
    let verdict = match finding.verdict {
        Verdict::Good => v1::DoctorVerdict::Good,
        Verdict::Warning => v1::DoctorVerdict::Warning,
        Verdict::Bad => v1::DoctorVerdict::Bad,
    };
    v1::DoctorFinding {
        name: finding.name.into(),
        verdict: verdict.into(),
        found: finding.found,
        advice: finding.advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_by_days() {
        let verdict =
            |days: i64| certificate(Held::Until { what: "it".into(), left_seconds: days * 86_400 + 60 }).verdict;
        assert_eq!(verdict(365), Verdict::Good);
        assert_eq!(verdict(30), Verdict::Good);
        assert_eq!(verdict(29), Verdict::Warning);
        assert_eq!(verdict(7), Verdict::Warning);
        assert_eq!(verdict(6), Verdict::Bad);
        assert_eq!(verdict(-1), Verdict::Bad);
        let list = |days: i64| {
            let what = format!("{} crl.pem", tls::FileKind::Crl);
            certificate(Held::Until { what, left_seconds: days * 86_400 + 60 }).verdict
        };
        assert_eq!((list(29), list(6), list(0)), (Verdict::Good, Verdict::Warning, Verdict::Bad));
    }
}
