//! The documents: their links lead somewhere, and their examples work.
//!
//! - Every relative link leads to a file, and to a heading of it.
//! - `docs/README.md` lists every page.
//! - Every `toml` block is a plan, a configuration or a list of faults without mistakes; what a fragment lacks is added.
//! - Every command of the program in a block of commands has flags that exist. It is not run, because many name hosts.
//! - A block with `file=NAME` after its language is written to that file, and one with `run` is run in the folder of the
//!   page's files, against simulated chains behind a gateway.

mod examples;
mod links;

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A document, and its path below the root.
struct Page {
    name: String,
    text: String,
}

/// A fenced block.
struct Block {
    /// The document and the number of the first line, for messages.
    place: String,
    /// The first word after the fence.
    language: String,
    /// The other words.
    attributes: Vec<String>,
    text: String,
}

impl Block {
    fn file(&self) -> Option<&str> {
        self.attributes.iter().find_map(|word| word.strip_prefix("file="))
    }

    fn is_run(&self) -> bool {
        self.attributes.iter().any(|word| word == "run")
    }
}

impl Page {
    fn read(name: &str) -> Page {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        Page { name: name.into(), text }
    }

    fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut is_open = false;
        for (number, line) in self.text.lines().enumerate() {
            if let Some(words) = line.trim_start().strip_prefix("```") {
                is_open = !is_open;
                if is_open {
                    let mut words = words.split_whitespace().map(String::from);
                    let place = format!("{}:{}", self.name, number + 1);
                    let language = words.next().unwrap_or_default();
                    let attributes = words.collect();
                    blocks.push(Block { place, language, attributes, text: String::new() });
                }
            } else if is_open {
                blocks.last_mut().unwrap().text += &format!("{line}\n");
            }
        }
        assert!(!is_open, "{}: a block has no end", self.name);
        blocks
    }
}

/// The documents in a folder below the root.
fn pages_in(folder: &str) -> Vec<Page> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    names.iter().map(|name| Page::read(&format!("{folder}/{name}"))).collect()
}

/// The documents for users.
fn guide() -> Vec<Page> {
    let mut pages = pages_in("docs");
    pages.extend(["README.md", "scenarios/README.md", "deploy/README.md"].map(Page::read));
    pages
}
