//! Documents, their values and their problems.

use super::*;

fn problems(text: &str) -> String {
    let read = |table: &Table<'_>| {
        let rate = table.field("rate").and_then(|f| f.rate());
        let users = table.field("users").and_then(|f| f.integer(1, 100));
        let name = table.field("name").and_then(|f| f.text());
        for target in table.field("target").map(|f| f.tables("[[target]]")).unwrap_or_default() {
            target.field("weight").and_then(|f| f.integer(0, 10));
            target.close();
        }
        Some((rate, users, name))
    };
    let document = Document::new("plan.toml", text);
    document.read(&Variables::none(), read).unwrap_err().to_string()
}

#[test]
fn all_problems_come_at_once_with_their_places() {
    let text = "ratee = 5\nusers = 0\nname = \"${X}\"\n\n[[target]]\nweight = 11\nwieght = 1\n";
    assert_eq!(
        problems(text),
        "plan.toml:1:1: unknown key \"ratee\" in the top level of the file\n  \
           hint: did you mean \"rate\"?\n\
         plan.toml:2:9: \"users\" must be from 1 to 100, not 0\n\
         plan.toml:3:8: the variable X is not set\n  \
           hint: set it with --set X=VALUE or in the environment\n\
         plan.toml:6:10: \"weight\" must be from 0 to 10, not 11\n\
         plan.toml:7:1: unknown key \"wieght\" in [[target]]\n  \
           hint: did you mean \"weight\"?"
    );
}

#[test]
fn wrong_types_and_syntax() {
    assert_eq!(
        problems("name = 5\ntarget = 1\n"),
        "plan.toml:1:8: \"name\" must be a string in quotes, not an integer\n\
         plan.toml:2:10: \"target\" must be a list of tables\n  \
           hint: write [[target]] above its keys"
    );
    assert!(problems("rate = \nusers = = 3\n").starts_with("plan.toml:1:8: "));
}

#[test]
fn rates_may_be_numbers_but_durations_need_a_unit() {
    let read = |line: &str| {
        let document = Document::new("plan.toml", line);
        let read = document.read(&Variables::none(), |table| {
            let rate = table.field("rate").map(|f| f.rate());
            let span = table.field("span").map(|f| f.duration().map(|d| d.as_secs_f64()));
            rate.or(span)?
        });
        read.map_err(|problems| problems.to_string())
    };
    assert_eq!(read("rate = 500"), Ok(500.0));
    assert_eq!(read("rate = 1_000"), Ok(1000.0));
    assert_eq!(read("rate = 2.5"), Ok(2.5));
    assert_eq!(read("rate = \"500\""), Ok(500.0));
    assert_eq!(read("span = \"5s\""), Ok(5.0));
    let wrong = |line: &str, says: &str| {
        let problems = read(line).unwrap_err();
        assert!(problems.starts_with(&format!("plan.toml:1:8: {says}")), "{problems}");
    };
    wrong("rate = -5", "\"rate\": \"-5\" is not a rate");
    wrong("rate = inf", "\"rate\": \"inf\" is not a rate");
    wrong("rate = true", "\"rate\" must be a number per second, or a string such as");
    wrong(
        "span = 5",
        "\"span\" must be a string with a unit, not 5\n  hint: write \"5s\" for seconds",
    );
    wrong("span = 0.5", "\"span\" must be a string with a unit, not 0.5");
    wrong("span = \"5\"", "\"span\": \"5\" has no unit; write 5s for seconds");
}

#[test]
fn integers_may_come_from_variables() {
    let mut variables = Variables::none();
    variables.set("N", "1_000");
    variables.set("WORD", "many");
    let read = |text: &str| {
        let document = Document::new("plan.toml", format!("users = {text}"));
        let read = document.read(&variables, |table| table.field("users")?.integer(1, 5000));
        read.map_err(|problems| problems.to_string())
    };
    assert_eq!(read("7"), Ok(7));
    assert_eq!(read("\"${N}\""), Ok(1000));
    assert_eq!(read("\"${M:-20}\""), Ok(20));
    let wrong = |text: &str, says: &str| {
        let problems = read(text).unwrap_err();
        assert!(problems.starts_with(&format!("plan.toml:1:9: {says}")), "{problems}");
    };
    wrong("\"7\"", "\"users\" must be a whole number, not a string");
    wrong("\"${WORD}\"", "\"users\" must be a whole number, not \"many\"");
    wrong("\"${M:-0}\"", "\"users\" must be from 1 to 5000, not 0");
    wrong("\"${M}\"", "the variable M is not set");
}

#[test]
fn problems_of_flags_name_the_flag() {
    let lines = [("--name", "name = \"x\""), ("--rate", "rate = \"fast\"")];
    let document = Document::from_named(lines.map(|(a, b)| (a.to_string(), b.to_string())));
    let read = |table: &Table<'_>| {
        table.field("name");
        table.field("rate")?.rate()
    };
    let problems = document.read(&Variables::none(), read).unwrap_err().to_string();
    assert!(problems.starts_with("--rate: \"fast\" is not a rate"), "{problems}");
    let entry = [("upstream \"a\"".to_string(), "rate = \"fast\"".to_string())];
    let problems = Document::from_entries(entry).read(&Variables::none(), read).unwrap_err();
    assert!(problems.to_string().starts_with("upstream \"a\": \"rate\": \"fast\" is not"));
}

#[test]
fn alternatives_are_listed() {
    let check = |words: &[&'static str], text: &str| {
        assert_eq!(alternatives(words.iter().copied()), text);
    };
    check(&["a"], "\"a\"");
    check(&["a", "b"], "\"a\" or \"b\"");
    check(&["a", "b", "c"], "\"a\", \"b\" or \"c\"");
}

/// Finding the places of all values takes a time that grows with the document, not with its square.
#[test]
fn places_are_found_in_linear_time() {
    let searched = |entries: usize| {
        let text = "[[entry]]\nid = \"äöü\"\n".repeat(entries);
        let document = Document::new("f", text);
        let places = document.read(&Variables::none(), |root| {
            let field = root.field("entry")?;
            let tables = field.tables("[[entry]]");
            let places = tables.iter().filter_map(|table| Some(table.field("id")?.place()));
            Some(places.collect::<Vec<_>>())
        });
        let places = places.unwrap();
        let last = Place::File { file: "f".into(), line: 2 * entries, column: 6 };
        assert_eq!((places.len(), places.last()), (entries, Some(&last)));
        document.searched.get()
    };
    assert_eq!(searched(10_000), 5 * searched(2_000));
}
