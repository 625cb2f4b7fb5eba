//! JSON values as YAML 1.2, block style.

use serde_json::Value;
use std::fmt::Write;

/// The document, with a newline at its end.
pub fn emit(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Array(a) if !a.is_empty() => sequence(a, 0, &mut out),
        Value::Object(o) if !o.is_empty() => mapping(o, 0, &mut out),
        scalar => out = format!("{}\n", scalar_text(scalar)),
    }
    out
}

fn sequence(items: &[Value], indent: usize, out: &mut String) {
    for item in items {
        _ = write!(out, "{:indent$}- ", "");
        match item {
            Value::Object(o) if !o.is_empty() => {
                // The first key stands behind the dash.
                let mut inner = String::new();
                mapping(o, indent + 2, &mut inner);
                out.push_str(&inner[indent + 2..]);
            }
            Value::Array(a) if !a.is_empty() => {
                let mut inner = String::new();
                sequence(a, indent + 2, &mut inner);
                out.push_str(&inner[indent + 2..]);
            }
            scalar => {
                _ = writeln!(out, "{}", scalar_text(scalar));
            }
        }
    }
}

fn mapping(map: &serde_json::Map<String, Value>, indent: usize, out: &mut String) {
    for (key, value) in map {
        _ = write!(out, "{:indent$}{}:", "", string(key));
        match value {
            Value::Object(o) if !o.is_empty() => {
                out.push('\n');
                mapping(o, indent + 2, out);
            }
            Value::Array(a) if !a.is_empty() => {
                out.push('\n');
                sequence(a, indent, out);
            }
            scalar => {
                _ = writeln!(out, " {}", scalar_text(scalar));
            }
        }
    }
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(s) => string(s),
        Value::Array(_) => "[]".into(),
        Value::Object(_) => "{}".into(),
        other => other.to_string(),
    }
}

/// Plain where nobody can take it for something else, else in double quotes: a JSON string is a YAML one.
fn string(s: &str) -> String {
    let plain_char =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' ' | '(' | ')' | '+' | ':' | '@');
    let word = s.to_ascii_lowercase();
    let taken = matches!(word.as_str(), "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n");
    let plain = s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && s.chars().all(plain_char)
        && !s.contains(": ")
        && !s.ends_with([':', ' '])
        && !taken;
    if plain { s.to_owned() } else { crate::output::json(&Value::from(s)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn block_style() {
        let value =
            json!([{"ID": "0x1", "List": ["a", 1, ["b"]], "Map": {"k": null, "yes": "no"}, "None": {}}, "x: y", ""]);
        assert_eq!(
            emit(&value),
            "- ID: \"0x1\"\n  List:\n  - a\n  - 1\n  - - b\n  Map:\n    k: null\n    \"yes\": \"no\"\n  None: {}\n- \"x: y\"\n- \"\"\n"
        );
        assert_eq!(emit(&json!([])), "[]\n");
        assert_eq!(emit(&json!("a\nb")), "\"a\\nb\"\n");
    }
}
