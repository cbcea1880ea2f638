//! The output formats (contract 8.3).
//!
//! A command's result is a [`Reply`]: it says once what it shows in each format; which formats it has,
//! how lines, quotes, tables and JSON look, is here.
//!
//! | format | where |
//! |---|---|
//! | simple, fields | [`text::Text`], which a reply writes its lines to |
//! | table | [`table::Table`]: heads and rows, also `simple` for those who have one |
//! | json | [`json`]: messages by their descriptors, as Go's encoder shows them |
//! | protobuf | the message itself |

mod format;
pub(crate) mod go;
pub(crate) mod json;
mod table;
mod text;

pub(crate) use format::Format;
pub(crate) use table::Table;
pub(crate) use text::Text;

use std::io::Write as _;

use crate::cli::Global;
use crate::exit::CommandError;

/// A result that can be shown.
pub(crate) trait Reply {
    /// Lines for people; the rows of the table, if there is one.
    fn simple(&self, out: &mut Text) {
        if let Some(table) = self.table() {
            out.raw(table.rows().as_bytes());
        }
    }

    /// `"Name" : value` lines; `None` if it has none.
    fn fields(&self, _out: &mut Text) -> Option<()> {
        None
    }

    /// A box; `None` if it has none.
    fn table(&self) -> Option<Table> {
        None
    }

    /// One line of JSON; `None` if it has none.
    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>>;

    /// The message's bytes; `None` if it has none.
    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }
}

/// `json` and `protobuf` of a [`Reply`] that is a message.
macro_rules! shown_as_message {
    () => {
        fn json(
            &self,
            ids: $crate::output::json::Ids,
        ) -> Option<Result<String, $crate::exit::CommandError>> {
            Some($crate::output::json::message(self, ids))
        }

        fn protobuf(&self) -> Option<Vec<u8>> {
            Some(prost::Message::encode_to_vec(self))
        }
    };
}
pub(crate) use shown_as_message;

/// How this run shows results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    hex: bool,
}

impl Output {
    /// As `--write-out` and `--hex` say.
    pub(crate) fn of(global: &Global) -> Result<Self, CommandError> {
        Ok(Self {
            format: Format::of(global)?,
            hex: global.hex,
        })
    }

    pub(crate) fn is_simple(self) -> bool {
        self.format == Format::Simple
    }

    /// Shows a result.
    pub(crate) fn show(self, reply: &impl Reply) -> Result<(), CommandError> {
        self.show_with(json::Ids::Numbers, reply)
    }

    /// Shows a result whose ids `--hex` concerns.
    pub(crate) fn show_ids(self, reply: &impl Reply) -> Result<(), CommandError> {
        let ids = if self.hex {
            json::Ids::Hex
        } else {
            json::Ids::Numbers
        };
        self.show_with(ids, reply)
    }

    fn show_with(self, ids: json::Ids, reply: &impl Reply) -> Result<(), CommandError> {
        let mut text = Text::new(self.hex);
        let bytes = match self.format {
            Format::Simple => {
                reply.simple(&mut text);
                Some(text.into_bytes())
            }
            Format::Fields => reply.fields(&mut text).map(|()| text.into_bytes()),
            Format::Table => reply.table().map(|table| table.boxed().into_bytes()),
            Format::Json => match reply.json(ids) {
                Some(line) => Some(format!("{}\n", line?).into_bytes()),
                None => None,
            },
            Format::Protobuf => reply.protobuf(),
        };
        match bytes {
            Some(bytes) => write(&bytes),
            None => Err(self.format.unsupported()),
        }
    }
}

/// Writes to standard output, at once.
pub(crate) fn write(bytes: &[u8]) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| CommandError::Io(error.to_string()))
}
