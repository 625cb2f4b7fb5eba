//! The part of Go's templates that people write behind `--format`: fields, pipes, `if`, `range`, `with`, and Docker's functions.
//!
//! `{{.Names}}`, `{{.State.Status}}`, `{{json .}}`, `{{range .Mounts}}{{.Source}}{{end}}`, `{{if .Ports}}…{{else}}…{{end}}`,
//! `{{index .Labels "key"}}`, `{{.ID | printf "%s"}}` is not there; what is not understood is an error that names the position.

use serde_json::Value;
use std::fmt::Write;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Show(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
}

/// Commands whose result is the next one's last argument.
#[derive(Clone, Debug, PartialEq)]
struct Pipe {
    commands: Vec<Vec<Word>>,
    /// Character position in the template, for errors.
    at: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Field(Vec<String>),
    Literal(Value),
    Call(String),
    Group(Pipe),
}

const FUNCTIONS: [&str; 15] = [
    "json", "join", "upper", "lower", "title", "split", "len", "index", "println", "eq", "ne", "not", "and", "or",
    "truncate",
];

/// Blocks in blocks; more is a mistake or an attack on the stack.
const MAX_DEPTH: usize = 32;

impl Template {
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let (nodes, end) = parser.nodes()?;
        match end {
            None => Ok(Template(nodes)),
            Some(word) => Err(format!("template: {{{{{word}}}}} without a beginning before character {}", parser.at)),
        }
    }

    /// The names that stand alone, `{{.Names}}`: the headers of a table.
    pub fn fields(&self) -> Vec<String> {
        let mut found = Vec::new();
        for node in &self.0 {
            if let Node::Show(p) = node
                && let Some(Word::Field(path)) = p.commands[0].iter().find(|w| matches!(w, Word::Field(_)))
            {
                found.push(path.last().cloned().unwrap_or_default());
            }
        }
        found
    }

    /// The text for one value; for the header of a table, give a value whose fields are the headers.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        render(&self.0, value, &mut out)?;
        Ok(out)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn fail<T>(&self, at: usize, why: &str) -> Result<T, String> {
        Err(format!("template: character {}: {why}", self.text[..at].chars().count() + 1))
    }

    /// Nodes up to `end`, `else` or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<&'static str>), String> {
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.text[self.at..].find("{{").map(|i| self.at + i) else {
                push_text(&mut nodes, &self.text[self.at..], false);
                self.at = self.text.len();
                return Ok((nodes, None));
            };
            let mut inner = open + 2;
            let trim_left = self.text[inner..].starts_with("- ");
            push_text(&mut nodes, &self.text[self.at..open], trim_left);
            if trim_left {
                inner += 2;
            }
            let Some(close) = close_of(self.text, inner) else { return self.fail(open, "'{{' is never closed") };
            let mut end = close;
            self.at = close + 2;
            if self.text[inner..end].ends_with(" -") {
                end -= 2;
                let rest = &self.text[self.at..];
                self.at += rest.len() - rest.trim_start().len();
            }
            let body = self.text[inner..end].trim();
            let start = inner + (self.text[inner..end].len() - self.text[inner..end].trim_start().len());
            if body.starts_with("/*") {
                continue;
            }
            let (word, rest) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
            let rest_at = start + body.len() - rest.len();
            match word {
                "end" if rest.is_empty() => return Ok((nodes, Some("end"))),
                "else" if rest.is_empty() => return Ok((nodes, Some("else"))),
                "else" => return self.fail(start, "'else if' is not supported; nest an 'if'"),
                "if" | "range" | "with" => {
                    let pipe = self.pipe(rest, rest_at)?;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return self.fail(start, "too many blocks in blocks");
                    }
                    let (then, end) = self.nodes()?;
                    let (otherwise, end) = if end == Some("else") { self.nodes()? } else { (Vec::new(), end) };
                    self.depth -= 1;
                    if end != Some("end") {
                        return self.fail(start, &format!("'{word}' without '{{{{end}}}}'"));
                    }
                    nodes.push(match word {
                        "if" => Node::If(pipe, then, otherwise),
                        "range" => Node::Range(pipe, then, otherwise),
                        _ => Node::With(pipe, then, otherwise),
                    });
                }
                _ => nodes.push(Node::Show(self.pipe(body, start)?)),
            }
        }
    }

    fn pipe(&self, text: &str, at: usize) -> Result<Pipe, String> {
        let mut words = Lexer { text, at: 0 };
        let pipe = self.commands(&mut words, at, 0)?;
        Ok(pipe)
    }

    fn commands(&self, lexer: &mut Lexer<'_>, base: usize, depth: usize) -> Result<Pipe, String> {
        if depth > MAX_DEPTH {
            return self.fail(base + lexer.at, "too many parentheses");
        }
        let begin = base + lexer.at;
        let mut commands: Vec<Vec<Word>> = vec![Vec::new()];
        loop {
            let at = base + lexer.at;
            let token = match lexer.next() {
                Ok(t) => t,
                Err(why) => return self.fail(at, &why),
            };
            let word = match token {
                None if depth == 0 => break,
                None => return self.fail(at, "')' is missing"),
                Some(Token::Close) if depth > 0 => break,
                Some(Token::Close) => return self.fail(at, "')' without '('"),
                Some(Token::Open) => Word::Group(self.commands(lexer, base, depth + 1)?),
                Some(Token::Pipe) => {
                    if commands.last().is_none_or(Vec::is_empty) {
                        return self.fail(at, "nothing before '|'");
                    }
                    commands.push(Vec::new());
                    continue;
                }
                Some(Token::Word(word)) => word,
            };
            if let Word::Call(name) = &word
                && !FUNCTIONS.contains(&name.as_str())
            {
                return self.fail(at, &format!("unknown function {name:?}; there are {}", FUNCTIONS.join(", ")));
            }
            if let Some(last) = commands.last_mut() {
                last.push(word);
            }
        }
        for (i, command) in commands.iter().enumerate() {
            let call = matches!(command.first(), Some(Word::Call(_)));
            if command.is_empty() {
                return self.fail(begin, "a value is missing");
            }
            if !call && (i > 0 || command.len() > 1) {
                return self.fail(begin, "only a function takes arguments");
            }
        }
        Ok(Pipe { commands, at: self.text[..begin.min(self.text.len())].chars().count() + 1 })
    }
}

fn push_text(nodes: &mut Vec<Node>, text: &str, trim_end: bool) {
    let text = if trim_end { text.trim_end() } else { text };
    if !text.is_empty() {
        nodes.push(Node::Text(text.to_owned()));
    }
}

/// The `}}` that ends an action; those in strings do not.
fn close_of(text: &str, from: usize) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in text[from..].char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[from + i..].starts_with("}}") => return Some(from + i),
            None => {}
        }
    }
    None
}

enum Token {
    Open,
    Close,
    Pipe,
    Word(Word),
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Result<Option<Token>, String> {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start();
        self.at = self.text.len() - rest.len();
        let Some(c) = rest.chars().next() else { return Ok(None) };
        let word_end = |s: &str| s.find(|c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')')).unwrap_or(s.len());
        let (token, length) = match c {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '|' => (Token::Pipe, 1),
            '`' => {
                let end = rest[1..].find('`').ok_or("'`' is never closed")?;
                (Token::Word(Word::Literal(rest[1..=end].into())), end + 2)
            }
            '"' => {
                let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                let text =
                    stream.next().and_then(Result::ok).ok_or("this string is not closed or has a wrong escape")?;
                (Token::Word(Word::Literal(text.into())), stream.byte_offset())
            }
            '.' => {
                let end = word_end(rest);
                let path: Vec<String> = rest[1..end].split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect();
                if rest[..end].contains("..")
                    || path.iter().any(|p| !p.chars().all(|c| c.is_alphanumeric() || c == '_'))
                {
                    return Err(format!("{:?} is no field", &rest[..end]));
                }
                (Token::Word(Word::Field(path)), end)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end = word_end(rest);
                let number: i64 = rest[..end].parse().map_err(|_| format!("{:?} is no number", &rest[..end]))?;
                (Token::Word(Word::Literal(number.into())), end)
            }
            '$' => return Err("variables are not supported".into()),
            _ => {
                let end = word_end(rest);
                match &rest[..end] {
                    "true" => (Token::Word(Word::Literal(true.into())), end),
                    "false" => (Token::Word(Word::Literal(false.into())), end),
                    name => (Token::Word(Word::Call(name.to_owned())), end),
                }
            }
        };
        self.at += length;
        Ok(Some(token))
    }
}

fn render(nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Show(pipe) => out.push_str(&shown(&eval(pipe, dot)?)),
            Node::If(pipe, then, otherwise) => {
                render(if truth(&eval(pipe, dot)?) { then } else { otherwise }, dot, out)?;
            }
            Node::With(pipe, then, otherwise) => {
                let value = eval(pipe, dot)?;
                if truth(&value) { render(then, &value, out)? } else { render(otherwise, dot, out)? }
            }
            Node::Range(pipe, each, otherwise) => match eval(pipe, dot)? {
                Value::Array(items) if !items.is_empty() => {
                    for item in &items {
                        render(each, item, out)?;
                    }
                }
                Value::Object(map) if !map.is_empty() => {
                    for item in map.values() {
                        render(each, item, out)?;
                    }
                }
                Value::Array(_) | Value::Object(_) | Value::Null => render(otherwise, dot, out)?,
                _ => return Err(format!("template: character {}: range over what is no list", pipe.at)),
            },
        }
    }
    Ok(())
}

fn eval(pipe: &Pipe, dot: &Value) -> Result<Value, String> {
    let mut last: Option<Value> = None;
    for command in &pipe.commands {
        let mut args = Vec::new();
        let rest = if matches!(command[0], Word::Call(_)) { &command[1..] } else { &command[..] };
        for word in rest {
            args.push(match word {
                Word::Field(path) => field(dot, path, pipe.at)?,
                Word::Literal(value) => value.clone(),
                Word::Group(pipe) => eval(pipe, dot)?,
                Word::Call(name) => {
                    return Err(format!("template: character {}: put {name:?} in parentheses", pipe.at));
                }
            });
        }
        args.extend(last.take());
        last = Some(match &command[0] {
            Word::Call(name) => call(name, &args).map_err(|e| format!("template: character {}: {e}", pipe.at))?,
            _ => args.pop().unwrap_or(Value::Null),
        });
    }
    Ok(last.unwrap_or(Value::Null))
}

/// A field that a struct lacks is an error; a key that labels lack is empty.
fn field(dot: &Value, path: &[String], at: usize) -> Result<Value, String> {
    let mut value = dot;
    for name in path {
        value = match value {
            Value::Object(map) => match map.get(name) {
                Some(v) => v,
                None if map.keys().next().is_some_and(|k| k.starts_with(|c: char| c.is_ascii_uppercase())) => {
                    let known: Vec<&str> = map.keys().map(String::as_str).collect();
                    return Err(format!("template: character {at}: no field {name:?}; there are {}", known.join(", ")));
                }
                None => &Value::Null,
            },
            Value::Null => &Value::Null,
            _ => return Err(format!("template: character {at}: {name:?} of what has no fields")),
        };
    }
    Ok(value.clone())
}

fn truth(v: &Value) -> bool {
    match v {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// As Go prints values: lists in brackets, maps as `map[k:v]`.
pub fn shown(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let inner: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", shown(v))).collect();
            format!("map[{}]", inner.join(" "))
        }
        other => other.to_string(),
    }
}

fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    let want = |n: usize| {
        if args.len() == n { Ok(()) } else { Err(format!("{name} takes {n} arguments, not {}", args.len())) }
    };
    let text =
        |i: usize| args[i].as_str().map(str::to_owned).ok_or_else(|| format!("{name}: argument {} is no text", i + 1));
    Ok(match name {
        "json" => {
            want(1)?;
            args[0].to_string().into()
        }
        "upper" => {
            want(1)?;
            text(0)?.to_uppercase().into()
        }
        "lower" => {
            want(1)?;
            text(0)?.to_lowercase().into()
        }
        "title" => {
            want(1)?;
            let t = text(0)?;
            let mut chars = t.chars();
            chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect()).into()
        }
        "split" => {
            want(2)?;
            text(0)?.split(&text(1)?).map(Value::from).collect::<Vec<_>>().into()
        }
        "join" => {
            want(2)?;
            // In a pipe the list comes last.
            let (list, by) = if args[0].is_string() { (&args[1], text(0)?) } else { (&args[0], text(1)?) };
            match list {
                Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(&by).into(),
                Value::Null => "".into(),
                _ => return Err("join: no list".into()),
            }
        }
        "truncate" => {
            want(2)?;
            let n = args[1].as_u64().ok_or("truncate: the length is no number")?;
            text(0)?.chars().take(usize::try_from(n).unwrap_or(usize::MAX)).collect::<String>().into()
        }
        "len" => {
            want(1)?;
            match &args[0] {
                Value::Null => 0,
                Value::String(s) => s.len(),
                Value::Array(a) => a.len(),
                Value::Object(o) => o.len(),
                _ => return Err("len of what has no length".into()),
            }
            .into()
        }
        "index" => {
            let mut value = args.first().cloned().unwrap_or(Value::Null);
            for key in &args[1.min(args.len())..] {
                value = match (&value, key) {
                    (Value::Object(map), Value::String(k)) => map.get(k).cloned().unwrap_or(Value::Null),
                    (Value::Array(a), Value::Number(n)) => {
                        let i = n.as_u64().and_then(|n| usize::try_from(n).ok());
                        i.and_then(|i| a.get(i))
                            .cloned()
                            .ok_or_else(|| format!("index {n} of a list of {}", a.len()))?
                    }
                    (Value::Null, _) => Value::Null,
                    _ => return Err("index: no list and no map".into()),
                };
            }
            value
        }
        "println" => {
            let mut line = String::new();
            for (i, a) in args.iter().enumerate() {
                _ = write!(line, "{}{}", if i > 0 { " " } else { "" }, shown(a));
            }
            (line + "\n").into()
        }
        "eq" => {
            if args.len() < 2 {
                return Err("eq takes at least 2 arguments".into());
            }
            args[1..].contains(&args[0]).into()
        }
        "ne" => {
            want(2)?;
            (args[0] != args[1]).into()
        }
        "not" => {
            want(1)?;
            (!truth(&args[0])).into()
        }
        "and" => args.iter().find(|a| !truth(a)).or(args.last()).cloned().unwrap_or(Value::Null),
        "or" => args.iter().find(|a| truth(a)).or(args.last()).cloned().unwrap_or(Value::Null),
        other => return Err(format!("unknown function {other:?}")),
    })
}

#[cfg(test)]
mod tests {
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
            ("{{$x}}", "template: character 3: variables are not supported"),
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
}
