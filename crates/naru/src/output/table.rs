//! Columns as Go's tabwriter aligns them (minimum width 10, padding 3, blanks): a column is a run of lines that have a
//! tab-ended cell there; the last cell of a line is not padded.

use super::width;

/// Least width of a padded cell.
const MINIMUM: usize = 10;
/// Blanks after the widest cell of a column.
const PADDING: usize = 3;

/// Aligns lines of tab-separated cells with Docker's usual widths.
pub fn align(text: &str) -> String {
    align_with(text, MINIMUM, PADDING)
}

/// Aligns with another minimum width and padding (`top` uses 20 and 3).
pub fn align_with(text: &str, minimum: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut start = 0;
        while start < lines.len() {
            // Only cells that end in a tab belong to a column.
            if lines[start].len() <= column + 1 {
                start += 1;
                continue;
            }
            let length = lines[start..].iter().take_while(|cells| cells.len() > column + 1).count();
            let block = start..start + length;
            let widest = lines[block.clone()].iter().map(|cells| width::of(cells[column])).max().unwrap_or(0);
            for line in block {
                widths[line][column] = (widest + padding).max(minimum);
            }
            start += length;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (i, cells) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        for (column, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < cells.len() {
                let missing = widths[i][column].saturating_sub(width::of(cell));
                out.extend(std::iter::repeat_n(' ', missing));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(align("A\tB\tC\nlonger cell\tx\tend\n"), "A             B         C\nlonger cell   x         end\n");
    }

    #[test]
    fn a_line_without_the_cell_ends_a_column() {
        assert_eq!(align("wide wide wide\tx\nplain\na\tb"), "wide wide wide   x\nplain\na         b");
    }

    #[test]
    fn characters_count_not_bytes() {
        assert_eq!(align("…\tx"), "…         x");
        assert_eq!(align("日本語\tx"), "日本語    x");
    }
}
