//! Rows under heads: boxed as `table`, or joined by commas as `simple`.

/// Cells of a result that is one or more rows.
pub(crate) struct Table {
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with so many columns as there are heads.
    pub(crate) fn new(heads: &'static [&'static str]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Rows joined by commas.
    pub(crate) fn rows(&self) -> String {
        let lines = self.rows.iter().map(|row| format!("{}\n", row.join(", ")));
        lines.collect()
    }

    /// A box: heads in the middle, values to the right.
    pub(crate) fn boxed(&self) -> String {
        let widths: Vec<usize> = self
            .heads
            .iter()
            .enumerate()
            .map(|(column, head)| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let cells = cells.map(|cell| cell.chars().count());
                cells.max().unwrap_or(0).max(head.chars().count()) + 2
            })
            .collect();
        let rule = |left: &str, middle: &str, right: &str| {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
            format!("{left}{}{right}\n", bars.join(middle))
        };
        let heads: Vec<String> = self
            .heads
            .iter()
            .zip(&widths)
            .map(|(head, width)| format!("{head:^width$}"))
            .collect();
        let mut text = rule("┌", "┬", "┐");
        text += &format!("│{}│\n", heads.join("│"));
        if !self.rows.is_empty() {
            text += &rule("├", "┼", "┤");
        }
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:>inner$} ", inner = width - 1))
                .collect();
            text += &format!("│{}│\n", cells.join("│"));
        }
        text + &rule("└", "┴", "┘")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_etcds() {
        let mut table = Table::new(&["HASH", "HASH REVISION"]);
        table.row(vec!["3677061512".to_owned(), "33".to_owned()]);
        table.row(vec!["1".to_owned(), String::new()]);
        let expected = "\
┌────────────┬───────────────┐
│    HASH    │ HASH REVISION │
├────────────┼───────────────┤
│ 3677061512 │            33 │
│          1 │               │
└────────────┴───────────────┘
";
        assert_eq!(table.boxed(), expected);
        assert_eq!(table.rows(), "3677061512, 33\n1, \n");
    }
}
