//! What people write, and what they are told.

use super::*;
use serde_json::json;

#[test]
fn renders_as_dockers_users_expect() {
    let v = json!({"ID": "abc", "Names": "web", "N": 3, "State": {"Status": "running", "OOM": false},
        "Ports": ["80/tcp", "443/tcp"], "Labels": {"a.b/c": "x"}, "Empty": []});
    for (template, want) in [
        ("plain", "plain"),
        ("{{.ID}}\t{{.Names}}", "abc\tweb"),
        ("{{ .State.Status }}", "running"),
        ("{{json .State}}", r#"{"OOM":false,"Status":"running"}"#),
        ("{{.Names | upper}}-{{upper .Names}}", "WEB-WEB"),
        ("{{range .Ports}}<{{.}}>{{end}}", "<80/tcp><443/tcp>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .State.OOM}}oom{{else}}fine{{end}}", "fine"),
        ("{{if eq .State.Status \"running\"}}up{{end}}", "up"),
        ("{{if and .ID (not .State.OOM)}}ok{{end}}", "ok"),
        ("{{join .Ports \", \"}}", "80/tcp, 443/tcp"),
        ("{{index .Labels \"a.b/c\"}}|{{index .Ports 1}}", "x|443/tcp"),
        ("{{len .Ports}} {{.N}} {{.Ports}} {{.Labels}}", "2 3 [80/tcp 443/tcp] map[a.b/c:x]"),
        ("a {{- .ID -}} b", "aabcb"),
        ("{{with .State}}{{.Status}}{{end}}", "running"),
        ("{{\"}}\"}}{{`\\`}}", "}}\\"),
        ("{{/* nothing */}}", ""),
    ] {
        let got = Template::parse(template).and_then(|t| t.render(&v));
        assert_eq!(got.as_deref(), Ok(want), "{template}");
    }
}

#[test]
fn templates_of_dockers_documentation() {
    let v = json!({"ID": "abc", "State": {"Status": "running"}, "IPAM": {"Config": [{"Subnet": "10.1.0.0/16"}]},
        "Names": ["web", "www"], "Nothing": [], "NetworkSettings": {"Ports": {
            "443/tcp": [{"HostIp": "::1", "HostPort": "8443"}], "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}}});
    for (template, want) in [
        (r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#, "8080"),
        ("{{(index .IPAM.Config 0).Subnet}}", "10.1.0.0/16"),
        ("{{(.State).Status}} {{(.).State.Status | upper}}", "running RUNNING"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}} {{end}}",
            " 443/tcp -> 8443  80/tcp -> 8080 ",
        ),
        ("{{range $n,$name:=.Names}}{{$n}}={{$name}}={{.}} {{else}}none{{end}}", "0=web=web 1=www=www "),
        ("{{range $name := .Names}}{{$.ID}}/{{$name}} {{end}}", "abc/web abc/www "),
        ("{{range $name := .Nothing}}{{$name}}{{else}}none{{end}}", "none"),
        ("{{$s := .State}}{{$s.Status}}{{with .IPAM}} {{$s.Status}} {{$.ID}}{{end}}", "running running abc"),
        ("{{if $s := .State.Status}}{{$s}}{{end}}{{with $s := .ID}}<{{$s}}>{{end}}", "running<abc>"),
        ("{{$x := 1}}{{range .Names}}{{$x}}{{$x = .}}{{$y := .}}{{$y}} {{end}}{{$x}}", "1web webwww www"),
        ("{{$x := 1}}{{range .Names}}{{$x := .}}{{$x}}{{end}}{{$x}}", "webwww1"),
        ("{{with .State}}{{json $.Names}}{{end}}", r#"["web","www"]"#),
    ] {
        let got = Template::parse(template).and_then(|t| t.render(&v));
        assert_eq!(got.as_deref(), Ok(want), "{template}");
    }
}

#[test]
fn says_where_it_is_wrong() {
    let v = json!({"ID": "abc"});
    for (template, want) in [
        ("{{.ID", "template: character 1: '{{' is never closed"),
        ("ä{{foo .ID}}", "template: character 4: unknown function \"foo\"; there are json"),
        ("{{.Nope}}", "template: character 3: no field \"Nope\"; there are ID"),
        ("{{if .ID}}x", "template: character 3: 'if' without '{{end}}'"),
        ("x{{end}}", "template: {{end}} without a beginning"),
        ("{{}}", "template: character 3: a value is missing"),
        ("{{.ID .ID}}", "template: character 3: only a function takes arguments"),
        ("{{$x}}", "template: character 3: there is no variable $x; $x := "),
        ("{{$x = 1}}", "template: character 3: there is no variable $x to change"),
        ("{{if $x := .ID}}{{end}}{{$x}}", "template: character 26: there is no variable $x"),
        ("{{$a, $b := .ID}}", "template: character 3: only 'range' gives two variables"),
        ("{{$x := }}", "template: character 8: a value is missing"),
        ("{{$.Nope}}", "template: character 3: no field \"Nope\"; there are ID"),
        ("{{$-x}}", "\"$-x\" is no variable"),
        ("{{(.ID).Nope}}", "\"Nope\" of what has no fields"),
        ("{{(.ID)..x}}", "\"..x\" is no field"),
        ("{{(.ID}}", "')' is missing"),
        ("{{join .ID}}", "join takes 2 arguments, not 1"),
        ("{{range .ID}}{{end}}", "range over what is no list"),
    ] {
        let got = Template::parse(template).and_then(|t| t.render(&v)).expect_err(template);
        assert!(got.contains(want), "{template}: {got}");
    }
    assert!(Template::parse(&"{{if .ID}}".repeat(5000)).is_err(), "bounded depth");
    assert!(Template::parse(&format!("{{{{{}}}}}", "(".repeat(5000))).is_err(), "bounded depth");
}

#[test]
fn values_do_not_steer_a_terminal() {
    let v = json!({"Log": [{"Output": "a\x1b[2J\u{9b}31m\r\x07b\n\tc"}]});
    let t =
        Template::parse("\x1b[1m{{(index .Log 0).Output}}{{range .Log}}{{println .Output}}{{end}}").expect("parsed");
    let shown = t.render_for(&v, true).expect("rendered");
    let one = "a\u{fffd}[2J\u{fffd}31m\u{fffd}\u{fffd}b\n\tc";
    assert_eq!(shown, format!("\x1b[1m{one}{one}\n"), "what the user writes is as it is");
    let raw = "a\x1b[2J\u{9b}31m\r\x07b\n\tc";
    assert_eq!(t.render_for(&v, false).expect("rendered"), format!("\x1b[1m{raw}{raw}\n"), "scripts have the value");
    let t = Template::parse("{{json .}}").expect("parsed");
    assert!(!t.render_for(&v, false).expect("rendered").chars().any(char::is_control));
}
