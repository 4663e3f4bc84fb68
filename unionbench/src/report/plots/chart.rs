//! A chart and how it is drawn.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::Plot;
use super::axis::Axis;
use crate::report::ReportError;

/// Size of the chart itself in pixels; the legend comes below it, where no
/// curve can run behind it.
const SIZE: (u32, u32) = (960, 540);
/// Height of a line of the legend in pixels.
const LEGEND_LINE: i32 = 24;

/// Colours that stay apart for colour-blind readers (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Stands in the legend.
    pub label: String,
    pub points: Vec<(f64, f64)>,
    /// Points of the fitted line, drawn thin; empty without a fit.
    pub fit: Vec<(f64, f64)>,
    /// Each point is marked: they are measured, the line between is not.
    pub marked: bool,
}

/// What is drawn, free of the drawing library.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub name: String,
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub curves: Vec<Curve>,
}

impl Chart {
    /// Draws the chart as SVG.
    pub fn draw(&self) -> Result<Plot, ReportError> {
        let mut svg = String::new();
        self.draw_into(&mut svg)
            .map_err(|e| ReportError::Draw { plot: self.name.clone(), reason: e.to_string() })?;
        Ok(Plot { name: self.name.clone(), svg })
    }

    fn draw_into(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let legend_height = LEGEND_LINE as u32 * (self.curves.len() as u32 + 1);
        let whole = (SIZE.0, SIZE.1 + legend_height);
        let area = SVGBackend::with_string(svg, whole).into_drawing_area();
        area.fill(&WHITE)?;
        let (upper, lower) = area.split_vertically(SIZE.1);
        let mut chart = ChartBuilder::on(&upper)
            .caption(&self.title, ("sans-serif", 20))
            .margin(14)
            .margin_right(30)
            .x_label_area_size(50)
            .y_label_area_size(86)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        chart
            .configure_mesh()
            .x_desc(&self.x.title)
            .y_desc(&self.y.title)
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 16))
            .bold_line_style(BLACK.mix(0.15))
            .draw()?;
        for (curve, colour) in self.curves.iter().zip(COLOURS.into_iter().cycle()) {
            let points = self.placed(&curve.points);
            chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            if curve.marked {
                chart.draw_series(points.iter().map(|p| Circle::new(*p, 4, colour.filled())))?;
            }
            let fit = self.placed(&curve.fit);
            chart.draw_series(DashedLineSeries::new(fit, 6, 4, colour.mix(0.6).stroke_width(1)))?;
        }
        for ((curve, colour), line) in self.curves.iter().zip(COLOURS.into_iter().cycle()).zip(0..)
        {
            let y = line * LEGEND_LINE + LEGEND_LINE / 2;
            lower.draw(&PathElement::new([(100, y), (124, y)], colour.stroke_width(3)))?;
            let style = ("sans-serif", 15).into_text_style(&lower);
            lower.draw(&Text::new(curve.label.as_str(), (134, y - 9), style))?;
        }
        area.present()?;
        Ok(())
    }

    fn placed(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        points.iter().filter_map(|(x, y)| Some((self.x.place(*x)?, self.y.place(*y)?))).collect()
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    /// The ticks are the axis' own. Asked for light lines between them, it has
    /// none.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|tick| tick.0).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}
