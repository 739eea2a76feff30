//! The table of methods in docs/caching.md.

use std::fmt::Write;
use std::path::Path;

use plimsoll_rpc::method::Method;

use super::table::{self, Row};
use super::{Reason, Rule, Shows};
use crate::protocol::evm::block_param::{BlockParam, Omitted};

const BEGIN: &str =
    "<!-- The table of methods: generated, see crates/gateway/src/cache/class/document.rs -->\n";
const END: &str = "<!-- End of the table of methods -->\n";

/// The table, in Markdown.
pub(super) fn table() -> String {
    let mut text = String::from("| method | block | class |\n|---|---|---|\n");
    for method in Method::all() {
        let (row, param) = (table::row(method), BlockParam::of(method));
        let _ =
            writeln!(text, "| `{}` | {} | {} |", method.name(), block(param), class(row, param));
    }
    text
}

fn block(param: BlockParam) -> String {
    let or = |omitted| match omitted {
        Omitted::Latest => ", or latest",
        Omitted::Other => "",
    };
    match param {
        BlockParam::None => "–".into(),
        BlockParam::Block(position, omitted) => {
            format!("parameter {}{}", position + 1, or(omitted))
        }
        BlockParam::Hash(position) => format!("hash in parameter {}", position + 1),
        BlockParam::Filter(position, omitted) => {
            format!("range or hash in parameter {}{}", position + 1, or(omitted))
        }
        BlockParam::Context(position) => format!("`blockNumber` in parameter {}", position + 1),
    }
}

fn class(row: Row, param: BlockParam) -> &'static str {
    match (row.rule, row.shows) {
        (Rule::Never(Reason::Stateful), _) => "never: a node keeps state for it",
        (Rule::Never(Reason::Sends), _) => "never: it submits or signs a transaction",
        (Rule::Never(Reason::Pending), _) => "never: it depends on pending transactions",
        (Rule::Never(Reason::Node), _) => "never: it describes one node",
        (Rule::Never(_), _) => "never: the call does not show which blocks it is about",
        (Rule::Static, _) => "static",
        (Rule::Head, _) => "young, until the next block",
        (Rule::Block, _) if matches!(param, BlockParam::Hash(_)) => "immutable",
        (Rule::Block, _) => "final or young by the block's number, immutable by its hash",
        (Rule::Transaction, Shows::Nothing | Shows::Raw) => {
            "young: the answer does not show its block"
        }
        (Rule::Transaction, _) => "final or young by the block in the answer",
    }
}

#[test]
fn the_document_has_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/caching.md");
    let document = std::fs::read_to_string(path).expect("docs/caching.md");
    let (_, rest) = document.split_once(BEGIN).expect("the beginning of the table");
    let (written, _) = rest.split_once(END).expect("the end of the table");
    assert!(written == table(), "docs/caching.md has another table than:\n{}", table());
}

#[test]
fn the_document_names_every_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/caching.md");
    let document = std::fs::read_to_string(path).expect("docs/caching.md");
    for reason in Reason::ALL {
        assert!(document.contains(&format!("| `{}` |", reason.name())), "{}", reason.name());
    }
}
