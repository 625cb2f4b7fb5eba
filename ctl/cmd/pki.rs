//! `berthctl pki`: the operator's certificate authority.

use crate::cli::NoHosts;
use crate::error::{Error, Result};
use crate::output::print;
use crate::pki::authority::{AGENT_DAYS, Authority, CA_DAYS, CLIENT_DAYS, CRL_DAYS, Issued};
use crate::pki::read::Certificate;
use crate::pki::{Algorithm, Name, Purpose, Role, files, release};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Pki {
    #[command(subcommand)]
    pub command: Command,
    /// Folder of the authority [default: pki beside the configuration file]
    #[arg(long, global = true, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub hosts: NoHosts,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a certificate authority
    Init(Init),
    /// Issue a certificate
    #[command(subcommand)]
    Issue(IssueCommand),
    /// Revoke certificates and sign the revocation list anew
    Revoke(Revoke),
    /// Sign the revocation list anew, before the old one ends
    Crl(Crl),
    /// Make the key that programs for agents are signed with
    ReleaseKey(ReleaseKey),
    /// Show what was issued, or what a certificate says
    Show(Show),
}

#[derive(Debug, Args)]
pub struct Init {
    /// Common name of the authority
    #[arg(long, default_value = "berth CA")]
    name: String,
    /// Lifetime in days
    #[arg(long, default_value_t = CA_DAYS, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    /// Kind of the key
    #[arg(long, value_enum, default_value_t = Algorithm::EcdsaP256)]
    algorithm: Algorithm,
    /// Put an authority that is there aside
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
pub enum IssueCommand {
    /// For a host: berthd shows it to its callers
    #[command(after_help = "Example:\n  berthctl pki issue agent web-1 --san web-1.example.com --san 192.0.2.10")]
    Agent(IssueAgent),
    /// For a person or program that calls agents
    #[command(after_help = "Example:\n  berthctl pki issue client ann --role operator --days 30")]
    Client(IssueClient),
}

#[derive(Debug, Args)]
pub struct IssueAgent {
    /// Name of the host (the certificate's common name)
    name: Name,
    /// Host name or address that callers use; may be given several times [default: NAME]
    #[arg(long = "san", value_name = "HOST|IP", value_delimiter = ',')]
    san: Vec<String>,
    /// Lifetime in days
    #[arg(long, default_value_t = AGENT_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Kind of the key
    #[arg(long, value_enum, default_value_t = Algorithm::EcdsaP256)]
    algorithm: Algorithm,
    /// Put a certificate of this name aside
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct IssueClient {
    /// Name of the caller (the certificate's common name); it stands in the audit records
    name: Name,
    /// What the caller may do
    #[arg(long, value_enum)]
    role: Role,
    /// Lifetime in days
    #[arg(long, default_value_t = CLIENT_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Kind of the key
    #[arg(long, value_enum, default_value_t = Algorithm::EcdsaP256)]
    algorithm: Algorithm,
    /// Put a certificate of this name aside
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Revoke {
    /// Names or serial numbers; a name means all its certificates
    #[arg(required = true, value_name = "NAME|SERIAL")]
    certificates: Vec<String>,
    /// Days until the next list is due
    #[arg(long, default_value_t = CRL_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    crl_days: u32,
}

#[derive(Debug, Args)]
pub struct Crl {
    /// Days until the next list is due
    #[arg(long, default_value_t = CRL_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
}

#[derive(Debug, Args)]
pub struct ReleaseKey {
    /// Kind of the key
    #[arg(long, value_enum, default_value_t = Algorithm::EcdsaP256)]
    algorithm: Algorithm,
    /// Put a key that is there aside
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Show {
    /// Certificate files, or names that were issued here; none: a list of all
    #[arg(value_name = "FILE|NAME")]
    certificates: Vec<String>,
}

/// `default_dir` is where the authority is without `--dir`.
pub fn run(pki: Pki, default_dir: &Path) -> Result<()> {
    let dir = pki.dir.unwrap_or_else(|| default_dir.to_owned());
    match pki.command {
        Command::Init(a) => init(&dir, &a),
        Command::Issue(IssueCommand::Agent(a)) => {
            let names = if a.san.is_empty() { vec![a.name.as_str().to_owned()] } else { a.san };
            let mut ca = Authority::open(&dir)?;
            let issued = ca.issue(&a.name, &Purpose::Agent { names }, a.algorithm, a.days, a.force)?;
            say_agent(&ca, &issued)
        }
        Command::Issue(IssueCommand::Client(a)) => {
            let mut ca = Authority::open(&dir)?;
            let issued = ca.issue(&a.name, &Purpose::Client { role: a.role }, a.algorithm, a.days, a.force)?;
            say_client(&ca, &issued, a.role)
        }
        Command::Revoke(a) => revoke(&dir, &a),
        Command::Crl(a) => {
            let path = Authority::open(&dir)?.sign_crl(a.days)?;
            print(format!("{}\n", path.display()))?;
            eprintln!("Copy it to every agent; berthd reads it again by itself.");
            Ok(())
        }
        Command::ReleaseKey(a) => {
            let (key, public) = release::create(&dir, a.algorithm, a.force)?;
            print(format!("{}\n", public.display()))?;
            eprintln!("Keep {} secret: who has it can replace every agent.", key.display());
            eprintln!("Copy {} to every agent, and name it in its configuration:", public.display());
            eprintln!("  [upgrade]\n  public_key = \"/etc/berth/pki/release.pub\"");
            eprintln!("Next:\n  berthctl agent sign berthd --key {}", key.display());
            Ok(())
        }
        Command::Show(a) => show(&dir, &a),
    }
}

fn init(dir: &Path, a: &Init) -> Result<()> {
    let ca = Authority::create(dir, &a.name, a.algorithm, a.days, a.force)?;
    print(format!("{}\n", ca.path("ca.pem").display()))?;
    eprintln!("Made the authority {:?} in {}; it lasts {} days.", a.name, dir.display(), a.days);
    eprintln!("Keep {} secret and keep a copy of it offline.", ca.path("ca.key").display());
    eprintln!("Next:");
    eprintln!("  berthctl pki issue agent HOST --san HOST.example.com");
    eprintln!("  berthctl pki issue client NAME --role admin");
    Ok(())
}

fn say_agent(ca: &Authority, issued: &Issued) -> Result<()> {
    print(format!("{}\n", issued.certificate.display()))?;
    eprintln!(
        "Issued agent {} for {}, serial {}, until {}.",
        issued.entry.name,
        issued.entry.san.join(", "),
        issued.entry.serial,
        issued.entry.not_after
    );
    eprintln!("Copy to the host, as root, into /etc/berth/pki:");
    eprintln!("  {}  (as agent.pem)", issued.certificate.display());
    eprintln!("  {}  (as agent.key, mode 0600)", issued.key.display());
    eprintln!("  {}", ca.path("ca.pem").display());
    eprintln!("  {}", ca.path("crl.pem").display());
    Ok(())
}

fn say_client(ca: &Authority, issued: &Issued, role: Role) -> Result<()> {
    print(format!("{}\n", issued.certificate.display()))?;
    eprintln!(
        "Issued client {} as {role}, serial {}, until {}.",
        issued.entry.name, issued.entry.serial, issued.entry.not_after
    );
    eprintln!("On the caller's machine:");
    eprintln!(
        "  berthctl context create HOST --endpoint https://HOST:7443 --ca {} --cert {} --key {}",
        ca.path("ca.pem").display(),
        issued.certificate.display(),
        issued.key.display()
    );
    Ok(())
}

fn revoke(dir: &Path, a: &Revoke) -> Result<()> {
    let mut ca = Authority::open(dir)?;
    // All names are looked up first: a typing error revokes nothing.
    for name in &a.certificates {
        ca.index().find(name)?;
    }
    for name in &a.certificates {
        let revoked = ca.revoke(name, a.crl_days)?;
        if revoked.is_empty() {
            eprintln!("{name} was revoked before.");
        }
        for entry in revoked {
            print(format!("{}\n", entry.serial))?;
            eprintln!("Revoked {} {}, serial {}.", entry.kind, entry.name, entry.serial);
        }
    }
    eprintln!("Copy {} to every agent; berthd reads it again by itself.", ca.path("crl.pem").display());
    Ok(())
}

fn show(dir: &Path, a: &Show) -> Result<()> {
    let now = jiff::Timestamp::now();
    if a.certificates.is_empty() {
        let ca = Authority::open(dir)?;
        let mut table = crate::output::Columns::new(&["NAME", "KIND", "ROLE", "SERIAL", "NOT AFTER", "DAYS", "STATUS"]);
        for e in &ca.index().certificates {
            let days = (e.not_after.as_second() - now.as_second()).div_euclid(86_400);
            let status = match e.revoked {
                Some(_) => "revoked",
                None if now > e.not_after => "expired",
                None => "valid",
            };
            table.row(vec![
                e.name.clone(),
                e.kind.clone(),
                e.role.clone().unwrap_or_else(|| "-".into()),
                e.serial.clone(),
                e.not_after.to_string(),
                days.to_string(),
                status.into(),
            ]);
        }
        return print(table.render());
    }
    for (i, what) in a.certificates.iter().enumerate() {
        let issued = ["clients", "agents"].iter().map(|f| dir.join(f).join(format!("{what}.pem")));
        let path = [PathBuf::from(what)].into_iter().chain(issued).find(|p| p.is_file()).ok_or_else(|| {
            Error::new(format!("{what:?} is neither a file nor a name in {}", dir.display()))
                .hint("berthctl pki show lists what was issued")
        })?;
        let cert = Certificate::from_pem(&files::read_text(&path)?, &path.display().to_string())?;
        let gap = if i > 0 { "\n" } else { "" };
        print(format!("{gap}{}", cert.describe(now)))?;
    }
    Ok(())
}
