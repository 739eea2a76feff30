//! Detects JSON-RPC in the bodies of REST requests.
//!
//! A call that reached a node through REST would bypass every method rule. Nodes' parsers accept
//! more than the standard: names in any case (Go), invalid UTF-8, comments, single quotes, UTF-16.
//! So a body is refused unless it cannot be a call for any of them.
//!
//! A call is an object with the member `method`, alone or in arrays. Nodes that deserialize with serde
//! also read an array as a call, by position: `["2.0",1,"admin_peers"]`, in which the version may be
//! written as a variant: `{"2.0":null}`. Objects within objects are data: no node looks for calls there.

use plimsoll_rpc::json::{self, Kind};

use crate::call::message::Body;
use crate::offload;

/// The member that makes an object a call.
const METHOD: &[u8] = b"method";

/// The version of JSON-RPC.
const VERSION: &str = "2.0";

/// The numbers of members that a request has: some of version, id, method and parameters.
const MEMBERS: std::ops::RangeInclusive<usize> = 2..=4;

/// Arrays nested deeper are refused, because each level is searched again. APIs nest few.
const ARRAYS_MAX: usize = 16;

/// Whether a body is JSON-RPC, or might be accepted as JSON-RPC by a node.
pub(crate) async fn is_call(body: &Body<'_>) -> bool {
    match body {
        Body::Long(bytes) if bytes.len() > offload::INLINE_MAX => {
            let bytes = bytes.clone();
            // Refused if it cannot be checked.
            offload::run(move || holds_call(&bytes)).await.unwrap_or(true)
        }
        body => holds_call(body.bytes()),
    }
}

fn holds_call(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let kind = json::kind(bytes);
    if !matches!(kind, Some(Kind::Object | Kind::Array)) {
        return resembles_call(bytes);
    }
    // A lenient parser may read anything into JSON that is not valid.
    if json::validate(bytes).is_err() {
        return true;
    }
    is_call_within(bytes, 0)
}

/// Whether a value within this many arrays is a call, or holds one in further arrays.
fn is_call_within(value: &[u8], arrays: usize) -> bool {
    match json::kind(value) {
        Some(Kind::Object) => has_method(value),
        Some(Kind::Array) => {
            arrays == ARRAYS_MAX
                || is_positional_call(value)
                || json::items(value).flatten().any(|item| is_call_within(item, arrays + 1))
        }
        _ => false,
    }
}

/// Whether an array might be read as a call by position: it contains the version of JSON-RPC, as a text
/// or as a variant, begins with null in its place, or is as long as a request and contains the name of
/// a method.
fn is_positional_call(array: &[u8]) -> bool {
    let (mut length, mut has_name) = (0, false);
    for item in json::items(array).flatten() {
        let names_version = match json::kind(item) {
            Some(Kind::Null) => length == 0,
            Some(Kind::Object) => {
                json::members(item).flatten().any(|member| member.plain() == VERSION.as_bytes())
            }
            _ => json::text(item).is_some_and(|text| {
                has_name |= is_method_name(&text);
                text == VERSION
            }),
        };
        if names_version {
            return true;
        }
        length += 1;
    }
    has_name && MEMBERS.contains(&length)
}

/// Whether a text has the form of a method's name: `eth_call`.
fn is_method_name(text: &str) -> bool {
    text.split_once('_').is_some_and(|(space, name)| {
        let is_plain =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        !space.is_empty() && space.bytes().all(|byte| byte.is_ascii_lowercase()) && is_plain(name)
    })
}

/// Whether a value is an object with a method, in the name of which Go ignores case.
fn has_method(value: &[u8]) -> bool {
    json::members(value).flatten().any(|member| member.plain().eq_ignore_ascii_case(METHOD))
}

/// Whether a body that is neither a JSON object nor an array might be a call for a lenient parser:
/// it contains the name `method`, starts with a byte order mark of UTF-16, or is text in which a
/// comment or a control character precedes the value.
fn resembles_call(bytes: &[u8]) -> bool {
    let is_wide = bytes.starts_with(b"\xfe\xff") || bytes.starts_with(b"\xff\xfe");
    let first = bytes.iter().find(|byte| !byte.is_ascii_control() && **byte != b' ');
    // Binary bodies, such as Beacon's SSZ, may start with any byte.
    let is_covered =
        matches!(first, Some(b'{' | b'[' | b'/' | b'#')) && std::str::from_utf8(bytes).is_ok();
    is_wide || is_covered || names_method(bytes)
}

/// Whether the name `method` occurs, in any case, with any escapes, and in UTF-16.
fn names_method(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut matched = 0;
    while let Some((byte, behind)) = next_letter(rest) {
        rest = behind;
        // The first letter does not occur again in the name.
        matched = match byte {
            byte if byte == METHOD[matched] => matched + 1,
            byte => usize::from(byte == METHOD[0]),
        };
        if matched == METHOD.len() {
            return true;
        }
    }
    false
}

/// The next byte in lower case, with its escape decoded, and what follows; NULs are skipped.
fn next_letter(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let start = bytes.iter().position(|byte| *byte != 0)?;
    let (byte, behind) = (bytes[start], &bytes[start + 1..]);
    if byte != b'\\' {
        return Some((byte.to_ascii_lowercase(), behind));
    }
    // An escape in UTF-16 has NULs between its characters.
    let mut escape = behind.iter().enumerate().filter(|(_, byte)| **byte != 0);
    let digits = match escape.next().map(|(_, byte)| *byte) {
        Some(b'u') => 4,
        Some(b'x') => 2,
        _ => return Some((byte, behind)),
    };
    let (mut code, mut end) = (0, 0);
    for _ in 0..digits {
        let Some((at, digit)) = escape.next() else { return Some((byte, behind)) };
        let Some(digit) = char::from(*digit).to_digit(16) else { return Some((byte, behind)) };
        (code, end) = (code * 16 + digit, at + 1);
    }
    // Other characters match nothing.
    Some((u8::try_from(code).unwrap_or(b'\\').to_ascii_lowercase(), &behind[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    }

    #[test]
    fn calls_are_detected_in_every_form_that_a_node_may_read() {
        let calls: &[&[u8]] = &[
            br#"{"jsonrpc":"2.0","id":1,"method":"admin_peers"}"#,
            br#"{"Method":"admin_peers"}"#,
            br#" [1, {"METHOD":"admin_peers"}]"#,
            br#"[[{"method":"admin_peers"}]]"#,
            br#"[[],[1,[[{"id":1,"method":"admin_peers"}]]]]"#,
            br#"[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]"#,
            // by position
            br#"["2.0",1,"admin_peers",[]]"#,
            br#"[["\u0032.0","admin_peers",[],1]]"#,
            br#"[null,"admin_peers",[],1]"#,
            br#"[{"2.0":null},"anvil_setBalance",["0x1"],1]"#,
            br#"[[{"\u0032.0":null},1,"status"]]"#,
            br#"["1","status",{"2.0":[]},[],[],[]]"#,
            br#"[1,"admin_peers"]"#,
            br#"["jsonrpc",[],"anvil\u005fsetBalance",1]"#,
            br#"{"m\u0065thod":"admin_peers"}"#,
            b"\xef\xbb\xbf{\"method\":\"admin_peers\"}",
            b"\xef\xbb\xbf {\"method\":1}",
            // not JSON, but nodes may read it
            b"{\"a\":\"\xff\",\"method\":\"admin_peers\"}",
            b"{\"a\":\"\x01\",\"method\":\"admin_peers\"}",
            b"[{\"a\":\"\xff\"},{\"method\":\"admin_peers\"}]",
            br#"{/**/"method":"admin_peers"}"#,
            br"{'method':'admin_peers'}",
            br#"{"method":"admin_peers"}{"#,
            br#"{"a":1,}"#,
            // something else in front
            br#"/**/{"method":"admin_peers"}"#,
            br#"/**/{"m\x65thod":"admin_peers"}"#,
            b"//\n{'me\\\nthod':'admin_peers'}",
            b"#\n{'me\\\nthod':'admin_peers'}",
            b"\x00{\"method\":\"admin_peers\"}",
            b"\x0c{\"method\":\"admin_peers\"}",
            b"\x0c{'me\\\nthod':'admin_peers'}",
            b"\xc2\xa0{\"m\\u0065Thod\":\"admin_peers\"}",
            br#""{\"method\":\"admin_peers\"}""#,
            b"mmethod=admin_peers",
        ];
        for call in calls {
            assert!(holds_call(call), "{}", call.escape_ascii());
        }
        for name in ["method", "METHOD", r"m\u0065thod", "é-method"] {
            let text = format!("{{\"{name}\":\"admin_peers\"}}");
            for order in [u16::to_le_bytes, u16::to_be_bytes] {
                assert!(holds_call(&utf16(&text, order)), "{name}");
                assert!(holds_call(&utf16(&format!("\u{feff}{text}"), order)), "{name}");
            }
        }
    }

    #[test]
    fn other_bodies_are_not_calls() {
        let bodies: &[&[u8]] = &[
            b"",
            br#"{"tx_bytes":"CpQB","mode":"BROADCAST_MODE_SYNC"}"#,
            br#"[{"validator_index":"1"}, ["method"], "method", 1, null]"#,
            br#"{"a":{"method":"x"},"methods":1}"#,
            br#"{"a":[{"jsonrpc":"2.0","method":"x"}],"b":["2.0"]}"#,
            br#"[{"a":[{"method":"x"}]}, [1, null, [2.0]]]"#,
            br#"[[[[[[[[[[[[[[[["0x93"]]]]]]]]]]]]]]]]"#,
            br#"[]"#,
            br#"["eth_call"]"#,
            br#"[1,2,3,4,"eth_call"]"#,
            br#"["_a","a_","A_b","a_b_c"]"#,
            b"[\"0x93\"]",
            b"a=1&b=2",
            b"\"text\"",
            // Beacon's SSZ starts with an offset
            b"\x0c\x00\x00\x00{\x01\x02\xff\xfe\x80",
            b"d\x00\x00\x00\xff\xfe\x80\x00m\x00e\x00t",
            b"methmeth\\u006",
        ];
        for body in bodies {
            assert!(!holds_call(body), "{}", body.escape_ascii());
        }
    }
}
