//! The course of time as a picture: one panel for each figure, one line for each strategy.

use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, SeriesLabelPosition},
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::PathElement,
    series::LineSeries,
    style::{Color, Palette, Palette99, WHITE},
};

use super::{
    meter::Point,
    report::{Report, Run},
};

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 220;
const FONT: &str = "sans-serif";
/// The panel that tells whose line is whose.
const REFUSED: &str = "refused so far";

/// The picture cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("the chart cannot be drawn: {0}")]
pub struct ChartError(String);

/// What a panel shows of a point.
struct Panel {
    caption: &'static str,
    value: fn(&Point) -> f64,
}

const PANELS: [Panel; 6] = [
    Panel {
        caption: "CPU set aside, %",
        value: |point| point.figures.cpu * 100.0,
    },
    Panel {
        caption: "memory set aside, %",
        value: |point| point.figures.memory * 100.0,
    },
    Panel {
        caption: "standard deviation of node loads, % of a node",
        value: |point| point.figures.load_deviation * 100.0,
    },
    Panel {
        caption: "free memory where the largest container does not fit, %",
        value: |point| point.figures.stranded_memory_largest * 100.0,
    },
    Panel {
        caption: "nodes used",
        value: |point| point.figures.nodes_used,
    },
    Panel {
        caption: REFUSED,
        value: |point| point.refused as f64,
    },
];

/// Returns the report as an SVG picture.
///
/// # Errors
///
/// [`ChartError`]; nothing that a report can hold should lead to it.
pub fn draw(report: &Report) -> Result<String, ChartError> {
    let mut text = String::new();
    {
        let size = (WIDTH, PANEL_HEIGHT * PANELS.len() as u32);
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let title = format!(
            "{}, {} nodes, seed {}",
            report.workload, report.nodes, report.seed
        );
        root.fill(&WHITE).map_err(error)?;
        let areas = root
            .titled(&title, (FONT, 18))
            .map_err(error)?
            .split_evenly((PANELS.len(), 1));
        for (panel, area) in PANELS.iter().zip(&areas) {
            draw_panel(area, panel, &report.runs).map_err(error)?;
        }
        root.present().map_err(error)?;
    }
    Ok(text)
}

type SvgArea<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type SvgError =
    DrawingAreaErrorKind<<SVGBackend<'static> as plotters::prelude::DrawingBackend>::ErrorType>;

fn draw_panel(area: &SvgArea<'_>, panel: &Panel, runs: &[Run]) -> Result<(), SvgError> {
    let hours = |point: &Point| point.until_seconds / 3600.0;
    let points = || runs.iter().flat_map(|run| &run.series);
    let end = points().map(hours).fold(0.0, f64::max);
    let highest = points().map(panel.value).fold(0.0, f64::max);
    // An axis has a length, even if all is zero.
    let top = if highest > 0.0 { highest * 1.05 } else { 1.0 };
    let mut chart = ChartBuilder::on(area)
        .caption(panel.caption, (FONT, 14))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("hours")
        .y_labels(6)
        .light_line_style(WHITE)
        .draw()?;
    for (index, run) in runs.iter().enumerate() {
        let color = Palette99::pick(index).mix(1.0);
        let line = run
            .series
            .iter()
            .map(|point| (hours(point), (panel.value)(point)));
        chart
            .draw_series(LineSeries::new(line, color))?
            .label(&run.strategy)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    // Once is enough, where the lines begin at the bottom.
    if panel.caption != REFUSED {
        return Ok(());
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
}

fn error(error: SvgError) -> ChartError {
    ChartError(error.to_string())
}
