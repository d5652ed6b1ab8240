//! Draws progress: bars redrawn in place on a terminal, a line for each change elsewhere.

use std::collections::BTreeMap;
use std::io::Write as _;

use super::judge::Line;
use crate::cli::human::ellipsis;
use crate::cli::terminal;

const BAR_WIDTH: usize = 50;

/// Where progress is drawn.
#[derive(Debug)]
pub(super) struct Screen {
    quiet: bool,
    terminal: bool,
    drawn: usize,
    lines: Vec<Line>,
    verify: Option<String>,
    said: BTreeMap<String, String>,
}

impl Screen {
    /// Draws on standard output, unless quiet.
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: terminal::stdout_is_terminal(),
            drawn: 0,
            lines: Vec::new(),
            verify: None,
            said: BTreeMap::new(),
        }
    }

    /// Shows the state of the tasks.
    pub(super) fn show(&mut self, lines: &[Line]) {
        lines.clone_into(&mut self.lines);
        self.draw();
    }

    /// Shows what follows after all tasks run.
    pub(super) fn verify(&mut self, words: &str) {
        self.verify = Some(words.to_owned());
        self.draw();
    }

    /// Leaves the cursor below what was drawn.
    pub(super) fn finish(&mut self) {
        let _ = std::io::stdout().flush();
    }

    fn draw(&mut self) {
        if self.quiet {
            return;
        }
        let verify =
            self.verify.iter().map(|words| Line { label: "verify".to_owned(), words: words.clone(), bar: None });
        let lines: Vec<Line> = self.lines.iter().cloned().chain(verify).collect();
        if self.terminal { self.redraw(&lines) } else { self.say(&lines) }
    }

    fn redraw(&mut self, lines: &[Line]) {
        let width = terminal::size().map_or(80, |(_, columns)| usize::from(columns)).max(20);
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push_str(&format!("\x1b[2K{}\n", ellipsis(&with_bar(line), width - 1)));
        }
        for _ in lines.len()..self.drawn {
            text.push_str("\x1b[2K\n");
        }
        self.drawn = self.drawn.max(lines.len());
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    fn say(&mut self, lines: &[Line]) {
        for line in lines {
            // The countdown changes all the time and tells nothing in a log.
            let words = if line.words.starts_with("Waiting ") {
                "Waiting to verify that tasks are stable..."
            } else {
                &line.words
            };
            if words.is_empty() || self.said.get(&line.label).is_some_and(|said| said == words) {
                continue;
            }
            self.said.insert(line.label.clone(), words.to_owned());
            let _ = writeln!(std::io::stdout().lock(), "{}: {words}", line.label);
        }
    }
}

fn with_bar(line: &Line) -> String {
    let Some((done, all)) = line.bar else { return format!("{}: {}", line.label, line.words) };
    let filled = BAR_WIDTH * done / all.max(1);
    let bar = if filled == 0 {
        " ".repeat(BAR_WIDTH)
    } else {
        format!("{:<BAR_WIDTH$}", format!("{}>", "=".repeat(filled - 1)))
    };
    format!("{}: {:<9} [{bar}]", line.label, line.words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_up() {
        let line = |done| Line { label: "1/2".to_owned(), words: "ready".to_owned(), bar: Some((done, 9)) };
        assert_eq!(with_bar(&line(0)), format!("1/2: ready     [{}]", " ".repeat(50)));
        assert_eq!(with_bar(&line(9)), format!("1/2: ready     [{}>]", "=".repeat(49)));
    }
}
