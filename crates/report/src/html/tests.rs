//! The page is complete without its script, and nothing in a plan or an answer becomes markup.

use super::*;
use crate::synthetic::{Recording, plan};
use plimsoll_measure::{ErrorClass, Nanos, Note};

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>\"'&\u{202e}";

fn page_of(name: &str) -> String {
    let quoted = serde_json::to_string(name).unwrap();
    let plan = plan(&format!(
        "name = {quoted}\nrate = \"100/s\"\nduration = \"3s\"\n\
         [[target]]\nname = {quoted}\ntags = {{ chain = {quoted} }}\nrequest = \"GET http://a/\"\n\
         [[scrape]]\nname = {quoted}\nurl = \"http://a/metrics\"\n\
         [[objective]]\nthat = \"success >= 99%\"\n"
    ));
    let mut recording = Recording::new(&plan);
    recording.seconds(3, |filled| {
        filled.ok(0, 50, Nanos::from_millis(5));
        filled.failed(0, 50, ErrorClass::Status, Nanos::from_millis(5));
        let text = name.to_string();
        let note =
            Note { class: ErrorClass::Status, target: text.clone(), status: Some(500), text };
        filled.snapshot.note(&[note]);
    });
    let attached = Attachment { name: name.into(), text: format!("# {name}") };
    recording.summary().to_page(&[attached], None)
}

#[test]
fn nothing_from_outside_becomes_markup() {
    let (plain, hostile) = (page_of("plain"), page_of(HOSTILE));
    for tag in ["<script", "</script", "<img", "<svg", "<b>", "<!--", "onerror=alert(1)>"] {
        let count = |page: &str| page.matches(tag).count();
        assert_eq!(count(&plain), count(&hostile), "{tag}");
    }
    assert!(!hostile.contains('\u{202e}'));
    assert!(hostile.contains("&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;"));
}

#[test]
fn the_page_needs_no_network() {
    let page = page_of("plain");
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "<link rel=\"style"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("Content-Security-Policy"));
}

#[test]
fn figures_are_there_without_the_script() {
    let page = page_of("plain");
    for text in [
        "Objective missed",
        "<td class=\"words\">missed</td>",
        "Over time",
        "100.0/s",
        "50 %",
        "<noscript>",
        "id=\"definitions\"",
        "first seen",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn the_verdict_comes_first() {
    let page = page_of("plain");
    let place = |id: &str| page.find(&format!("id=\"{id}\"")).unwrap();
    assert!(place("verdict") < place("overview") && place("overview") < place("charts"));
    assert!(place("charts") < place("tables") && place("tables") < place("plan"));
}
