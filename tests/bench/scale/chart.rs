//! Latency of creates and memory against the size of the fleet, as a picture.

use std::{error::Error, path::Path};

use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::{Shift, combinators::IntoLogRange},
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Circle, PathElement},
    series::LineSeries,
    style::{Color, Palette, Palette99, WHITE},
};

use super::report::Report;

const SIZE: (u32, u32) = (900, 340);
const FONT: &str = "sans-serif";

/// What a panel shows, and in which unit.
struct Panel {
    caption: &'static str,
    lines: &'static [Line],
}

type Line = (&'static str, fn(&Report) -> f64);

const PANELS: [Panel; 2] = [
    Panel {
        caption: "create with 8 clients, ms",
        lines: &[
            ("median", |report| report.create_p50_ms),
            ("99th percentile", |report| report.create_p99_ms),
        ],
    },
    Panel {
        caption: "resident memory, MB",
        lines: &[
            ("idle", |report| report.idle_bytes as f64 / 1e6),
            ("after all loads", |report| report.loaded_bytes as f64 / 1e6),
        ],
    },
];

/// Draws the reports, which are of fleets of different sizes, to an SVG file.
pub fn draw(path: &Path, mut reports: Vec<Report>) -> Result<(), Box<dyn Error + '_>> {
    reports.sort_by_key(|report| report.engines);
    let (Some(first), Some(last)) = (reports.first(), reports.last()) else {
        return Err("there is nothing to draw".into());
    };
    let range = first.engines as f64..(last.engines as f64).max(first.engines as f64 + 1.0);
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in PANELS.iter().zip(root.split_evenly((1, PANELS.len()))) {
        draw_panel(&area, panel, &reports, range.clone())?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    panel: &Panel,
    reports: &[Report],
    range: std::ops::Range<f64>,
) -> Result<(), Box<dyn Error + 'a>> {
    let values = || {
        panel
            .lines
            .iter()
            .flat_map(|(_, value)| reports.iter().map(value))
    };
    let top = values().fold(0.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.caption, (FONT, 15))
        .margin(10)
        .x_label_area_size(34)
        .y_label_area_size(56)
        .build_cartesian_2d(range.log_scale(), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("engines")
        .x_label_formatter(&|engines| format!("{engines:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for (index, (name, value)) in panel.lines.iter().enumerate() {
        let color = Palette99::pick(index).mix(1.0);
        let points = || {
            let points = reports.iter();
            points.map(|report| (report.engines as f64, value(report)))
        };
        chart
            .draw_series(LineSeries::new(points(), color))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
