//! Whole runs, with plain Rust in the place of plugins.

use std::{fs, path::Path};

use super::*;
use crate::scheduler::request::Request;
use crate::{
    model::directive::Kind,
    scheduler::{Applies, Call, Filter, PolicyError, Ranked, Strategy, node_set::NodeSet},
};

/// Takes nodes with room for the memory asked for: the first one, or one that is drawn.
struct Fitting {
    is_drawn: bool,
}

impl Strategy for Fitting {
    fn name(&self) -> &str {
        "fitting"
    }
    fn rank(
        &mut self,
        call: &Call<'_>,
        request: &Request,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>, PolicyError> {
        let has_room = |slot: &u32| {
            let total = call.nodes.node(*slot).unwrap().total.memory_bytes;
            call.nodes.usage(*slot).reserved.memory_bytes + request.need.memory_bytes <= total
        };
        let mut slots: Vec<u32> = candidates.iter().filter(has_room).collect();
        if self.is_drawn && !slots.is_empty() {
            let first = (call.seed % slots.len() as u64) as usize;
            slots.rotate_left(first);
        }
        let ranked = slots.into_iter().map(|slot| Ranked { slot, score: 0 });
        Ok(ranked.take(limit).collect())
    }
}

/// Refuses every node to containers whose image is called `none`.
struct Image {
    refuses: bool,
}

impl Filter for Image {
    fn name(&self) -> &str {
        "image"
    }
    fn expressions(&self) -> &[Kind] {
        &[]
    }
    fn prepare(&mut self, _: &Call<'_>, request: &Request) -> Result<Applies, PolicyError> {
        self.refuses = request.image == "none";
        Ok(Applies::Yes)
    }
    fn filter(&mut self, call: &Call<'_>, candidates: &NodeSet) -> Result<NodeSet, PolicyError> {
        match self.refuses {
            true => Ok(NodeSet::with_slots(call.nodes.slots())),
            false => Ok(candidates.clone()),
        }
    }
    fn explain(&mut self) -> Vec<String> {
        vec!["some image".to_owned()]
    }
}

fn run(workload: &str, directory: &Path, seed: u64, is_drawn: bool) -> Run {
    let workload = Workload::parse(workload, directory).unwrap();
    let simulation = Simulation::try_new(workload, seed).unwrap();
    let filter = Image { refuses: false };
    let scheduler = Scheduler::new(vec![Box::new(filter)], Box::new(Fitting { is_drawn }));
    let mut run = simulation.run("fitting", scheduler, 0.0).unwrap();
    assert!(run.decisions.take().is_some());
    run
}

/// Two nodes with 4 GB each, and a trace.
fn replay(trace: &str) -> Run {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("t.csv"), trace).unwrap();
    let workload = "
        [[nodes]]
        name = \"n\"
        count = 2
        cpus = 4
        memory = \"4g\"
        [trace]
        path = \"t.csv\"
        format = \"skep\"";
    run(workload, directory.path(), 1, false)
}

const BUSY: &str = r#"
    duration = "10m"
    [[nodes]]
    name = "n"
    count = 20
    cpus = 4
    memory = "4g"
    [[containers]]
    name = "web"
    memory = "1g"
    arrivals = { process = "poisson", every = "1s" }
    lifetime = { distribution = "log-normal", median = "1m", sigma = 1.0 }
    [[containers]]
    name = "job"
    cpus = 1.0
    arrivals = { process = "bursts", size = 20, every = "50s" }
    lifetime = { distribution = "exponential", mean = "30s" }"#;

#[test]
fn one_seed_gives_one_report() {
    let here = Path::new(".");
    let first = run(BUSY, here, 7, true);
    assert_eq!(first, run(BUSY, here, 7, true));
    assert_ne!(first, run(BUSY, here, 8, true));
    assert!(first.arrivals > 700 && first.left > 500, "{first:?}");
}

#[test]
fn every_container_is_refused_or_leaves_or_stays() {
    let run = run(BUSY, Path::new("."), 3, false);
    assert_eq!(run.arrivals, run.refused + run.left + run.running_at_end);
    let arrivals: u64 = run.classes.iter().map(|class| class.arrivals).sum();
    assert_eq!(run.arrivals, arrivals);
    let refused: u64 = run.refusals.iter().map(|refusal| refusal.count).sum();
    assert_eq!(run.refused, refused);
    assert_eq!(run.series.last().unwrap().refused, refused);
}

#[test]
fn what_leaves_makes_room_for_what_comes_at_the_same_moment() {
    let run = replay("arrival,lifetime,memory\n0,10,4g\n0,10,4g\n10,5,4g\n10,5,4g\n12,5,4g\n");
    assert_eq!((run.arrivals, run.refused), (5, 1));
    assert_eq!(run.refusals[0].by, "strategy fitting");
    assert_eq!(
        run.running_at_end, 2,
        "the trace ends when its last container comes"
    );
}

#[test]
fn the_filter_that_refused_is_told() {
    let run = replay("arrival,image\n0,none\n1,some\n2,none\n");
    let refusal = report::Refusal {
        by: "filter image".to_owned(),
        count: 2,
        first: "some image".to_owned(),
    };
    assert_eq!(run.refusals, [refusal]);
}

#[test]
fn means_are_over_time() {
    // One of two nodes full for 5 of 20 seconds.
    let run = replay("arrival,lifetime,cpus,memory\n0,5,1,4g\n20,1,,\n");
    assert!((run.mean.memory - 0.125).abs() < 1e-9, "{:?}", run.mean);
    assert!((run.peak.memory - 0.5).abs() < 1e-9);
    assert!((run.mean.cpu - 0.125 / 4.0).abs() < 1e-9);
    assert!((run.mean.nodes_used - 0.25).abs() < 1e-9);
    assert!((run.mean.load_deviation - 0.125).abs() < 1e-9);
    assert!((run.peak.fairness - 0.5).abs() < 1e-9);
    assert_eq!(run.series.len(), 200);
}

#[test]
fn a_task_of_googles_trace_stays_until_its_end() {
    let directory = tempfile::tempdir().unwrap();
    // Tasks of one job are submitted, scheduled, finished, evicted and submitted again; another has
    // no requests.
    let trace = "\
0,,7,0,,0,u,2,9,0.25,0.5,0.001,1
0,,7,1,,0,u,2,9,0.25,0.5,0.001,1
1000000,,7,0,4,1,u,2,9,0.25,0.5,0.001,1
2000000,,8,0,,0,u,2,9,,,,0
4000000,,7,1,4,4,u,2,9,,,,1
5000000,,7,2,,0,u,2,9,0.25,0.5,0.001,1
8000000,,7,0,4,2,u,2,9,0.25,0.5,0.001,1
8000000,,7,0,,0,u,2,9,0.25,0.5,0.001,1
9223372036854775807,,7,0,4,5,u,2,9,0.25,0.5,0.001,1
";
    fs::write(directory.path().join("t.csv"), trace).unwrap();
    let workload = "
        [[nodes]]
        name = \"n\"
        count = 2
        cpus = 4
        memory = \"4g\"
        [trace]
        path = \"t.csv\"
        format = \"google-2011\"
        largest-machine = { cpus = 4, memory = \"4g\" }";
    let run = run(workload, directory.path(), 1, false);
    assert_eq!((run.arrivals, run.refused, run.left), (5, 0, 2));
    assert_eq!(run.running_at_end, 3);
    // 2 GB twice for 4 s, once for 1 s, twice for 3 s, of 8 GB.
    assert!((run.mean.memory - 0.46875).abs() < 1e-9, "{:?}", run.mean);
}

#[test]
fn a_wrong_trace_is_told_before_anything_is_run() {
    let check = |format: &str, trace: &str, expected: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.csv");
        fs::write(&path, trace).unwrap();
        let workload = format!(
            "[[nodes]]\nname = \"n\"\ncount = 2\ncpus = 4\nmemory = \"4g\"\n\
             [trace]\npath = \"t.csv\"\nformat = {format}"
        );
        let workload = Workload::parse(&workload, directory.path()).unwrap();
        let error = Simulation::try_new(workload, 1).err().unwrap().to_string();
        let error = error.replace(&path.display().to_string(), "t.csv");
        assert_eq!(error, expected, "{trace}");
    };
    let own = |trace: &str, expected: &str| check("\"skep\"", trace, expected);
    own(
        "lifetime\n1\n",
        "t.csv: line 1: arrival: the column is missing",
    );
    own("arrival,colour\n", "t.csv: line 1: colour: unknown column");
    own(
        "arrival,arrival\n",
        "t.csv: line 1: arrival: the column is there twice",
    );
    own("arrival\n", "no container comes before the workload ends");
    own(
        "arrival\n5\n4\n",
        "t.csv: line 3: arrival: `4` is before the time of the line above: sort the file",
    );
    own(
        "arrival\n-1\n",
        "t.csv: line 2: arrival: must be seconds from 0 to 1e12, not `-1`",
    );
    own(
        "arrival,memory\n0,12q\n",
        "t.csv: line 2: memory: invalid suffix: 'q'",
    );
    own(
        "arrival,labels\n0,a\n",
        "t.csv: line 2: labels: must be `KEY=VALUE;…`, not `a`",
    );
    own(
        "arrival,env\n0,constraint:a\n",
        "t.csv: line 2: env: `constraint:a`: One of operator ==, != is expected",
    );
    own(
        "arrival,memory\n0\n",
        "t.csv: CSV error: record 1 (line: 2, byte: 15): found record with 1 fields, but the \
         previous record has 2 fields",
    );
    let google = |trace: &str, expected: &str| {
        let machine = "largest-machine = { cpus = 4, memory = \"4g\" }";
        check(&format!("\"google-2011\"\n{machine}"), trace, expected);
    };
    google("0,,7\n", "t.csv: line 1: the line: has 3 fields, not 13");
    google(
        "0,,7,0,,9,u,2,9,0.25,0.5,0.001,1\n",
        "t.csv: line 1: event type: must be from 0 to 8, not `9`",
    );
    google(
        "0,,7,0,,0,u,2,9,1.25,0.5,0.001,1\n",
        "t.csv: line 1: CPU request: must be a share from 0 to 1, not `1.25`",
    );
    google(
        "0,,x,0,,0,u,2,9,0.25,0.5,0.001,1\n",
        "t.csv: line 1: job ID: must be a whole number, not `x`",
    );
}

#[test]
fn a_chart_has_a_line_for_each_run_in_each_panel() {
    let here = Path::new(".");
    let workload = Workload::parse(BUSY, here).unwrap();
    let simulation = Simulation::try_new(workload, 1).unwrap();
    let mut report = simulation.report("busy <&>".to_owned(), Vec::new());
    report.runs = vec![run(BUSY, here, 1, false), run(BUSY, here, 1, true)];
    let svg = draw(&report).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("busy &lt;&amp;&gt;"), "{svg}");
    // A line of 200 points each; those of the mesh and the legend are short.
    let is_long = |line: &&str| line.matches(',').count() >= 200;
    let lines = svg.split("<polyline").filter(is_long).count();
    assert_eq!(lines, 12);
}
