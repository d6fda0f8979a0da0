//! Reads a trace line by line: however large it is, one line is in memory.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use csv::StringRecord;

use super::{
    Micros,
    timeline::{Arrival, Event, Stay, Task, request},
};
use crate::{
    config::workload::{
        Shape, Trace, TraceFormat, parse_cores, parse_directive, parse_memory, parse_port,
    },
    model::{directive::Kind, resource::Amount},
};

/// The columns of Skep's own traces, which may stand in any order.
const SKEP: [&str; 8] = [
    "arrival", "lifetime", "cpus", "memory", "image", "labels", "env", "ports",
];

/// The columns of `task_events`, in the words of its `schema.csv`.
const GOOGLE: [&str; 13] = [
    "time",
    "missing info",
    "job ID",
    "task index",
    "machine ID",
    "event type",
    "user",
    "scheduling class",
    "priority",
    "CPU request",
    "memory request",
    "disk space request",
    "different machines restriction",
];

/// The time of Google's events that happened after the trace ended.
const AFTER_GOOGLE: Micros = i64::MAX as Micros;

/// The label that Google's tasks of one job have in common.
const JOB_LABEL: &str = "job";

/// A trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot read `{}`: {source}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no CSV, or reading failed.
    #[error("{}: {source}", .path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: csv::Error,
    },
    /// A field is wrong.
    #[error("{}: line {line}: {column}: {text}", .path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// The column's name.
        column: String,
        /// What is wrong.
        text: String,
    },
}

/// A trace that is being read.
pub(super) struct TraceReader {
    path: PathBuf,
    rows: csv::Reader<File>,
    row: StringRecord,
    columns: Columns,
    last_at: Micros,
    class: usize,
}

enum Columns {
    /// Which field each of [`SKEP`] is.
    Skep([Option<usize>; SKEP.len()]),
    Google {
        largest: Amount,
    },
}

/// One line.
struct Row<'a> {
    path: &'a Path,
    fields: &'a StringRecord,
}

impl TraceReader {
    /// Opens a trace whose containers are of class `class`.
    pub fn open(trace: &Trace, class: usize) -> Result<Self, TraceError> {
        let path = trace.path.clone();
        let file = File::open(&path).map_err(|source| TraceError::Open {
            path: path.clone(),
            source,
        })?;
        let is_own = trace.format == TraceFormat::Skep;
        let mut rows = csv::ReaderBuilder::new()
            .has_headers(is_own)
            .from_reader(file);
        let columns = match trace.format {
            TraceFormat::Google2011 { largest } => Columns::Google { largest },
            TraceFormat::Skep => {
                let names = rows.headers().map_err(|source| TraceError::Csv {
                    path: path.clone(),
                    source,
                })?;
                Columns::Skep(find_columns(&path, names)?)
            }
        };
        Ok(Self {
            path,
            rows,
            row: StringRecord::new(),
            columns,
            last_at: 0,
            class,
        })
    }

    /// The next event; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Event>, TraceError> {
        loop {
            let more = self.rows.read_record(&mut self.row);
            let more = more.map_err(|source| TraceError::Csv {
                path: self.path.clone(),
                source,
            })?;
            if !more {
                return Ok(None);
            }
            let row = Row {
                path: &self.path,
                fields: &self.row,
            };
            let (time_field, event) = match &self.columns {
                Columns::Skep(columns) => {
                    (columns[0].unwrap_or(0), Some(row.own(columns, self.class)?))
                }
                Columns::Google { largest } => (0, row.google(*largest, self.class)?),
            };
            let Some(event) = event else {
                continue;
            };
            let at = event.at();
            if at < self.last_at {
                return Err(row.error(
                    match self.columns {
                        Columns::Skep(_) => SKEP[0],
                        Columns::Google { .. } => GOOGLE[0],
                    },
                    format!(
                        "`{}` is before the time of the line above: sort the file",
                        &row.fields[time_field]
                    ),
                ));
            }
            self.last_at = at;
            if at == AFTER_GOOGLE {
                return Ok(None);
            }
            return Ok(Some(event));
        }
    }
}

fn find_columns(
    path: &Path,
    names: &StringRecord,
) -> Result<[Option<usize>; SKEP.len()], TraceError> {
    let mut columns = [None; SKEP.len()];
    let error = |column: &str, text: &str| TraceError::Field {
        path: path.to_owned(),
        line: 1,
        column: column.to_owned(),
        text: text.to_owned(),
    };
    for (field, name) in names.iter().enumerate() {
        let known = SKEP.iter().position(|known| *known == name.trim());
        let column = known.ok_or_else(|| error(name, "unknown column"))?;
        if columns[column].replace(field).is_some() {
            return Err(error(name, "the column is there twice"));
        }
    }
    match columns[0] {
        Some(_) => Ok(columns),
        None => Err(error(SKEP[0], "the column is missing")),
    }
}

impl Row<'_> {
    fn own(
        &self,
        columns: &[Option<usize>; SKEP.len()],
        class: usize,
    ) -> Result<Event, TraceError> {
        let field = |column: usize| columns[column].map_or("", |field| self.fields[field].trim());
        let seconds = |column: usize| {
            let seconds = field(column).parse::<f64>().ok();
            let seconds = seconds.filter(|seconds| (0.0..=1e12).contains(seconds));
            let seconds = seconds.ok_or_else(|| {
                let text = format!("must be seconds from 0 to 1e12, not `{}`", field(column));
                self.error(SKEP[column], text)
            })?;
            Ok::<_, TraceError>((seconds * 1e6).round() as Micros)
        };
        let mut shape = Shape {
            image: match field(4) {
                "" => "scratch".to_owned(),
                image => image.to_owned(),
            },
            ..Shape::default()
        };
        if !field(2).is_empty() {
            let cores = field(2).parse::<f64>();
            let cores = cores.map_err(|error| format!("`{}`: {error}", field(2)));
            let cpu_nano = cores.and_then(parse_cores);
            shape.need.cpu_nano = cpu_nano.map_err(|text| self.error(SKEP[2], text))?;
        }
        if !field(3).is_empty() {
            let bytes = parse_memory(field(3));
            shape.need.memory_bytes = bytes.map_err(|text| self.error(SKEP[3], text))?;
        }
        let parts = |column: usize| field(column).split(';').filter(|part| !part.is_empty());
        for label in parts(5) {
            let (key, value) = label.split_once('=').ok_or_else(|| {
                self.error(SKEP[5], format!("must be `KEY=VALUE;…`, not `{label}`"))
            })?;
            shape.labels.insert(key.to_owned(), value.to_owned());
        }
        for text in parts(6) {
            let directive = parse_directive(text).map_err(|text| self.error(SKEP[6], text))?;
            shape.directives.push(directive.0, directive.1);
        }
        for text in parts(7) {
            let port = parse_port(text).map_err(|text| self.error(SKEP[7], text))?;
            shape.ports.push(port);
        }
        Ok(Event::Arrives(Arrival {
            at: seconds(0)?,
            class,
            request: Arc::new(request(&shape)),
            stay: match field(1) {
                "" => Stay::Endless,
                _ => Stay::For(seconds(1)?),
            },
        }))
    }

    /// An event of a task, if it comes or goes.
    fn google(&self, largest: Amount, class: usize) -> Result<Option<Event>, TraceError> {
        if self.fields.len() != GOOGLE.len() {
            let count = format!("has {} fields, not {}", self.fields.len(), GOOGLE.len());
            return Err(self.error("the line", count));
        }
        let at = self.number(0)?;
        let task: Task = (self.number(2)?, self.number(3)?);
        match self.number(5)? {
            // Submit.
            0 => {}
            // Evict, fail, finish, kill, lost. Who is evicted and runs again is submitted again.
            2..=6 => return Ok(Some(Event::Leaves { at, task })),
            // Scheduled there, and updates, which classic Docker could not follow either.
            1 | 7 | 8 => return Ok(None),
            other => {
                let text = format!("must be from 0 to 8, not `{other}`");
                return Err(self.error(GOOGLE[5], text));
            }
        }
        let mut shape = Shape {
            image: "scratch".to_owned(),
            need: Amount {
                cpu_nano: self.part_of(9, largest.cpu_nano)?,
                memory_bytes: self.part_of(10, largest.memory_bytes)?,
            },
            ..Shape::default()
        };
        if &self.fields[12] == "1" {
            let job = task.0.to_string();
            let apart = format!("{JOB_LABEL}!={job}");
            shape.directives.push(Kind::Affinity, apart);
            shape.labels.insert(JOB_LABEL.to_owned(), job);
        }
        Ok(Some(Event::Arrives(Arrival {
            at,
            class,
            request: Arc::new(request(&shape)),
            stay: Stay::Task(task),
        })))
    }

    fn number(&self, column: usize) -> Result<u64, TraceError> {
        let text = &self.fields[column];
        let number = text.parse();
        number.map_err(|_| {
            self.error(
                GOOGLE[column],
                format!("must be a whole number, not `{text}`"),
            )
        })
    }

    /// A share of `whole`; where nothing is said, nothing is asked for.
    fn part_of(&self, column: usize, whole: u64) -> Result<u64, TraceError> {
        let text = &self.fields[column];
        if text.is_empty() {
            return Ok(0);
        }
        let share = text.parse::<f64>().ok();
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        let share = share.ok_or_else(|| {
            self.error(
                GOOGLE[column],
                format!("must be a share from 0 to 1, not `{text}`"),
            )
        })?;
        Ok((share * whole as f64).round() as u64)
    }

    fn error(&self, column: &str, text: String) -> TraceError {
        TraceError::Field {
            path: self.path.to_owned(),
            line: self.fields.position().map_or(0, csv::Position::line),
            column: column.to_owned(),
            text,
        }
    }
}
