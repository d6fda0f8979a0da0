//! Accepts Go-style options: `-strategy spread` is `--strategy spread`.

use std::ffi::OsString;

use clap::Command;

/// Puts a second dash before every long option of `command` that has only one.
///
/// A short option with its value attached (`-Htcp://...`) stays as it is unless the whole word
/// before `=` is the name of a long option, and so does a negative number. A word that begins with
/// no short option can only be a long one that does not exist. What follows `--` is left alone.
pub(super) fn normalize(
    args: impl IntoIterator<Item = OsString>,
    command: &Command,
) -> Vec<OsString> {
    let long_names = long_names(command);
    let short_names = short_names(command);
    let mut only_values = false;
    args.into_iter()
        .map(|arg| {
            only_values |= arg == "--";
            match arg.to_str() {
                Some(text) if !only_values && is_single_dash(text, &long_names, &short_names) => {
                    OsString::from(format!("-{text}"))
                }
                _ => arg,
            }
        })
        .collect()
}

/// Finds an option of which `args`, already [normal](normalize), use two names: the later name in
/// the option's own order, then the earlier one.
pub(super) fn two_forms(args: &[OsString], command: &Command) -> Option<(String, String)> {
    let options: Vec<_> = command
        .get_subcommands()
        .flat_map(Command::get_arguments)
        .chain(command.get_arguments())
        .collect();
    let words: Vec<&str> = args
        .iter()
        .map_while(|arg| arg.to_str().filter(|word| *word != "--"))
        .filter(|word| word.starts_with('-'))
        .map(|word| word.split('=').next().unwrap_or(word))
        .collect();
    options.into_iter().find_map(|option| {
        let aliases = option.get_all_aliases().unwrap_or_default();
        let longs = option.get_long().into_iter().chain(aliases);
        let names = longs
            .map(str::to_owned)
            .chain(option.get_short().map(String::from));
        let mut used = names.filter(|name| {
            let dashes = if name.len() == 1 { "-" } else { "--" };
            words.iter().any(|word| *word == format!("{dashes}{name}"))
        });
        let first = used.next()?;
        used.next().map(|second| (second, first))
    })
}

fn is_single_dash(text: &str, long_names: &[String], short_names: &[char]) -> bool {
    let Some(rest) = text.strip_prefix('-') else {
        return false;
    };
    let name = rest.split('=').next().unwrap_or(rest);
    let begins_with_short = |first: char| short_names.contains(&first);
    long_names.iter().any(|long| long == name)
        || name.len() > 1
            && name
                .starts_with(|first: char| first.is_ascii_alphabetic() && !begins_with_short(first))
}

/// Collects the short options of `command` and its commands, aliases included.
fn short_names(command: &Command) -> Vec<char> {
    let own = command.get_arguments().flat_map(|arg| {
        let aliases = arg.get_all_short_aliases().unwrap_or_default();
        arg.get_short().into_iter().chain(aliases)
    });
    own.chain(['h'])
        .chain(command.get_subcommands().flat_map(short_names))
        .collect()
}

/// Collects the long options of `command` and its commands, aliases included.
fn long_names(command: &Command) -> Vec<String> {
    let own = command.get_arguments().flat_map(|arg| {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases)
    });
    own.map(str::to_owned)
        .chain(["help".to_owned()])
        .chain(command.get_subcommands().flat_map(long_names))
        .collect()
}
