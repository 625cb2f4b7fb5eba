//! Signals by name (signal(7)).

/// x86 and ARM share these numbers, which are the only architectures berth is built for.
const NAMES: [(&str, i32); 34] = [
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
    ("RTMIN", 34),
];

/// `TERM`, `SIGTERM`, `term` or `15`; `RTMIN+n`, `RTMAX-n` (glibc's RTMIN is 34, RTMAX 64).
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|n| (1..=64).contains(n));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Some(*number);
    }
    let real_time = match name.strip_prefix("RTMIN+") {
        Some(n) => 34 + n.parse::<i32>().ok()?,
        None if name == "RTMAX" => 64,
        None => 64 - name.strip_prefix("RTMAX-")?.parse::<i32>().ok()?,
    };
    Some(real_time).filter(|n| (34..=64).contains(n))
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
        for bad in ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN+31", "RTMAX-x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
