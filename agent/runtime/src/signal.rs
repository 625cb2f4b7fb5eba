//! Signals by name (signal(7)).

/// x86 and ARM share these numbers, which are the only architectures berth is built for.
const NAMES: [(&str, i32); 35] = [
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
    ("CLD", 17),
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
    ("RTMIN", 34),
];

pub const SIGKILL: i32 = 9;
/// As glibc counts: the kernel's 32 and 33 belong to its threads.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `TERM`, `SIGTERM`, `term` or `15`; `RTMIN+2`, `RTMAX-1`. `None`: no signal.
pub fn parse(text: &str) -> Option<i32> {
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

/// `SIGTERM` for 15; real-time signals as `SIGRTMIN+n`. A number that is no signal stays one.
pub fn name(number: i32) -> String {
    match NAMES.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIG{name}"),
        None if (35..=64).contains(&number) => format!("SIGRTMIN+{}", number - 34),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{name, parse};

    #[test]
    fn every_signal_has_a_name_that_means_it() {
        for number in (1..=31).chain(34..=64) {
            assert_eq!(parse(&name(number)), Some(number), "{}", name(number));
        }
        assert_eq!((name(10), name(37), name(65)), ("SIGUSR1".into(), "SIGRTMIN+3".into(), "65".into()));
    }

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("SIGKILL", 9), ("sigint", 2), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN+31", "RTMIN+", "RTMINx", "RTMAX-x", "RTMIN+2147483647"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
