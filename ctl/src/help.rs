//! The commands in groups, as the program shows them when it is asked for help.

use clap::Command;

/// Groups of commands; one that stands nowhere comes with the last.
const GROUPS: [(&str, &[&str]); 6] = [
    (
        "Key-value commands",
        &["compaction", "del", "get", "lease", "put", "txn", "watch"],
    ),
    (
        "Cluster maintenance commands",
        &[
            "alarm",
            "defrag",
            "downgrade",
            "endpoint",
            "member",
            "move-leader",
            "snapshot",
        ],
    ),
    ("Concurrency commands", &["elect", "lock"]),
    ("Authentication commands", &["auth", "role", "user"]),
    ("Offline commands", &["hashkv", "migrate"]),
    ("Utility commands", &[]),
];

/// Gives a program's help its groups.
pub(crate) fn grouped(command: Command) -> Command {
    let program = command.get_bin_name().unwrap_or_default().to_owned();
    let all: Vec<(String, String)> = command
        .get_subcommands()
        .map(|command| {
            let about = command.get_about().map(ToString::to_string);
            (command.get_name().to_owned(), about.unwrap_or_default())
        })
        .collect();
    let width = all.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let named: Vec<&str> = GROUPS
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let mut text = format!("{{about}}\n\nUsage:\n  {program} [command]\n");
    for (title, names) in GROUPS {
        let mut lines: Vec<String> = all
            .iter()
            .filter(|(name, _)| {
                let name = name.as_str();
                names.contains(&name) || (names.is_empty() && !named.contains(&name))
            })
            .map(|(name, about)| format!("  {name:width$}{about}\n"))
            .collect();
        lines.sort_unstable();
        if !lines.is_empty() {
            text += &format!("\n{title}\n{}", lines.concat());
        }
    }
    text += &format!(
        "\nUse \"{program} [command] --help\" for more information about a command.\n\
         Use \"{program} options\" for a list of global command-line options (applies to all \
         commands).\n"
    );
    command.help_template(text)
}
