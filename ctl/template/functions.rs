//! Docker's functions for templates, and what of Go's values they see.

use serde_json::Value;
use std::fmt::Write;

pub(super) const FUNCTIONS: [&str; 15] = [
    "json", "join", "upper", "lower", "title", "split", "len", "index", "println", "eq", "ne", "not", "and", "or",
    "truncate",
];

pub(super) fn truth(v: &Value) -> bool {
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

/// The function `name`, which is one of [`FUNCTIONS`].
pub(super) fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    let want = |n: usize| {
        if args.len() == n { Ok(()) } else { Err(format!("{name} takes {n} arguments, not {}", args.len())) }
    };
    let text =
        |i: usize| args[i].as_str().map(str::to_owned).ok_or_else(|| format!("{name}: argument {} is no text", i + 1));
    Ok(match name {
        "json" => {
            want(1)?;
            crate::output::json(&args[0]).into()
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
