//! Signals by name and by number (signal(7); the numbers of x86, arm and most others).

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

pub(crate) const SIGKILL: i32 = 9;
/// As glibc counts: the kernel's 32 and 33 belong to its threads.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `SIGTERM`, `term` or `15`; `RTMIN+2`, `RTMAX-1`. `None`: no signal.
pub(crate) fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: i32, offset: &str, sign: i32| {
        let offset = if offset.is_empty() { 0 } else { offset[1..].parse::<u8>().ok()?.into() };
        let number = base + sign * offset;
        (RTMIN..=RTMAX).contains(&number).then_some(number)
    };
    if let Some(offset) = name.strip_prefix("RTMIN").filter(|o| o.is_empty() || o.starts_with('+')) {
        return real_time(RTMIN, offset, 1);
    }
    if let Some(offset) = name.strip_prefix("RTMAX").filter(|o| o.is_empty() || o.starts_with('-')) {
        return real_time(RTMAX, offset, -1);
    }
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX", Some(64)),
            ("rtmax-1", Some(63)),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("RTMIN+31", None),
            ("RTMINx", None),
            ("RTMIN+", None),
            ("SIG", None),
            ("", None),
            ("NOPE", None),
        ] {
            assert_eq!(parse(text), want, "{text:?}");
        }
    }
}
