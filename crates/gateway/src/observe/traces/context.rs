//! W3C Trace Context, level 1: the headers `traceparent` and `tracestate`.
//!
//! A `traceparent` that is not valid is ignored, together with its `tracestate`: the request starts a
//! trace of its own. One of a later version is read as far as this version goes, as the specification
//! requires. `tracestate` belongs to others; it is checked, and passed on unchanged or not at all.

use std::collections::BTreeSet;

/// A position in a trace: a span that work is done for, and whether the trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) is_sampled: bool,
}

/// The flag of a trace that is recorded. The others are unused, and are sent as zero.
const SAMPLED: u8 = 1;

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The name of the header.
pub(crate) const PARENT: &str = "traceparent";

/// The name of the header for what tracing systems pass on to themselves.
pub(crate) const STATE: &str = "tracestate";

/// A header line with a context.
pub(crate) type Line = [u8; PARENT.len() + 2 + LENGTH + 2];

impl Context {
    /// Reads a `traceparent`; `None` if it is not valid.
    pub(crate) fn parse(value: &[u8]) -> Option<Context> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] = [(0, 2), (3, 32), (36, 16), (53, 2)]
            .map(|(from, length)| hex(&known[from..from + length]));
        let version = version.filter(|version| *version != 0xff)?;
        let has_form = [2, 35, 52].iter().all(|at| known[*at] == b'-');
        let ends = rest.is_empty() || version > 0 && rest.starts_with(b"-");
        let trace = trace.filter(|trace| *trace != 0)?;
        let span = span.filter(|span| *span != 0)? as u64;
        let is_sampled = flags? as u8 & SAMPLED != 0;
        (has_form && ends).then_some(Context { trace, span, is_sampled })
    }

    /// The header line.
    pub(crate) fn line(&self) -> Line {
        let mut line = *b"traceparent: 00-00000000000000000000000000000000-0000000000000000-00\r\n";
        let value = &mut line[PARENT.len() + 2..];
        write_hex(self.trace, &mut value[3..35]);
        write_hex(self.span.into(), &mut value[36..52]);
        value[54] = b'0' + u8::from(self.is_sampled) * SAMPLED;
        line
    }

    /// Whether a trace is in the share of all traces that is recorded. By the last 63 bits of its id, as
    /// OpenTelemetry's samplers do, so that processes with the same share record the same traces.
    pub(crate) fn is_in(trace: u128, share: f64) -> bool {
        let bits = (trace as u64) >> 1;
        bits < (share * (1u64 << 63) as f64) as u64
    }
}

/// A number in lower-case hexadecimal digits, which the specification requires.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn write_hex(mut number: u128, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// The most members of a `tracestate`.
const MEMBERS_MAX: usize = 32;

/// The `tracestate` headers of a request, as they are read.
#[derive(Debug, Default)]
pub(crate) struct State {
    joined: Vec<u8>,
    members: usize,
    is_wrong: bool,
}

impl State {
    /// Adds a header; several count as one.
    pub(crate) fn add(&mut self, value: &[u8]) {
        for member in members(value) {
            self.members += 1;
            self.is_wrong |= self.members > MEMBERS_MAX || !is_member(member);
        }
        if !self.is_wrong {
            self.joined.extend_from_slice(if self.joined.is_empty() { b"" } else { b"," });
            self.joined.extend_from_slice(value);
        }
    }

    /// The value to pass on, if there is one and it is valid.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        if self.members == 0 || self.is_wrong {
            return None;
        }
        let keys: BTreeSet<_> =
            members(&self.joined).map(|member| member.split(|byte| *byte == b'=').next()).collect();
        (keys.len() == self.members).then_some(&self.joined)
    }
}

/// The members of a header; empty ones are to be ignored.
fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let members = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty())
}

/// Whether a member has a valid key and a valid value.
fn is_member(member: &[u8]) -> bool {
    let Some(at) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = (&member[..at], &member[at + 1..]);
    let is_lower = |byte: &u8| byte.is_ascii_lowercase();
    let is_in_key =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(byte);
    let is_name = |name: &[u8], most: usize, starts: &dyn Fn(&u8) -> bool| {
        (1..=most).contains(&name.len()) && starts(&name[0]) && name.iter().all(is_in_key)
    };
    let is_key = match key.iter().position(|byte| *byte == b'@') {
        None => is_name(key, 256, &is_lower),
        Some(at) => {
            let is_tenant = |byte: &u8| is_lower(byte) || byte.is_ascii_digit();
            is_name(&key[..at], 241, &is_tenant) && is_name(&key[at + 1..], 14, &is_lower)
        }
    };
    let is_in_value = |byte: &u8| (0x20..=0x7e).contains(byte) && *byte != b'=';
    is_key && (1..=256).contains(&value.len()) && value.iter().all(is_in_value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn parents_are_read_and_written() {
        let parse = |text: &str| Context::parse(text.as_bytes());
        let text = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let context = parse(&text).expect("valid");
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.span, context.is_sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.line(), *format!("traceparent: {text}\r\n").as_bytes());
        let check = |text: &str, is_sampled: Option<bool>| {
            assert_eq!(parse(text).map(|context| context.is_sampled), is_sampled, "{text}");
        };
        let with =
            |version: &str, flags: &str| format!("{version}-{TRACE}-00f067aa0ba902b7-{flags}");
        check(&with("00", "00"), Some(false));
        check(&with("00", "ff"), Some(true));
        check(&with("00", "02"), Some(false));
        // Later versions may go on.
        check(&with("cc", "01"), Some(true));
        check(&with("cc", "01-what-the-future-will-be-like"), Some(true));
        check(&with("cc", "01.what"), None);
        check(&with("00", "01-more"), None);
        check(&with("00", "01-"), None);
        check(&with("ff", "01"), None);
        check(&with("0g", "01"), None);
        check(&with("00", "0G"), None);
        check(&with("00", "1"), None);
        for wrong in [
            "".into(),
            text.to_uppercase(),
            text.replace('-', "_"),
            text.replace(TRACE, &"0".repeat(32)),
            text.replace("00f067aa0ba902b7", &"0".repeat(16)),
            text.replace("4bf9", ".bf9"),
            text.replacen("4bf9", "", 1),
            format!("{text}é"),
        ] {
            check(&wrong, None);
        }
    }

    #[test]
    fn states_are_passed_on_unchanged_or_not_at_all() {
        let check = |headers: &[&str], passed: Option<&str>| {
            let mut state = State::default();
            headers.iter().for_each(|header| state.add(header.as_bytes()));
            assert_eq!(state.value(), passed.map(str::as_bytes), "{headers:?}");
        };
        check(&[], None);
        check(&[""], None);
        check(&["foo=1"], Some("foo=1"));
        check(&["foo=1,bar=2", "rojo=1 , congo=t61"], Some("foo=1,bar=2,rojo=1 , congo=t61"));
        check(&["foo=1,,bar= 2"], Some("foo=1,,bar= 2"));
        check(&["0tenant@system=1"], Some("0tenant@system=1"));
        check(&["foo=1", ""], Some("foo=1,"));
        check(&["", "foo=1\t , \tbar=2"], Some("foo=1\t , \tbar=2"));
        check(&["foo=1,foo=1"], None);
        check(&["foo=1", "bar=1,foo=2"], None);
        let long = format!("{}={}", "k".repeat(256), "v".repeat(256));
        check(&[&long], Some(&long));
        for wrong in [
            "foo",
            "=1",
            "foo=",
            "FOO=1",
            "foo.bar=1",
            "foo =1",
            "foo@=1",
            "@foo=1",
            "foo@@bar=1",
            "0foo=1",
            "foo=bar=baz",
            "foo=\u{7f}",
            "foo=é",
        ] {
            check(&[wrong], None);
            check(&["a=1", wrong], None);
        }
        check(&[&format!("{}=1", "k".repeat(257))], None);
        check(&[&format!("{}@v=1", "t".repeat(242))], None);
        check(&[&format!("t@{}=1", "v".repeat(15))], None);
        check(&[&format!("k={}", "v".repeat(257))], None);
        let members = |count: usize| {
            let members = (0..count).map(|at| format!("k{at}=1"));
            members.collect::<Vec<_>>().join(",")
        };
        check(&[&members(32)], Some(&members(32)));
        check(&[&members(33)], None);
        check(&[&members(20), &members(13)], None);
    }

    #[test]
    fn the_share_of_recorded_traces_is_right() {
        let key = plimsoll_measure::rng::Key::new(1);
        let trace =
            |at: u64| u128::from(key.with(at).bits()) << 64 | u128::from(key.with(!at).bits());
        let recorded =
            |share: f64| (0..20_000).filter(|at| Context::is_in(trace(*at), share)).count();
        assert_eq!((recorded(0.0), recorded(1.0)), (0, 20_000));
        assert!((1_800..2_200).contains(&recorded(0.1)), "{}", recorded(0.1));
        assert!(Context::is_in(u128::MAX, 1.0));
        assert!(!Context::is_in(u128::MAX, 0.999));
        assert!(Context::is_in(1, 1e-9));
    }

    proptest::proptest! {
        #[test]
        fn contexts_that_are_written_read_back(trace in 1u128.., span in 1u64.., is_sampled: bool) {
            let context = Context { trace, span, is_sampled };
            let line = context.line();
            let value = &line[PARENT.len() + 2..line.len() - 2];
            proptest::prop_assert_eq!(Context::parse(value), Some(context));
        }

        #[test]
        fn states_that_are_passed_on_are_valid(headers in proptest::collection::vec("[a-c@=, \\t]{0,20}", 0..4)) {
            let mut state = State::default();
            headers.iter().for_each(|header| state.add(header.as_bytes()));
            if let Some(passed) = state.value() {
                let mut again = State::default();
                again.add(passed);
                proptest::prop_assert_eq!(again.value(), Some(passed));
            }
        }
    }
}
