use super::*;
use clap::CommandFactory;

#[test]
fn the_description_is_sound() {
    Cli::command().debug_assert();
}

/// Every `--help`, in one snapshot a command.
#[test]
fn help_texts() {
    fn walk(command: &mut clap::Command, path: &str) {
        let name = path.replace(' ', "_");
        let help = command.clone().term_width(100).render_long_help().to_string();
        insta::assert_snapshot!(format!("help_{name}"), help);
        let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for name in names {
            if let Some(sub) = command.find_subcommand_mut(&name) {
                walk(sub, &format!("{path} {name}"));
            }
        }
    }
    let mut command = Cli::command();
    command.build();
    walk(&mut command, "berthctl");
}

#[test]
fn what_calls_no_host_shows_no_hosts() {
    let mut command = Cli::command();
    command.build();
    for path in [&["pki"][..], &["pki", "init"], &["context", "ls"], &["completion"], &["man"]] {
        let found = path.iter().fold(&mut command, |c, name| c.find_subcommand_mut(name).expect("a command"));
        let help = found.clone().render_long_help().to_string();
        assert!(!help.contains("--host") && !help.contains("Hosts:"), "{path:?}: {help}");
    }
    let cli = Cli::try_parse_from(["berthctl", "pki", "show", "x", "-H", "a"]).expect("parsed, then refused");
    assert!(run(cli).expect_err("no host is called").message.contains("calls no host"));
}

#[test]
fn a_stop_has_a_grace_and_a_deadline() {
    for flag in ["-t", "--time", "--timeout"] {
        let cli = Cli::try_parse_from(["berthctl", "stop", flag, "3", "--deadline", "5", "x"]).expect("good");
        assert_eq!(cli.hosts.deadline, Some(Duration::from_secs(5)));
    }
}

#[test]
fn hosts_stand_anywhere() {
    let parse = |args: &[&str]| Cli::try_parse_from(["berthctl"].iter().chain(args));
    let cli = parse(&["-H", "a,b", "ps", "-H", "c", "-a"]).expect("good");
    assert!(!cli.hosts.host.is_empty());
    let cli = parse(&["ps", "-g", "web", "--deadline", "500ms", "--parallel", "2"]).expect("good");
    assert_eq!(
        (cli.hosts.group, cli.hosts.deadline, cli.hosts.parallel),
        (vec!["web".into()], Some(Duration::from_millis(500)), 2)
    );
    for bad in [
        &["ps", "--parallel", "0"][..],
        &["ps", "--deadline", "0"],
        &["ps", "--deadline", "soon"],
        &["stop"],
        &["logs", "--since", "yesterday", "x"],
        &["exec", "x"],
        &["run"],
        &["frobnicate"],
    ] {
        parse(bad).expect_err(&bad.join(" "));
    }
}
