//! The part of Go's templates that people write behind `--format`: fields, variables, pipes, `if`, `range`, `with`, and Docker's functions.
//!
//! `{{.Names}}`, `{{.State.Status}}`, `{{json .}}`, `{{range .Mounts}}{{.Source}}{{end}}`, `{{if .Ports}}…{{else}}…{{end}}`,
//! `{{index .Labels "key"}}`, `{{(index .IPAM.Config 0).Subnet}}`, `{{range $port, $at := .NetworkSettings.Ports}}…{{end}}`, `{{$.ID}}`.
//! `{{.ID | printf "%s"}}` is not there; what is not understood is an error that names the position.

mod functions;

pub use functions::shown;

use functions::{FUNCTIONS, call, truth};
use serde_json::Value;

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
    /// Variables that are given its value; `range` gives two of them key and value.
    names: Vec<String>,
    /// `:=` makes them, `=` changes those that are there.
    new: bool,
    commands: Vec<Vec<Word>>,
    /// Character position in the template, for errors.
    at: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Field(Vec<String>),
    /// `$name.Field`; the empty name is what the whole template is for.
    Variable(String, Vec<String>),
    Literal(Value),
    Call(String),
    /// `(…).Field`
    Group(Pipe, Vec<String>),
}

/// Blocks in blocks; more is a mistake or an attack on the stack.
const MAX_DEPTH: usize = 32;

impl Template {
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parser = Parser { text, at: 0, depth: 0, names: Vec::new() };
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
        self.render_for(value, crate::term::stdout_is_terminal())
    }

    /// On a terminal, no value's control characters steer it; what else reads the text has them as they are.
    pub fn render_for(&self, value: &Value, terminal: bool) -> Result<String, String> {
        let mut out = String::new();
        Scope { root: value, variables: Vec::new(), terminal }.render(&self.0, value, &mut out)?;
        Ok(out)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// Variables that are there at this point.
    names: Vec<String>,
}

impl Parser<'_> {
    fn fail<T>(&self, at: usize, why: &str) -> Result<T, String> {
        Err(format!("template: character {}: {why}", self.text[..at].chars().count() + 1))
    }

    /// Nodes up to `end`, `else` or the end of the text. Variables that they make go with them.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<&'static str>), String> {
        let known = self.names.len();
        let nodes = self.block();
        self.names.truncate(known);
        nodes
    }

    fn block(&mut self) -> Result<(Vec<Node>, Option<&'static str>), String> {
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
                    let known = self.names.len();
                    let pipe = self.pipe(rest, rest_at, if word == "range" { 2 } else { 1 })?;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return self.fail(start, "too many blocks in blocks");
                    }
                    let (then, end) = self.nodes()?;
                    let (otherwise, end) = if end == Some("else") { self.nodes()? } else { (Vec::new(), end) };
                    self.depth -= 1;
                    self.names.truncate(known);
                    if end != Some("end") {
                        return self.fail(start, &format!("'{word}' without '{{{{end}}}}'"));
                    }
                    nodes.push(match word {
                        "if" => Node::If(pipe, then, otherwise),
                        "range" => Node::Range(pipe, then, otherwise),
                        _ => Node::With(pipe, then, otherwise),
                    });
                }
                _ => nodes.push(Node::Show(self.pipe(body, start, 1)?)),
            }
        }
    }

    /// A pipe, with `$name :=` before it: of at most so many names.
    fn pipe(&mut self, text: &str, at: usize, most: usize) -> Result<Pipe, String> {
        let mut words = Lexer { text, at: 0 };
        let (names, new) = words.given().unwrap_or_default();
        if names.len() > most {
            return self.fail(at, "only 'range' gives two variables their values");
        }
        if let Some(name) = names.iter().find(|name| name.is_empty() || !new && !self.names.contains(name)) {
            return self.fail(at, &format!("there is no variable ${name} to change; ':=' makes one"));
        }
        let pipe = self.commands(&mut words, at, 0)?;
        if new {
            self.names.extend(names.iter().cloned());
        }
        Ok(Pipe { names, new, ..pipe })
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
                Some(Token::Open) => {
                    let group = self.commands(lexer, base, depth + 1)?;
                    match lexer.path() {
                        Ok(path) => Word::Group(group, path),
                        Err(why) => return self.fail(base + lexer.at, &why),
                    }
                }
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
            if let Word::Variable(name, _) = &word
                && !name.is_empty()
                && !self.names.contains(name)
            {
                return self.fail(at, &format!("there is no variable ${name}; ${name} := … makes one"));
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
        Ok(Pipe {
            names: Vec::new(),
            new: false,
            commands,
            at: self.text[..begin.min(self.text.len())].chars().count() + 1,
        })
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

fn word_end(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '|' | '(' | ')')).unwrap_or(text.len())
}

/// Names behind dots: `.State.Status`, and nothing for `.`.
fn path_of(text: &str) -> Result<Vec<String>, String> {
    let path: Vec<String> = text.split('.').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    if text.contains("..") || path.iter().any(|p| !p.chars().all(|c| c.is_alphanumeric() || c == '_')) {
        return Err(format!("{text:?} is no field"));
    }
    Ok(path)
}

impl Lexer<'_> {
    /// `$a :=`, `$a =` or `$a, $b :=`: the names, and whether they are new. `None`: the pipe begins with something else.
    fn given(&mut self) -> Option<(Vec<String>, bool)> {
        let (mut names, mut rest) = (Vec::new(), self.text);
        loop {
            rest = rest.trim_start().strip_prefix('$')?;
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            names.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
            match rest.strip_prefix(',') {
                Some(next) => rest = next,
                None => break,
            }
        }
        let new = rest.strip_prefix(":=");
        let after = new.or_else(|| rest.strip_prefix('='))?;
        self.at = self.text.len() - after.len();
        Some((names, new.is_some()))
    }

    /// Fields right behind a parenthesis.
    fn path(&mut self) -> Result<Vec<String>, String> {
        let rest = &self.text[self.at..];
        if !rest.starts_with('.') {
            return Ok(Vec::new());
        }
        let end = word_end(rest);
        let path = path_of(&rest[..end])?;
        self.at += end;
        Ok(path)
    }

    fn next(&mut self) -> Result<Option<Token>, String> {
        let rest = &self.text[self.at..];
        let rest = rest.trim_start();
        self.at = self.text.len() - rest.len();
        let Some(c) = rest.chars().next() else { return Ok(None) };
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
                let path = path_of(&rest[..end])?;
                (Token::Word(Word::Field(path)), end)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end = word_end(rest);
                let number: i64 = rest[..end].parse().map_err(|_| format!("{:?} is no number", &rest[..end]))?;
                (Token::Word(Word::Literal(number.into())), end)
            }
            '$' => {
                let end = word_end(rest);
                let name = rest[1..end].split('.').next().unwrap_or_default();
                if !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
                    return Err(format!("{:?} is no variable", &rest[..end]));
                }
                let path = path_of(&rest[1 + name.len()..end])?;
                (Token::Word(Word::Variable(name.to_owned(), path)), end)
            }
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

/// What a part of the template sees beside its dot.
struct Scope<'v> {
    root: &'v Value,
    /// The last one of a name counts.
    variables: Vec<(String, Value)>,
    /// Its text is shown on a terminal.
    terminal: bool,
}

impl Scope<'_> {
    /// Variables that the nodes make go with them.
    fn render(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
        let known = self.variables.len();
        for node in nodes {
            let before = self.variables.len();
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Show(pipe) => {
                    let value = self.eval(pipe, dot)?;
                    match pipe.names.is_empty() {
                        true if self.terminal => out.extend(shown(&value).chars().map(crate::output::steady)),
                        true => out.push_str(&shown(&value)),
                        false => self.give(pipe, &value),
                    }
                    continue;
                }
                Node::If(pipe, then, otherwise) => {
                    let value = self.eval(pipe, dot)?;
                    self.give(pipe, &value);
                    self.render(if truth(&value) { then } else { otherwise }, dot, out)?;
                }
                Node::With(pipe, then, otherwise) => {
                    let value = self.eval(pipe, dot)?;
                    self.give(pipe, &value);
                    match truth(&value) {
                        true => self.render(then, &value, out)?,
                        false => self.render(otherwise, dot, out)?,
                    }
                }
                Node::Range(pipe, each, otherwise) => self.range(pipe, (each, otherwise), dot, out)?,
            }
            self.variables.truncate(before);
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn range(
        &mut self,
        pipe: &Pipe,
        (each, otherwise): (&[Node], &[Node]),
        dot: &Value,
        out: &mut String,
    ) -> Result<(), String> {
        let items: Vec<(Value, Value)> = match self.eval(pipe, dot)? {
            Value::Array(items) => items.into_iter().enumerate().map(|(n, item)| (n.into(), item)).collect(),
            Value::Object(map) => map.into_iter().map(|(key, item)| (key.into(), item)).collect(),
            Value::Null => Vec::new(),
            _ => return Err(format!("template: character {}: range over what is no list", pipe.at)),
        };
        if items.is_empty() {
            return self.render(otherwise, dot, out);
        }
        for (key, item) in items {
            let before = self.variables.len();
            match pipe.names.as_slice() {
                [] => {}
                [value] => self.set(value, pipe.new, &item),
                [of_key, value, ..] => {
                    self.set(of_key, pipe.new, &key);
                    self.set(value, pipe.new, &item);
                }
            }
            self.render(each, &item, out)?;
            self.variables.truncate(before);
        }
        Ok(())
    }

    fn give(&mut self, pipe: &Pipe, value: &Value) {
        pipe.names.iter().for_each(|name| self.set(name, pipe.new, value));
    }

    fn set(&mut self, name: &str, new: bool, value: &Value) {
        match self.variables.iter_mut().rev().find(|(known, _)| !new && known == name) {
            Some((_, old)) => *old = value.clone(),
            None => self.variables.push((name.to_owned(), value.clone())),
        }
    }

    fn variable(&self, name: &str) -> &Value {
        let found = self.variables.iter().rev().find(|(known, _)| known == name);
        // The parser has seen that the others are there.
        found.map_or(self.root, |(_, value)| value)
    }

    fn eval(&self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last: Option<Value> = None;
        for command in &pipe.commands {
            let mut args = Vec::new();
            let rest = if matches!(command[0], Word::Call(_)) { &command[1..] } else { &command[..] };
            for word in rest {
                args.push(match word {
                    Word::Field(path) => field(dot, path, pipe.at)?,
                    Word::Variable(name, path) => field(self.variable(name), path, pipe.at)?,
                    Word::Literal(value) => value.clone(),
                    Word::Group(group, path) => field(&self.eval(group, dot)?, path, pipe.at)?,
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

#[cfg(test)]
mod tests;
