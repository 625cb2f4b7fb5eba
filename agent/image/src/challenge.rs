//! `WWW-Authenticate` as registries send it (RFC 9110 section 11.6.1; distribution, token authentication).

/// What a registry asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// All challenges of one header value that are understood; others (Negotiate, Digest) are skipped.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((scheme, params, after)) = next_challenge(rest) {
        let get = |name: &str| params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            found.push(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
        }
        rest = after;
    }
    found
}

type Params = Vec<(String, String)>;

/// `scheme key=value, key="quoted \" value", ...` up to the next `scheme `.
fn next_challenge(s: &str) -> Option<(&str, Params, &str)> {
    let s = s.trim_start_matches([' ', '\t', ',']);
    let end = s.find([' ', '\t', ',']).unwrap_or(s.len());
    if end == 0 {
        return None;
    }
    let (scheme, mut rest) = s.split_at(end);
    let mut params = Params::new();
    loop {
        let at = rest.trim_start_matches([' ', '\t', ',']);
        let name_end = at.find(|c: char| !is_token(c)).unwrap_or(at.len());
        let (name, after) = at.split_at(name_end);
        // A word without `=` behind it starts the next challenge.
        let Some(value) = after.trim_start().strip_prefix('=') else { return Some((scheme, params, at)) };
        if name.is_empty() {
            return Some((scheme, params, ""));
        }
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquote(quoted)
        } else {
            let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
            (value[..end].to_owned(), &value[end..])
        };
        params.push((name.to_owned(), value));
        rest = after;
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn unquote(s: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = s.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &s[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:library/nginx:pull\"";
        assert_eq!(
            parse(hub),
            [bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:library/nginx:pull"))]
        );
        // A comma inside a quoted scope, spaces around '=' and no quotes.
        assert_eq!(
            parse("bearer realm = \"https://a/t\" , scope=\"repository:a:pull,push\", error=invalid_token"),
            [bearer("https://a/t", None, Some("repository:a:pull,push"))]
        );
        assert_eq!(parse("Basic realm=\"Registry \\\"x\\\"\""), [Challenge::Basic]);
        assert_eq!(parse("Basic"), [Challenge::Basic]);
        assert_eq!(
            parse("Negotiate, Basic realm=\"a\", Bearer realm=\"https://b\""),
            [Challenge::Basic, bearer("https://b", None, None)]
        );
    }

    #[test]
    fn ends_on_anything() {
        for odd in
            ["", ",,,", "=", "Bearer", "Bearer =", "Bearer realm", "Bearer realm=\"x", "\"", "a=b", "Bearer realm=\"\\"]
        {
            let _ = parse(odd);
        }
        assert_eq!(parse("Bearer service=\"x\""), [], "no realm, no token");
    }
}
