//! Tables of text, for people: a heading, and columns as wide as what is in them.

use std::io::IsTerminal;

use runns_sys::tty;
use unicode_width::UnicodeWidthChar;

/// Between two columns.
const GAP: &str = "  ";

/// The heading of a column, and whether its cells are aligned to the right.
#[derive(Debug, Clone, Copy)]
pub struct Heading(pub &'static str, pub bool);

/// The width of standard output in columns; `None` if it is not a terminal.
pub fn terminal_width() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout
        .is_terminal()
        .then(|| tty::window_size(&stdout).ok())??;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

/// The lines of a table, that of the headings first, each cut at `width`. Every row has a cell for
/// each heading.
pub fn lines(headings: &[Heading], rows: Vec<Vec<String>>, width: Option<usize>) -> Vec<String> {
    let heading: Vec<String> = headings
        .iter()
        .map(|heading| heading.0.to_string())
        .collect();
    let lines: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    // The last column is as wide as it likes: padding others to it would cost memory without end.
    let last = headings.len() - 1;
    let widths: Vec<usize> = (0..last)
        .map(|at| {
            lines
                .iter()
                .map(|line| width_of(&line[at]))
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &Vec<String>| {
        let mut out = String::new();
        for ((cell, width), heading) in cells.iter().zip(&widths).zip(headings) {
            let blanks = " ".repeat(width.saturating_sub(width_of(cell)));
            out.push_str(&if heading.1 {
                format!("{blanks}{cell}")
            } else {
                format!("{cell}{blanks}")
            });
            out.push_str(GAP);
        }
        out.push_str(&cells[last]);
        cut(out.trim_end(), width).to_string()
    };
    lines.iter().map(line).collect()
}

/// As [`lines`], but of a table that is wider than `width`, whole columns are left out, from the
/// right; the first `least` always remain.
pub fn whole_columns(
    headings: &[Heading],
    rows: &[Vec<String>],
    width: Option<usize>,
    least: usize,
) -> Vec<String> {
    let table = |columns: usize| {
        let rows = rows.iter().map(|row| row[..columns].to_vec()).collect();
        lines(&headings[..columns], rows, None)
    };
    let fits = |table: &Vec<String>| {
        width.is_none_or(|width| table.iter().all(|line| width_of(line) <= width))
    };
    let tables = (least + 1..=headings.len()).rev().map(table);
    let mut fitting = tables.filter(fits);
    fitting.next().unwrap_or_else(|| table(least))
}

/// The columns that `text` takes on a terminal.
pub fn width_of(text: &str) -> usize {
    text.chars()
        .map(|character| character.width().unwrap_or(0))
        .sum()
}

/// As much of `text` as fits into `width` columns.
fn cut(text: &str, width: Option<usize>) -> &str {
    let Some(width) = width else { return text };
    let mut used = 0;
    for (at, character) in text.char_indices() {
        used += character.width().unwrap_or(0);
        if used > width {
            return &text[..at];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_by_what_they_show() {
        assert_eq!(cut("abcdef", Some(4)), "abcd");
        assert_eq!(cut("a\u{4e2d}\u{6587}", Some(4)), "a\u{4e2d}");
        assert_eq!(cut("e\u{301}x", Some(1)), "e\u{301}");
        assert_eq!(cut("abc", Some(0)), "");
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out_whole() {
        let headings = [
            Heading("A", false),
            Heading("B", false),
            Heading("LAST", false),
        ];
        let rows = [vec![
            "one".to_string(),
            "two".to_string(),
            "three".to_string(),
        ]];
        let table = |width| whole_columns(&headings, &rows, width, 1);
        assert_eq!(table(None), ["A    B    LAST", "one  two  three"]);
        assert_eq!(table(Some(15)), table(None));
        assert_eq!(table(Some(14)), ["A    B", "one  two"]);
        assert_eq!(table(Some(7)), ["A", "one"]);
        assert_eq!(table(Some(2)), ["A", "one"]);
    }

    #[test]
    fn columns_are_aligned() {
        let row = |cells: [&str; 3]| cells.map(str::to_string).to_vec();
        let headings = [
            Heading("A", false),
            Heading("NUMBER", true),
            Heading("LAST", false),
        ];
        let text = lines(
            &headings,
            vec![row(["long", "1", "x"]), row(["b", "20", ""])],
            None,
        );
        assert_eq!(
            text,
            ["A     NUMBER  LAST", "long       1  x", "b         20"]
        );
    }
}
