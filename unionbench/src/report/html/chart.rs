//! Figures as inline SVG in the page's own colours. The drawing is 400 units
//! wide, so that its text is still read where the page is 400 pixels wide.

use std::fmt::Write as _;

use super::text::escaped;
use crate::report::plots::axis::Axis;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;
/// About how wide a character of a tick is drawn.
const CHARACTER: f64 = 6.6;

/// One line of a chart.
pub struct Curve {
    pub label: String,
    /// Which of the page's colours; the same backend has the same everywhere.
    pub colour: usize,
    /// In the axes' values.
    pub points: Vec<(f64, f64)>,
    /// From low to high at a point's x: the middle half of the samples.
    pub bands: Vec<(f64, f64, f64)>,
    /// The ends of a fitted line.
    pub fit: Vec<(f64, f64)>,
    pub marked: bool,
}

/// A frame with axes.
pub struct Chart {
    pub x: Axis,
    pub y: Axis,
    pub curves: Vec<Curve>,
}

impl Chart {
    /// The SVG with `label` for those who do not see it, and its legend.
    pub fn draw(&self, label: &str) -> String {
        let mut svg = open(label, HEIGHT);
        svg += &self.axes();
        for curve in &self.curves {
            svg += &self.curve(curve);
        }
        svg += "</svg>";
        svg + &legend(self.curves.iter().map(|c| (c.label.as_str(), c.colour, c.marked)))
    }

    fn axes(&self) -> String {
        let mut out = String::new();
        for (at, name) in &self.y.ticks {
            let y = self.down(*at);
            if !(TOP - 0.5..=HEIGHT - BOTTOM + 0.5).contains(&y) {
                continue;
            }
            let _ = write!(
                out,
                "<line class=\"grid-line\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                escaped(name)
            );
        }
        let mut free_from = 0.0;
        for (at, name) in &self.x.ticks {
            let x = self.across(*at);
            let half = name.chars().count() as f64 * CHARACTER / 2.0;
            let fits = x - half >= free_from && x + half <= WIDTH;
            if !(LEFT - 0.5..=WIDTH - RIGHT + 0.5).contains(&x) || !fits {
                continue;
            }
            free_from = x + half + 4.0;
            let _ = write!(
                out,
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 17.0,
                escaped(name)
            );
        }
        let _ = write!(
            out,
            "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{b}\" y2=\"{b}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            WIDTH - RIGHT,
            LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
            HEIGHT - 8.0,
            escaped(&self.x.title),
            b = HEIGHT - BOTTOM
        );
        out
    }

    fn curve(&self, curve: &Curve) -> String {
        let mut out = String::new();
        let colour = curve.colour;
        for (x, low, high) in &curve.bands {
            if let (Some((x, y1)), Some((_, y2))) = (self.place(*x, *low), self.place(*x, *high)) {
                let _ = write!(
                    out,
                    "<line class=\"band c{colour}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y1:.1}\" y2=\"{y2:.1}\"/>"
                );
            }
        }
        let placed = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().filter_map(|(x, y)| self.place(*x, *y)).collect()
        };
        let path = |points: &[(f64, f64)]| -> String {
            points.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect()
        };
        if !curve.fit.is_empty() {
            let _ = write!(
                out,
                "<polyline class=\"fit c{colour}\" points=\"{}\"/>",
                path(&placed(&curve.fit)).trim_end()
            );
        }
        let points = placed(&curve.points);
        let _ = write!(
            out,
            "<polyline class=\"curve c{colour}\" points=\"{}\"/>",
            path(&points).trim_end()
        );
        if curve.marked {
            for (x, y) in points {
                out += &marker(colour, x, y);
            }
        }
        out
    }

    fn place(&self, x: f64, y: f64) -> Option<(f64, f64)> {
        Some((self.across(self.x.place(x)?), self.down(self.y.place(y)?)))
    }

    fn across(&self, at: f64) -> f64 {
        LEFT + (at - self.x.low) / (self.x.high - self.x.low) * (WIDTH - LEFT - RIGHT)
    }

    fn down(&self, at: f64) -> f64 {
        let share = (at - self.y.low) / (self.y.high - self.y.low);
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }
}

/// The opening of a drawing of the usual width.
pub fn open(label: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(label)
    )
}

/// Names of the colours in use, with the mark each has.
pub fn legend<'a>(entries: impl Iterator<Item = (&'a str, usize, bool)>) -> String {
    let items: String = entries
        .map(|(label, colour, marked)| {
            let mark = if marked { marker(colour, 13.0, 6.0) } else { String::new() };
            format!(
                "<li><svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 26 12\" aria-hidden=\"true\"><line class=\"curve c{colour}\" x1=\"0\" x2=\"26\" y1=\"6\" y2=\"6\"/>{mark}</svg>{}</li>",
                escaped(label)
            )
        })
        .collect();
    format!("<ul class=\"legend\">{items}</ul>")
}

/// Each colour has a shape of its own too.
fn marker(colour: usize, x: f64, y: f64) -> String {
    match colour % 4 {
        0 => format!(
            "<rect class=\"f{colour}\" x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\"/>",
            x - 3.5,
            y - 3.5
        ),
        1 => format!("<circle class=\"f{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>"),
        2 => format!(
            "<polygon class=\"f{colour}\" points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\"/>",
            x,
            y - 5.0,
            x - 4.6,
            y + 3.6,
            x + 4.6,
            y + 3.6
        ),
        _ => format!(
            "<polygon class=\"f{colour}\" points=\"{:.1},{y:.1} {x:.1},{:.1} {:.1},{y:.1} {x:.1},{:.1}\"/>",
            x - 5.0,
            y - 5.0,
            x + 5.0,
            y + 5.0
        ),
    }
}

/// Bars of named parts, one row each: what a whole is made of.
pub struct Bars {
    pub rows: Vec<(String, Vec<f64>)>,
    pub parts: Vec<String>,
    /// What is written at a row's end.
    pub totals: Vec<String>,
}

impl Bars {
    /// Rows are drawn to one scale: the longest fills the width.
    pub fn draw(&self, label: &str) -> String {
        const ROW: f64 = 44.0;
        let height = self.rows.len() as f64 * ROW + 6.0;
        let longest =
            self.rows.iter().map(|(_, parts)| parts.iter().sum::<f64>()).fold(0.0, f64::max);
        let mut svg = open(label, height);
        for (index, (name, parts)) in self.rows.iter().enumerate() {
            let y = index as f64 * ROW;
            let _ = write!(
                svg,
                "<text class=\"title\" x=\"0\" y=\"{:.1}\">{}</text><text x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                y + 14.0,
                escaped(name),
                y + 14.0,
                escaped(self.totals.get(index).map_or("", String::as_str))
            );
            let mut x = 0.0;
            for (part, value) in parts.iter().enumerate() {
                let width = if longest > 0.0 { value / longest * WIDTH } else { 0.0 };
                let _ = write!(
                    svg,
                    "<rect class=\"f{}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"16\"/>",
                    part % 6,
                    y + 20.0
                );
                x += width;
            }
        }
        svg += "</svg>";
        svg + &legend(self.parts.iter().enumerate().map(|(i, name)| (name.as_str(), i % 6, false)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_an_axis_do_not_overlap() {
        let sizes: Vec<f64> = (12..=30).map(|p| 2_f64.powi(p)).collect();
        let chart =
            Chart { x: Axis::size("size", &sizes), y: Axis::share("share"), curves: Vec::new() };
        let svg = chart.draw("sizes");
        let drawn = svg.matches("iB</text>").count();
        assert!((3..9).contains(&drawn), "{drawn}");
    }

    #[test]
    fn bars_share_one_scale() {
        let bars = Bars {
            rows: vec![("a".into(), vec![1.0, 1.0]), ("b".into(), vec![4.0, 0.0])],
            parts: vec!["x".into(), "y".into()],
            totals: vec!["2".into(), "4".into()],
        };
        let svg = bars.draw("bars");
        assert_eq!(svg.matches("width=\"100.0\"").count(), 2);
        assert_eq!(svg.matches("width=\"400.0\"").count(), 1);
    }
}
