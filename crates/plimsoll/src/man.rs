//! The manual page: one page for all commands, made from the definitions that parse them.

use clap::Command;
use std::io;

/// The manual page in roff. `exit_codes` is the help text about exit codes.
pub(crate) fn page(mut cli: Command, exit_codes: &str) -> io::Result<Vec<u8>> {
    cli.build();
    let mut out = Vec::new();
    let man = clap_mangen::Man::new(cli.clone());
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    let mut commands = Vec::new();
    add_leaves(&cli, &mut commands);
    let mut text = String::from(".SH SYNOPSIS\n");
    for command in &commands {
        text += &format!("{}\n.br\n", synopsis(command));
    }
    text += ".SH DESCRIPTION\n";
    text += &paragraphs(&about(&cli));
    text += ".SH COMMANDS\n";
    for command in &commands {
        text += &format!(".SS {}\n", escaped(&usage(command)));
        text += &paragraphs(&about(command));
        text += &options(command)?;
        if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
            text += &verbatim(&after.to_string());
        }
    }
    text += ".SH EXIT STATUS\n";
    text += &verbatim(exit_codes.split_once('\n').map_or(exit_codes, |(_, codes)| codes));
    out.extend(text.into_bytes());
    man.render_version_section(&mut out)?;
    Ok(out)
}

/// The commands that can be run, in the order of the help.
fn add_leaves(command: &Command, leaves: &mut Vec<Command>) {
    for sub in
        command.get_subcommands().filter(|sub| sub.get_name() != "help" && !sub.is_hide_set())
    {
        // A command with subcommands may also run by itself.
        if !sub.has_subcommands() || !sub.is_subcommand_required_set() {
            leaves.push(sub.clone());
        }
        add_leaves(sub, leaves);
    }
}

/// The usage on one line, such as `plimsoll run [OPTIONS] [PLAN|URL]`.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let first = usage.trim_start_matches("Usage: ").lines().next().unwrap_or_default();
    first.trim().trim_end_matches("[COMMAND]").trim().to_string()
}

/// The usage with the name in bold.
fn synopsis(command: &Command) -> String {
    let usage = usage(command);
    let name = usage.split(" [").next().and_then(|usage| usage.split(" <").next());
    let name = name.unwrap_or(&usage);
    format!("\\fB{}\\fR{}", escaped(name), escaped(&usage[name.len()..]))
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    about.map(|about| about.to_string()).unwrap_or_default()
}

/// The options, with headings in bold below the command's own heading.
fn options(command: &Command) -> io::Result<String> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command.clone()).render_options_section(&mut out)?;
    let text = String::from_utf8_lossy(&out).into_owned();
    let line = |line: &str| match line.strip_prefix(".SH ") {
        Some("OPTIONS") => String::new(),
        Some(heading) => format!(".PP\n\\fB{}\\fR\n", heading.trim_matches('"')),
        // Definitions that the title has set already.
        None if line.starts_with(".ie ") || line.starts_with(".el ") => String::new(),
        None => format!("{line}\n"),
    };
    Ok(text.lines().map(line).collect())
}

/// Text whose empty lines separate paragraphs; an indented line begins on a line of its own.
fn paragraphs(text: &str) -> String {
    let mut out = String::new();
    for line in text.trim().lines() {
        match line {
            "" => out += ".PP\n",
            line if line.starts_with(' ') => out += &format!(".br\n{}\n", escaped(line)),
            line => out += &format!("{}\n", escaped(line)),
        }
    }
    out
}

/// Text whose indented lines are kept as they are.
fn verbatim(text: &str) -> String {
    let mut out = String::from(".PP\n");
    for line in text.trim_end().lines() {
        match line {
            "" => out += ".PP\n",
            line if line.starts_with(' ') => out += &format!(".nf\n{}\n.fi\n", escaped(line)),
            line => out += &format!("{}\n", escaped(line)),
        }
    }
    out
}

/// Text without meaning to roff.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cli, EXIT_CODES};
    use clap::CommandFactory;

    #[test]
    fn every_command_is_in_the_synopsis_and_described() {
        let page = String::from_utf8(page(Cli::command(), EXIT_CODES).unwrap()).unwrap();
        for command in [
            "plimsoll demo",
            "plimsoll run",
            "plimsoll gateway",
            "plimsoll gateway upstream add",
            "plimsoll gateway endpoint list",
            "plimsoll check",
            "plimsoll doctor",
            "plimsoll tune",
            "plimsoll sim chain",
            "plimsoll sim verify",
            "plimsoll sim fault",
            "plimsoll completions",
            "plimsoll man",
        ] {
            assert!(page.contains(&format!("\n\\fB{command}\\fR")), "{command}\n{page}");
            assert!(page.contains(&format!("\n.SS {command}")), "{command}");
        }
        assert_eq!(page.matches("\n.SH SYNOPSIS").count(), 1);
        assert!(page.contains("interrupted; results are kept"));
    }

    #[test]
    fn escapes() {
        assert_eq!(escaped(".x 'a-b' \\"), "\\&.x \\(aqa\\-b\\(aq \\e");
    }

    /// Help is wrapped at the width of the terminal: lines of examples that are longer would break in the
    /// middle, and text with line breaks of its own would break twice.
    #[test]
    fn help_fits_80_columns() {
        fn check(command: &Command) {
            let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
            let after = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            let mut lines = after.lines().peekable();
            while let Some(line) = lines.next() {
                let text = !line.starts_with(' ') && !line.is_empty();
                let more =
                    lines.peek().is_some_and(|next| !next.starts_with(' ') && !next.is_empty());
                assert!(text || line.chars().count() <= 80, "{name}: {line}");
                assert!(!(text && more), "{name}: a line break after: {line}");
            }
            command.get_subcommands().for_each(check);
        }
        let mut cli = Cli::command();
        cli.build();
        check(&cli);
    }
}
