//! Tables without boxes: columns parted by spaces, so that `cut` and `awk` can read them.

/// Rows that are shown together.
#[derive(Debug)]
pub struct Columns {
    rows: Vec<Vec<String>>,
}

/// Spaces between columns, as Docker has them.
const GAP: usize = 3;

impl Columns {
    pub fn new(headers: &[&str]) -> Columns {
        Columns { rows: vec![headers.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Every column as wide as its widest cell; no spaces at the ends of lines.
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            for (i, cell) in row.iter().enumerate() {
                let width = cell.chars().count();
                match widths.get_mut(i) {
                    Some(w) => *w = (*w).max(width),
                    None => widths.push(width),
                }
            }
        }
        self.rows.iter().map(|row| line(row, &widths)).collect()
    }
}

/// One line of a table.
pub fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (i, cell) in cells.iter().enumerate() {
        text.push_str(cell);
        if i + 1 < cells.len() {
            let width = widths.get(i).copied().unwrap_or(0);
            text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + GAP));
        }
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}
