//! Links between documents.

use super::{Page, guide, pages_in, root};
use std::collections::BTreeSet;
use std::path::Path;

/// A document's text without its blocks and inline code.
fn prose(page: &Page) -> String {
    let mut is_block = false;
    let mut prose = String::new();
    for line in page.text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            prose.extend(line.split('`').step_by(2));
        }
        prose.push('\n');
    }
    prose
}

/// The targets of links, with the line of each.
fn links(page: &Page) -> Vec<(usize, String)> {
    let prose = prose(page);
    let in_line = |(number, line): (usize, &str)| {
        let ends = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        ends.map(|(target, _)| (number + 1, target.to_string())).collect::<Vec<_>>()
    };
    prose.lines().enumerate().flat_map(in_line).collect()
}

/// The anchors of a document's headings, by GitHub's rule.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_block = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        is_block ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if is_block || title.len() == line.len() {
            continue;
        }
        let keeps = |c: &char| c.is_alphanumeric() || "-_ ".contains(*c);
        let lower = title.trim().to_lowercase();
        let anchor: String = lower.chars().filter(keeps).collect();
        let anchor = anchor.replace(' ', "-");
        let further = (1..).map(|number| format!("{anchor}-{number}"));
        let mut candidates = [anchor.clone()].into_iter().chain(further);
        anchors.insert(candidates.find(|anchor| !anchors.contains(anchor)).unwrap());
    }
    anchors
}

/// What is wrong with a link.
fn problem(page: &Page, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = root().join(&page.name);
    let path = if file.is_empty() { path } else { path.parent().unwrap().join(file) };
    if !path.exists() {
        return Some(format!("{file} does not exist"));
    }
    let is_known = anchor.is_empty()
        || path.extension().is_none_or(|end| end != "md")
        || anchors(&std::fs::read_to_string(&path).unwrap()).contains(anchor);
    (!is_known).then(|| format!("{} has no heading #{anchor}", path.display()))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut pages = guide();
    pages.extend(pages_in("docs/design"));
    pages.extend(["ARCHITECTURE.md", "CONTRIBUTING.md", "STYLE.md"].map(Page::read));
    pages.extend(pages_in("bench"));
    let mut count = 0;
    let mut problems = Vec::new();
    for page in &pages {
        for (line, target) in links(page) {
            count += 1;
            let problem = problem(page, &target);
            problems.extend(problem.map(|problem| format!("{}:{line}: {problem}", page.name)));
        }
    }
    assert!(count > 200, "only {count} links found");
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn links_and_anchors_are_found() {
    let text = "# A `b` (c), d\n## A\n## A\n```\n# no\n[x](y)\n```\nsee [a](b.md#c) and `[d](e)`";
    let page = Page { name: "docs/x.md".into(), text: text.into() };
    assert_eq!(links(&page), [(8, "b.md#c".to_string())]);
    let anchors = anchors(text);
    assert_eq!(anchors.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "a-1", "a-b-c-d"]);
    assert!(problem(&page, "b.md#c").is_some());
    assert!(problem(&page, "plan.md#no-such-heading").is_some());
    assert_eq!(problem(&page, "plan.md#secrets"), None);
}

#[test]
fn the_table_of_contents_lists_every_page() {
    let contents = Page::read("docs/README.md");
    let listed: BTreeSet<String> = links(&contents).into_iter().map(|(_, target)| target).collect();
    for (folder, start) in [("docs", ""), ("docs/design", "design/")] {
        for page in pages_in(folder) {
            let name = Path::new(&page.name).file_name().unwrap().to_str().unwrap();
            let is_listed = listed.contains(&format!("{start}{name}")) || name == "README.md";
            assert!(is_listed, "docs/README.md does not list {}", page.name);
        }
    }
}
