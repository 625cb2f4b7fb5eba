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
fn hosts_stand_anywhere() {
    let parse = |args: &[&str]| Cli::try_parse_from(["berthctl"].iter().chain(args));
    let cli = parse(&["-H", "a,b", "ps", "-H", "c", "-a"]).expect("good");
    assert!(!cli.hosts.host.is_empty());
    let cli = parse(&["ps", "-g", "web", "--timeout", "500ms", "--parallel", "2"]).expect("good");
    assert_eq!(
        (cli.hosts.group, cli.hosts.timeout, cli.hosts.parallel),
        (vec!["web".into()], Some(Duration::from_millis(500)), 2)
    );
    for bad in [
        &["ps", "--parallel", "0"][..],
        &["ps", "--timeout", "0"],
        &["ps", "--timeout", "soon"],
        &["stop"],
        &["logs", "--since", "yesterday", "x"],
        &["exec", "x"],
        &["run"],
        &["frobnicate"],
    ] {
        parse(bad).expect_err(&bad.join(" "));
    }
}
