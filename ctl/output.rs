//! How answers are shown: tables without boxes, JSON, YAML, names, templates. Data goes to stdout, talk to stderr.

use crate::error::{Error, Result};
use crate::template::{Template, shown};
use crate::yaml;
use clap::Args;
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::rc::Rc;

/// Spaces between columns, as Docker has them.
const GAP: usize = 3;

/// Writes to stdout. A reader that went away ends the command quietly.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(|e| Error::io("writing to stdout", &e))
}

/// `-o` of commands that show data.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Columns parted by spaces
    Table,
    /// One JSON value; a line each for streams
    Json,
    Yaml,
    /// Only names, a line each
    Name,
}

// The options for the shape of the output. No doc comment: clap would take it for the description of each command that has them.
#[derive(Clone, Debug, Default, Args)]
pub struct Show {
    /// Shape of the output
    #[arg(short, long, value_enum, conflicts_with = "format")]
    pub output: Option<Kind>,
    /// Go template such as '{{.ID}} {{.Names}}'; 'table TEMPLATE' adds a header; 'json': a JSON object a line
    #[arg(long, value_name = "TEMPLATE")]
    pub format: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    Table,
    Json,
    Yaml,
    Name,
    JsonLines,
    Template(Template),
    TableTemplate(Template),
}

impl Show {
    pub fn format(&self) -> Result<Format> {
        let Some(text) = &self.format else {
            return Ok(match self.output {
                None | Some(Kind::Table) => Format::Table,
                Some(Kind::Json) => Format::Json,
                Some(Kind::Yaml) => Format::Yaml,
                Some(Kind::Name) => Format::Name,
            });
        };
        // Shells pass \t as two characters, and Docker takes it so.
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let parse = |t: &str| Template::parse(t).map_err(|e| Error::usage(format!("--format {t:?}: {e}")));
        Ok(match text.as_str() {
            "json" => Format::JsonLines,
            "table" => Format::Table,
            t => match t.strip_prefix("table ") {
                Some(t) => Format::TableTemplate(parse(t)?),
                None => Format::Template(parse(t)?),
            },
        })
    }
}

/// Rows that are shown together.
#[derive(Debug)]
pub struct Columns {
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub fn new(headers: &[&str]) -> Columns {
        Columns { rows: vec![headers.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Every column as wide as its widest cell; no spaces at the ends of lines.
    pub fn render(&self) -> String {
        let mut widths = Vec::new();
        for row in &self.rows {
            widen(&mut widths, row);
        }
        self.rows.iter().map(|row| line(row, &widths)).collect()
    }
}

fn widen(widths: &mut Vec<usize>, row: &[String]) {
    for (i, cell) in row.iter().enumerate() {
        let width = cell.chars().count();
        match widths.get_mut(i) {
            Some(w) => *w = (*w).max(width),
            None => widths.push(width),
        }
    }
}

/// One line of a table.
fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (i, cell) in cells.iter().enumerate() {
        // A cell is one line, whatever a container's name or label holds.
        let cell = printable(cell);
        text.push_str(&cell);
        if i + 1 < cells.len() {
            let width = widths.get(i).copied().unwrap_or(0);
            text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + GAP));
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Control characters from afar would steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same of a text that may have lines and columns.
pub fn steady(c: char) -> char {
    if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }
}

/// A value as JSON, on one line. Whoever shows it on a terminal is not steered by it, what reads it has the same value: JSON itself escapes only the
/// control characters below U+0020.
pub fn json(value: &Value) -> String {
    escaped(&value.to_string())
}

/// A value as JSON, over several lines.
pub fn pretty(value: &Value) -> String {
    escaped(&format!("{value:#}"))
}

/// Outside of strings, JSON's text has only ASCII.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// What a list shows of its rows.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Header and field, in order.
    pub columns: &'static [(&'static str, &'static str)],
    /// The field of `-o name`.
    pub name: &'static str,
}

/// A list that is shown as its parts come, host by host.
#[derive(Debug)]
pub struct Listing {
    columns: Vec<(String, String)>,
    name: &'static str,
    format: Format,
    host_width: Option<usize>,
    widths: Vec<usize>,
    headed: bool,
    rows: Vec<Value>,
}

impl Listing {
    /// `host_width`: characters of the longest host's label, when answers are labelled.
    pub fn new(shape: Shape, format: Format, host_width: Option<usize>) -> Listing {
        let own = |&(h, f): &(&str, &str)| (h.to_owned(), f.to_owned());
        Listing::with(shape.columns.iter().map(own).collect(), shape.name, format, host_width)
    }

    /// With columns that are not known beforehand: header and field, in order.
    pub fn with(
        mut columns: Vec<(String, String)>,
        name: &'static str,
        format: Format,
        host_width: Option<usize>,
    ) -> Listing {
        let mut widths = Vec::new();
        if let Some(width) = host_width {
            columns.insert(0, ("HOST".into(), "Host".into()));
            widths.push(width);
        }
        Listing { columns, name, format, host_width, widths, headed: false, rows: Vec::new() }
    }

    /// Takes the rows of one host, and shows what can be shown already.
    pub fn add(&mut self, host: &str, rows: Vec<Value>) -> Result<()> {
        let rows = rows.into_iter().map(|mut row| {
            if let (Value::Object(map), Some(_)) = (&mut row, self.host_width) {
                map.insert("Host".into(), host.into());
            }
            row
        });
        let rows: Vec<Value> = rows.collect();
        let text = match &self.format {
            Format::Json | Format::Yaml | Format::TableTemplate(_) => {
                self.rows.extend(rows);
                return Ok(());
            }
            Format::Table => self.lines(&rows),
            Format::JsonLines => rows.iter().map(|r| json(r) + "\n").collect(),
            Format::Name => rows.iter().map(|r| self.prefix(host) + &printable(&shown(&r[self.name])) + "\n").collect(),
            Format::Template(t) => {
                let mut text = String::new();
                for row in &rows {
                    text.push_str(&self.prefix(host));
                    text.push_str(&t.render(row).map_err(Error::usage)?);
                    text.push('\n');
                }
                text
            }
        };
        print(text)
    }

    fn prefix(&self, host: &str) -> String {
        self.host_width.map_or(String::new(), |w| format!("{host:<w$} | "))
    }

    fn lines(&mut self, rows: &[Value]) -> String {
        let mut cells: Vec<Vec<String>> = Vec::new();
        if !self.headed {
            cells.push(self.columns.iter().map(|(h, _)| h.clone()).collect());
            self.headed = true;
        }
        cells.extend(rows.iter().map(|r| self.columns.iter().map(|(_, f)| shown(&r[f])).collect()));
        for row in &cells {
            widen(&mut self.widths, row);
        }
        cells.iter().map(|row| line(row, &self.widths)).collect()
    }

    /// Shows what had to wait for the last row.
    pub fn finish(mut self) -> Result<()> {
        match std::mem::replace(&mut self.format, Format::Table) {
            Format::Table if !self.headed => {
                let head = self.lines(&[]);
                print(head)
            }
            Format::Json => print(pretty(&Value::Array(self.rows)) + "\n"),
            Format::Yaml => print(yaml::emit(&Value::Array(self.rows))),
            Format::TableTemplate(t) => print(self.templated(&t)?),
            _ => Ok(()),
        }
    }

    fn templated(&self, t: &Template) -> Result<String> {
        let headers: Map<String, Value> =
            t.fields().into_iter().map(|f| (f.clone(), header(&f, &self.columns).into())).collect();
        let mut columns = Columns { rows: Vec::new() };
        let split = |s: &str| s.split('\t').map(str::to_owned).collect();
        // A template that does more than show fields has no header of its own.
        if let Ok(head) = t.render(&Value::Object(headers)) {
            columns.row(split(&head));
        }
        for row in &self.rows {
            columns.row(split(&t.render(row).map_err(Error::usage)?));
        }
        Ok(columns.render())
    }

    /// The whole table as text, with its header: for a screen that is drawn anew.
    pub fn table(shape: Shape, format: &Format, host_width: Option<usize>, rows: Vec<Value>) -> Result<String> {
        let mut list = Listing::new(shape, Format::Table, host_width);
        match format {
            Format::TableTemplate(t) => {
                list.rows = rows;
                list.templated(t)
            }
            _ => Ok(list.lines(&rows)),
        }
    }
}

/// The header of a field: its column's, else its words in capitals.
fn header(field: &str, columns: &[(String, String)]) -> String {
    if let Some((h, _)) = columns.iter().find(|(_, f)| f == field) {
        return h.clone();
    }
    let mut text = String::new();
    let mut lower = false;
    for c in field.chars() {
        if c.is_uppercase() && lower {
            text.push(' ');
        }
        lower = c.is_lowercase();
        text.extend(c.to_uppercase());
    }
    text
}

/// Where the output of one host goes: through as it is, or line by line with a label.
#[derive(Debug, Clone, Default)]
pub struct Sink {
    label: Option<Rc<str>>,
    /// The line that has not ended yet, of stdout and stderr.
    rests: [Vec<u8>; 2],
}

/// A line longer than this is cut into several: one host cannot fill our memory.
const MAX_LINE: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    Stdout = 0,
    Stderr = 1,
}

impl Sink {
    pub fn new(label: Option<Rc<str>>) -> Sink {
        Sink { label, rests: Default::default() }
    }

    pub fn labelled(&self) -> bool {
        self.label.is_some()
    }

    /// One line of data; what is no terminal has it as it is.
    pub fn line(&self, text: &str) -> Result<()> {
        let text = if crate::term::stdout_is_terminal() { text.chars().map(steady).collect() } else { text.to_owned() };
        print(format!("{}{text}\n", self.label.as_deref().unwrap_or("")))
    }

    /// One line of talk.
    pub fn say(&self, text: &str) {
        anstream::eprintln!("{}{}", self.label.as_deref().unwrap_or(""), printable(text));
    }

    /// Bytes of a stream.
    pub fn write(&mut self, to: To, bytes: &[u8]) -> Result<()> {
        let Some(label) = &self.label else { return raw(to, bytes) };
        let rest = &mut self.rests[to as usize];
        rest.extend_from_slice(bytes);
        let end = match rest.iter().rposition(|&b| b == b'\n') {
            Some(i) => i + 1,
            None if rest.len() > MAX_LINE => rest.len(),
            None => return Ok(()),
        };
        let tail = rest.split_off(end);
        let mut text = Vec::with_capacity(rest.len() + 64);
        for line in rest.split_inclusive(|&b| b == b'\n') {
            text.extend_from_slice(label.as_bytes());
            text.extend_from_slice(line);
        }
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        *rest = tail;
        raw(to, &text)
    }

    /// Shows lines that never ended.
    pub fn finish(&mut self) -> Result<()> {
        for to in [To::Stdout, To::Stderr] {
            if !self.rests[to as usize].is_empty() {
                self.write(to, b"\n")?;
            }
        }
        Ok(())
    }
}

fn raw(to: To, bytes: &[u8]) -> Result<()> {
    match to {
        To::Stdout => print(bytes),
        To::Stderr => io::stderr().lock().write_all(bytes).map_err(|e| Error::io("writing to stderr", &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats() {
        let of = |format: &str| Show { output: None, format: Some(format.into()) }.format();
        assert_eq!(of("json").expect("json"), Format::JsonLines);
        assert!(matches!(of("table {{.ID}}\\t{{.Names}}").expect("a table"), Format::TableTemplate(_)));
        assert!(of("{{.ID").expect_err("not closed").message.starts_with("--format \"{{.ID\": template: character 1"));
        assert_eq!(Show::default().format().expect("the default"), Format::Table);
        assert_eq!(header("RunningFor", &[]), "RUNNING FOR");
        assert_eq!(header("ID", &[]), "ID");
    }

    #[test]
    fn tables_keep_control_characters_out() {
        assert_eq!(line(&["a\x1b[31m".into(), "b\nc".into()], &[3, 3]), "a\u{fffd}[31m   b\u{fffd}c\n");
    }

    #[test]
    fn json_keeps_control_characters_out() {
        let value = json!({"a\u{9b}31m": ["\x1b[2J\u{7f}\u{80}\u{9f}\u{a0}\u{1f980}"]});
        for text in [super::json(&value), pretty(&value), crate::yaml::emit(&value)] {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
            assert!(text.contains("a\\u009b31m") && text.contains("\\u007f\\u0080\\u009f\u{a0}\u{1f980}"), "{text}");
        }
        assert_eq!(serde_json::from_str::<Value>(&super::json(&value)).expect("JSON"), value);
    }

    #[test]
    fn columns_line_up_over_hosts() {
        const SHAPE: Shape = Shape { columns: &[("ID", "ID"), ("NAME", "Name")], name: "Name" };
        let mut list = Listing::new(SHAPE, Format::Table, Some(5));
        let mut row = |host: &str, id: &str| list.lines(&[json!({"Host": host, "ID": id, "Name": "x"})]);
        assert_eq!(row("a", "1"), "HOST    ID   NAME\na       1    x\n");
        assert_eq!(row("web-1", "123"), "web-1   123   x\n");
    }
}
