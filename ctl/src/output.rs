//! The output formats (contract 8.3).

use serde::Serialize;

use crate::cli::Global;
use crate::exit::CommandError;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Fields,
    Json,
    Simple,
    Table,
}

impl Format {
    /// What `--write-out` asks for, for a command that has no protobuf form.
    pub(crate) fn of(global: &Global) -> Result<Self, CommandError> {
        match global.write_out.as_str() {
            "fields" => Ok(Self::Fields),
            "json" => Ok(Self::Json),
            "simple" => Ok(Self::Simple),
            "table" => Ok(Self::Table),
            "protobuf" => Err(CommandError::BadFeature(
                "protobuf not supported as output format".to_owned(),
            )),
            _ => Err(CommandError::BadFeature(
                "unsupported output format".to_owned(),
            )),
        }
    }
}

/// One result of named values.
pub(crate) struct Row<'a> {
    /// Names in `fields`, with their values there.
    pub(crate) fields: &'a [(&'a str, String)],
    /// Heads of the table's columns, with their values there and in `simple`.
    pub(crate) columns: &'a [(&'a str, String)],
}

/// Prints a result in a format.
pub(crate) fn print<T: Serialize>(
    format: Format,
    json: &T,
    row: &Row<'_>,
) -> Result<(), CommandError> {
    match format {
        Format::Json => println!(
            "{}",
            serde_json::to_string(json).map_err(CommandError::failed)?
        ),
        Format::Fields => {
            for (name, value) in row.fields {
                println!("\"{name}\" : {value}");
            }
        }
        Format::Simple => {
            let values: Vec<&str> = row
                .columns
                .iter()
                .map(|(_, value)| value.as_str())
                .collect();
            println!("{}", values.join(", "));
        }
        Format::Table => print!("{}", table(row.columns)),
    }
    Ok(())
}

/// A box of one row: heads in the middle, values to the right unless they are text.
fn table(columns: &[(&str, String)]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .map(|(head, value)| head.chars().count().max(value.chars().count()) + 2)
        .collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let heads: Vec<String> = columns
        .iter()
        .zip(&widths)
        .map(|((head, _), width)| format!("{head:^width$}"))
        .collect();
    let values: Vec<String> = columns
        .iter()
        .zip(&widths)
        .map(|((_, value), width)| format!("{value:>inner$} ", inner = width - 1))
        .collect();
    format!(
        "{}│{}│\n{}│{}│\n{}",
        rule("┌", "┬", "┐"),
        heads.join("│"),
        rule("├", "┼", "┤"),
        values.join("│"),
        rule("└", "┴", "┘")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_etcds() {
        let shown = table(&[
            ("HASH", "3677061512".to_owned()),
            ("HASH REVISION", "33".to_owned()),
        ]);
        let expected = "\
┌────────────┬───────────────┐
│    HASH    │ HASH REVISION │
├────────────┼───────────────┤
│ 3677061512 │            33 │
└────────────┴───────────────┘
";
        assert_eq!(shown, expected);
    }
}
