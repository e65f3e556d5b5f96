//! The line that the agent on a backend sends: HAProxy's protocol of `agent-check`. PURE.
//!
//! Words, separated by blanks, tabs or commas, in any case and order: `NN%`, `ready`, `drain`, `maint`, `up`, `down`, `fail`, `failed`,
//! `stopped`; of several of a kind the last counts. A word that begins with `#` begins a reason, which goes on to the end of the line.
//! `maxconn:N` is known and has no effect; other words are ignored. An agent sends what it likes, so nothing here fails or grows with it.

use crate::model::{AgentHealth, AgentMode, Remark};

/// How much of an answer is read. A line must end within it.
pub const LINE_BYTES_MAX: usize = 1024;

/// What a line says. What it says nothing of stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The last of the shares, 0 to 100.
    pub weight_percent: Option<u8>,
    /// The last of the modes.
    pub mode: Option<AgentMode>,
    /// The last of the words for health.
    pub health: Option<AgentHealth>,
    /// The reason, without what a log cannot have.
    pub reason: Option<Remark>,
}

impl Words {
    /// Returns what a line says; `None` if no word of it is known.
    #[must_use]
    pub fn of(line: &[u8]) -> Option<Self> {
        let ends = |byte: &u8| b" \t,".contains(byte);
        let (mut words, mut known, mut rest) = (Self::default(), false, line);
        while !rest.is_empty() {
            if let Some(reason) = rest.strip_prefix(b"#") {
                words.reason = Remark::cleaned(&String::from_utf8_lossy(reason));
                break;
            }
            let end = rest.iter().position(ends).unwrap_or(rest.len());
            known |= words.take(&rest[..end]);
            rest = rest.get(end + 1..).unwrap_or_default();
        }
        known.then_some(words)
    }

    /// Takes a word; reports whether it is known.
    fn take(&mut self, word: &[u8]) -> bool {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let failed = is("failed").then_some(AgentHealth::Fail);
        let (percent, mode) = (percent(word), AgentMode::ALL.into_iter().find(|mode| is(mode.name())));
        let health = AgentHealth::ALL.into_iter().find(|health| is(health.name())).or(failed);
        self.weight_percent = percent.or(self.weight_percent);
        self.mode = mode.or(self.mode);
        self.health = health.or(self.health);
        percent.is_some() || mode.is_some() || health.is_some() || is_maxconn(word)
    }
}

/// Reports whether a word is `maxconn:` with a number.
fn is_maxconn(word: &[u8]) -> bool {
    const NAME: &[u8] = b"maxconn:";
    let name = word.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
    name && word.len() > NAME.len() && word[NAME.len()..].iter().all(u8::is_ascii_digit)
}

/// Reads digits with `%` behind them, however many; more than 100 is 100.
fn percent(word: &[u8]) -> Option<u8> {
    let digits = word.strip_suffix(b"%").filter(|digits| !digits.is_empty())?;
    let number = digits.iter().try_fold(0_u32, |number, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })?;
    u8::try_from(number.min(100)).ok()
}

/// Returns the line at the beginning of what was received; `None` if its end is not there yet.
#[must_use]
pub fn line(received: &[u8]) -> Option<&[u8]> {
    let end = received.iter().position(|byte| b"\r\n".contains(byte))?;
    Some(&received[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> (Option<u8>, Option<&'static str>, Option<&'static str>, Option<String>) {
        let words = Words::of(line.as_bytes()).unwrap_or_default();
        (
            words.weight_percent,
            words.mode.map(AgentMode::name),
            words.health.map(AgentHealth::name),
            words.reason.map(|reason| reason.as_str().to_owned()),
        )
    }

    #[test]
    fn words_are_read_as_haproxy_reads_them() {
        let reason = |text: &str| Some(text.to_owned());
        for (line, words) in [
            ("75%", (Some(75), None, None, None)),
            ("0%", (Some(0), None, None, None)),
            ("up", (None, None, Some("up"), None)),
            ("DOWN", (None, None, Some("down"), None)),
            ("failed", (None, None, Some("fail"), None)),
            ("fail #no database", (None, None, Some("fail"), reason("no database"))),
            ("stopped #by me", (None, None, Some("stopped"), reason("by me"))),
            ("up,#by me", (None, None, Some("up"), reason("by me"))),
            ("up stopped#by me drain", (None, Some("drain"), Some("up"), None)),
            ("up,50%\tready", (Some(50), Some("ready"), Some("up"), None)),
            (" , maint,,\t drain 30% 40% down up", (Some(40), Some("drain"), Some("up"), None)),
            ("maxconn:30 weight 20% 0", (Some(20), None, None, None)),
            ("50% # up, drain # 10%", (Some(50), None, None, reason("up, drain # 10%"))),
            ("up #", (None, None, Some("up"), None)),
        ] {
            assert_eq!(read(line), words, "{line:?}");
        }
    }

    #[test]
    fn what_is_no_word_is_ignored() {
        for line in [
            "",
            " ",
            "#down",
            "-5%",
            "+5%",
            "%",
            "5.5%",
            "50 %",
            "50%%",
            "0x10%",
            "50",
            "\u{0664}%",
            "downs",
            "up\0",
            "stopped#by me",
            "50%#",
            "maxconn:",
            "maxconn:a",
            "maxconn",
            "HTTP/1.1 400 Bad Request",
            "SSH-2.0-OpenSSH_9.2",
        ] {
            assert_eq!(Words::of(line.as_bytes()), None, "{line:?}");
        }
        for line in ["maxconn:30", "MAXCONN:0 and more", "maxconn:30 #why"] {
            let words = Words::of(line.as_bytes()).unwrap();
            assert_eq!(Words { reason: None, ..words }, Words::default(), "an answer without a change");
        }
        for line in
            ["1000%", "99999999999999%", "0000000000000000000000100%", "50% 18446744073709551616% -5%"]
        {
            assert_eq!(read(line).0, Some(100), "{line:?}");
        }
        assert_eq!(read("\0 50% \0"), (Some(50), None, None, None));
        let reason = read("down #a\u{1b}[31mb\0c\u{202e}d\u{ff}").3.unwrap();
        assert_eq!(reason, "a [31mb c d\u{ff}");
        assert!(Words::of(b"down #\xff\xfe").unwrap().health.is_some());
        assert_eq!(
            read(&format!("down #{}", "x".repeat(LINE_BYTES_MAX))).3.unwrap().len(),
            Remark::BYTES_MAX
        );
    }

    #[test]
    fn a_line_ends_with_the_first_end_of_a_line() {
        assert_eq!(line(b"up"), None);
        assert_eq!(line(b""), None);
        for received in [&b"up\n"[..], b"up\r\n", b"up\rdown\n", b"up\n\0\xff"] {
            assert_eq!(line(received), Some(&b"up"[..]));
        }
        assert_eq!(line(b"\nup\n"), Some(&b""[..]));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_error(received in prop::collection::vec(any::<u8>(), 0..2 * LINE_BYTES_MAX)) {
            let found = Words::of(line(&received).unwrap_or(&received));
            let reason = found.and_then(|words| words.reason);
            prop_assert!(reason.is_none_or(|reason| Remark::new(reason.as_str()).is_some()));
        }
    }
}
