//! Columns as people know them from docker: at least ten wide, three spaces apart, the last one ragged.

use std::fmt::Write as _;

const MINIMUM_WIDTH: usize = 10;
const PADDING: usize = 3;

/// Aligns lines whose cells are separated by tabs. The last cell of a line takes no part in the alignment, and a column
/// ends where a line has no such cell (Go's `tabwriter` with minimum width 10 and padding 3, which docker uses).
pub(crate) fn align(text: &str) -> String {
    align_with(text, MINIMUM_WIDTH)
}

/// The same with another least width; docker uses 20 for `service ps` and `container ls`.
pub(crate) fn align_with(text: &str, minimum: usize) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let widths = column_widths(&lines, minimum);
    let mut output = String::new();
    for (line, widths) in lines.iter().zip(&widths) {
        for (index, cell) in line.iter().enumerate() {
            match widths.get(index) {
                Some(width) => {
                    let fill = width.saturating_sub(cell.chars().count());
                    let _ = write!(output, "{cell}{:fill$}", "");
                }
                None => output.push_str(cell),
            }
        }
        output.push('\n');
    }
    output
}

/// For each line, the width of each of its tab-terminated cells.
fn column_widths(lines: &[Vec<&str>], minimum: usize) -> Vec<Vec<usize>> {
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len().saturating_sub(1)]).collect();
    let columns = lines.iter().map(|line| line.len().saturating_sub(1)).max().unwrap_or_default();
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            let in_block = |row: usize| lines.get(row).is_some_and(|line| line.len() > column + 1);
            if !in_block(start) {
                start += 1;
                continue;
            }
            let end = (start..lines.len()).find(|row| !in_block(*row)).unwrap_or(lines.len());
            let widest = lines
                .iter()
                .take(end)
                .skip(start)
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count() + PADDING)
                .max();
            for row in widths.iter_mut().take(end).skip(start) {
                if let Some(width) = row.get_mut(column) {
                    *width = widest.unwrap_or_default().max(minimum);
                }
            }
            start = end;
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_three_spaces_apart_and_at_least_ten_wide() {
        let text = "ID\tNAME\tMODE\nabcdefghijkl\tweb\treplicated";
        assert_eq!(align(text), "ID             NAME      MODE\nabcdefghijkl   web       replicated\n");
    }

    #[test]
    fn a_line_without_cells_ends_the_column() {
        assert_eq!(align("aaaaaaaaaaaaaaa\tb\nx\na\tb\n"), "aaaaaaaaaaaaaaa   b\nx\na         b\n");
    }

    proptest! {
        #[test]
        fn cells_of_a_column_start_at_the_same_place(rows in proptest::collection::vec(("[a-z]{0,15}", "[a-z]{0,15}", "[a-z]{1,5}"), 1..8)) {
            let text: Vec<String> = rows.iter().map(|(a, b, c)| format!("{a}\t{b}\t|{c}")).collect();
            let aligned = align(&text.join("\n"));
            let starts: std::collections::BTreeSet<_> = aligned.lines().map(|line| line.find('|')).collect();
            prop_assert_eq!(starts.len(), 1);
        }
    }
}
