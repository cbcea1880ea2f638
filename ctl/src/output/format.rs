//! Which format.

use crate::cli::Global;
use crate::exit::CommandError;

/// How results are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Fields,
    Json,
    Protobuf,
    Simple,
    Table,
}

impl Format {
    const ALL: [(&'static str, Self); 5] = [
        ("fields", Self::Fields),
        ("json", Self::Json),
        ("protobuf", Self::Protobuf),
        ("simple", Self::Simple),
        ("table", Self::Table),
    ];

    /// What `--write-out` asks for.
    pub(crate) fn of(global: &Global) -> Result<Self, CommandError> {
        let mut all = Self::ALL.iter();
        let found = all.find(|(name, _)| *name == global.write_out);
        found
            .map(|(_, format)| *format)
            .ok_or_else(|| CommandError::BadFeature("unsupported output format".to_owned()))
    }

    /// What a reply says that does not have it.
    pub(crate) fn unsupported(self) -> CommandError {
        let name = Self::ALL.iter().find(|(_, format)| *format == self);
        let name = name.map_or("", |(name, _)| name);
        CommandError::BadFeature(format!("{name} not supported as output format"))
    }
}
