//! The line that the agent on a backend sends: HAProxy's protocol of `agent-check`. PURE.
//!
//! Words, separated by blanks, tabs or commas, in any case and order: `NN%`, `ready`, `drain`, `maint`, `up`, `down`, `fail`, `failed`,
//! `stopped`; of several of a kind the last counts. `#` begins a reason, which goes on to the end of the line. Other words are
//! ignored, such as `maxconn:N`. An agent sends what it likes, so nothing here fails or grows with it.

use crate::model::{AgentHealth, AgentMode, Percent, Remark};

/// How much of an answer is read. A line must end within it.
pub const LINE_BYTES_MAX: usize = 1024;

/// What a line says. What it says nothing of stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// The last of the shares.
    pub weight_percent: Option<Percent>,
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
        let mut parts = line.splitn(2, |byte| *byte == b'#');
        let mut words = Self::default();
        for word in parts.next()?.split(|byte| b" \t,".contains(byte)) {
            words.take(word);
        }
        let said = words != Self::default();
        words.reason = parts.next().and_then(|reason| Remark::cleaned(&String::from_utf8_lossy(reason)));
        said.then_some(words)
    }

    fn take(&mut self, word: &[u8]) {
        if let Some(percent) = percent(word) {
            self.weight_percent = Some(percent);
            return;
        }
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let failed = is("failed").then_some(AgentHealth::Fail);
        self.mode = AgentMode::ALL.into_iter().find(|mode| is(mode.name())).or(self.mode);
        self.health =
            AgentHealth::ALL.into_iter().find(|health| is(health.name())).or(failed).or(self.health);
    }
}

/// Reads digits with `%` behind them, however many; more than 100 is 100.
fn percent(word: &[u8]) -> Option<Percent> {
    let digits = word.strip_suffix(b"%").filter(|digits| !digits.is_empty())?;
    let number = digits.iter().try_fold(0_u32, |number, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })?;
    Some(Percent::nearest(number))
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
            words.weight_percent.map(Percent::get),
            words.mode.map(AgentMode::name),
            words.health.map(AgentHealth::name),
            words.reason.map(|reason| reason.as_str().to_owned()),
        )
    }

    #[test]
    fn words_are_read_as_haproxy_reads_them() {
        let reason = |text: &str| Some(text.to_owned());
        for (line, words) in [
            ("75%", (Some(80), None, None, None)),
            ("0%", (Some(0), None, None, None)),
            ("up", (None, None, Some("up"), None)),
            ("DOWN", (None, None, Some("down"), None)),
            ("failed", (None, None, Some("fail"), None)),
            ("fail #no database", (None, None, Some("fail"), reason("no database"))),
            ("stopped#by me", (None, None, Some("stopped"), reason("by me"))),
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
            "maxconn:30",
            "HTTP/1.1 400 Bad Request",
            "SSH-2.0-OpenSSH_9.2",
        ] {
            assert_eq!(Words::of(line.as_bytes()), None, "{line:?}");
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
