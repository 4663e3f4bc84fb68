//! Draws the state. Colours only set apart what words say too, so that a
//! terminal without them shows the same.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Table};

use super::state::{State, View, WINDOW_NS, Window};
use crate::trace::summary::{Tally, printable, size};
use crate::unit::Nanos;

/// Below this width the less important columns go.
const NARROW: u16 = 70;

const HELP: [&str; 9] = [
    "1 2 3 4, Tab   mounts, containers, processes, files",
    "s              sort by time, n, copied, fsyncs",
    "/              filter; Enter keeps it, Esc ends it",
    "p, Space       pause and go on",
    "Up, Down       scroll",
    "? or h         this help",
    "q, Ctrl-C      quit",
    "",
    "Figures are of the last 10 seconds.",
];

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let window = state.window();
    let n_operations = window.operations.len().clamp(1, 8) as u16;
    let [head, operations, tabs, table, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(n_operations + 1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(head_lines(state, &window)), head);
    draw_operations(frame, operations, &window);
    frame.render_widget(Paragraph::new(tab_line(state)), tabs);
    draw_table(frame, table, state, &window);
    frame.render_widget(Paragraph::new(foot_line(state)), foot);
    if state.help {
        let area = frame.area();
        let height = (HELP.len() as u16).min(area.height);
        let area = Rect { y: (area.height - height) / 2, height, ..area };
        frame.render_widget(Clear, area);
        frame.render_widget(Paragraph::new(HELP.map(Line::from).to_vec()), area);
    }
}

fn head_lines(state: &State, window: &Window) -> Vec<Line<'static>> {
    let losses = state.losses;
    let lost = losses.n_lost + losses.n_missing;
    let mut first = format!("unionbench top: {} events, {lost} lost", state.n_events);
    if losses.cut {
        first.push_str(", recording cut off");
    }
    if state.paused {
        first.push_str(", paused");
    }
    if let Some(ended) = &state.ended {
        first.push_str(&format!(", {ended}"));
    }
    let second = format!(
        "{:.1} copy-ups/s  {}/s copied  {:.1} fsyncs/s",
        window.copy_ups,
        size(window.bytes as u64),
        window.fsyncs
    );
    vec![Line::styled(first, Style::new().add_modifier(Modifier::BOLD)), Line::from(second)]
}

fn draw_operations(frame: &mut Frame<'_>, area: Rect, window: &Window) {
    let narrow = area.width < NARROW;
    let nanos = |value: Option<u64>| value.map_or("-".to_owned(), |v| Nanos(v).to_string());
    let rows = window.operations.iter().map(|(name, rate, p)| {
        let mut cells = vec![printable(name), format!("{rate:.1}"), nanos(p.p50_ns)];
        if !narrow {
            cells.extend([nanos(p.p95_ns), nanos(p.p99_ns)]);
        }
        cells.push(nanos(p.max_ns));
        Row::new(cells.into_iter().map(Cell::from))
    });
    let (names, widths): (&[&str], &[u16]) = if narrow {
        (&["operation", "per s", "median", "max"], &[12, 8, 9, 9])
    } else {
        (&["operation", "per s", "median", "p95", "p99", "max"], &[18, 9, 10, 10, 10, 10])
    };
    let table = Table::new(rows, widths.iter().map(|w| Constraint::Length(*w)));
    frame.render_widget(table.header(heading(names)), area);
}

fn heading(names: &[&'static str]) -> Row<'static> {
    Row::new(names.iter().map(|name| Cell::from(*name)))
        .style(Style::new().add_modifier(Modifier::UNDERLINED))
}

fn tab_line(state: &State) -> Line<'static> {
    let tab = |(index, view): (usize, View)| {
        let name = view.name();
        if view == state.view { format!("[{name}]") } else { format!("{} {name}", index + 1) }
    };
    let tabs: Vec<String> = View::ALL.into_iter().enumerate().map(tab).collect();
    Line::from(tabs.join("  "))
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State, window: &Window) {
    let rows = state.rows(window);
    if rows.is_empty() {
        let text =
            if state.filter.is_empty() { "nothing happens" } else { "nothing fits the filter" };
        return frame.render_widget(Paragraph::new(text), area);
    }
    let narrow = area.width < NARROW;
    let fits = usize::from(area.height.saturating_sub(1));
    let scroll = state.scroll.min(rows.len().saturating_sub(fits.max(1)));
    let rows =
        rows.into_iter().skip(scroll).take(fits).map(|(key, tally)| row(key, &tally, narrow));
    let (names, widths): (Vec<&'static str>, &[u16]) = if narrow {
        (vec![state.view.name(), "n", "time"], &[6, 10])
    } else {
        (vec![state.view.name(), "n", "time", "copied", "fsyncs"], &[8, 10, 11, 8])
    };
    let fixed = widths.iter().map(|width| Constraint::Length(*width));
    let table = Table::new(rows, std::iter::once(Constraint::Min(10)).chain(fixed));
    frame.render_widget(table.header(heading(&names)), area);
}

fn row(key: &str, tally: &Tally, narrow: bool) -> Row<'static> {
    let mut cells = vec![printable(key), tally.n.to_string(), Nanos(tally.latency_ns).to_string()];
    if !narrow {
        cells.extend([size(tally.bytes), tally.n_fsyncs.to_string()]);
    }
    Row::new(cells.into_iter().map(Cell::from))
}

fn foot_line(state: &State) -> Line<'static> {
    if state.typing {
        return Line::from(format!("filter: {}_", printable(&state.filter)));
    }
    let mut text = format!("by {} of {} s", state.sort.name(), WINDOW_NS / 1_000_000_000);
    if !state.filter.is_empty() {
        text.push_str(&format!(", only {:?}", state.filter));
    }
    Line::from(text + "  ? help  q quit")
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::state::{Key, tests::filled};
    use super::*;

    fn screen(state: &State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
        terminal.draw(|frame| draw(frame, state)).expect("draws");
        let text = terminal.backend().to_string();
        text.lines().map(|line| line.trim_matches('"').trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_screen_of_eighty_columns() {
        insta::assert_snapshot!(screen(&filled(1200), 80, 16));
    }

    #[test]
    fn forty_columns_show_what_matters() {
        let mut state = filled(12);
        state.key(Key::Char('4'));
        insta::assert_snapshot!(screen(&state, 40, 14));
    }

    #[test]
    fn filter_and_help_are_shown() {
        let mut state = filled(12);
        "/npm".chars().for_each(|c| state.key(Key::Char(c)));
        assert!(screen(&state, 80, 16).contains("filter: npm_"));
        state.key(Key::Enter);
        assert!(screen(&state, 80, 16).contains("nothing fits the filter"));
        state.key(Key::Char('?'));
        insta::assert_snapshot!(screen(&state, 80, 16));
    }

    #[test]
    fn no_screen_is_too_small() {
        for (width, height) in [(1, 1), (2, 3), (40, 1), (5, 40), (300, 90)] {
            let mut state = filled(30);
            screen(&state, width, height);
            state.key(Key::Char('?'));
            screen(&state, width, height);
        }
    }
}
