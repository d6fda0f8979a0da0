//! Why containers go where they go, as the filters that Skep comes with tell it.

use serde_json::{Value, json};

use crate::{bed::Bed, http::exchange};

fn explain(bed: &Bed, method: &str, query: &str, body: &Value) -> Value {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let path = format!("/skep/explain{query}");
    let answer = exchange(bed.manager.address(), method, &path, &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

/// The nodes a filter refused, and what it was asked.
fn refused(explained: &Value, filter: &str) -> (Vec<String>, String) {
    let steps = explained["Filters"].as_array().expect("a list").iter();
    let mut own = steps.filter(|step| step["Filter"] == filter);
    let step = own
        .next()
        .unwrap_or_else(|| panic!("no {filter}: {explained}"));
    let nodes = step["Refused"].as_array().expect("a list").iter();
    let nodes = nodes.map(|node| node["Name"].as_str().expect("a name").to_owned());
    (nodes.collect(), step["Conditions"].to_string())
}

/// Runs `skep explain` against the manager of a bed.
fn command(bed: &Bed, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_skep"))
        .arg("explain")
        .args(["-H", &format!("tcp://{}", bed.manager.address())])
        .args(arguments)
        .output()
        .expect("skep starts");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8(text).expect("text"),
    )
}

#[test]
fn the_command_says_it_in_words() {
    let bed = Bed::new(&[]);
    let create = [
        "--",
        "-d",
        "-e",
        "constraint:node==node-1",
        "-p",
        "8090:80",
        "busybox",
        "top",
    ];
    let (_, text) = command(&bed, &create);
    assert!(text.starts_with("It goes to node-1 ("), "{text}");
    let refused = text.lines().find(|line| line.starts_with("constraint "));
    let refused = refused.unwrap_or_else(|| panic!("{text}"));
    assert!(refused.contains("node==node-1"), "{refused}");
    assert!(refused.ends_with("node-0, node-2"), "{refused}");

    bed.sleeper("web", &["-p", "8090:80", "-e", "constraint:node==node-1"]);
    let (_, text) = command(&bed, &create);
    assert!(text.starts_with("It goes nowhere: "), "{text}");
    let (_, text) = command(&bed, &["--container", "web", "--json"]);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["Chosen"]["Name"], "node-1");

    let (is_well, text) = command(&bed, &["--container", "nobody"]);
    assert!(!is_well && text.contains("nobody"), "{text}");
    let (is_well, text) = command(&bed, &["--", "--gpus", "all", "busybox"]);
    assert!(!is_well && text.contains("-gpus"), "{text}");
}

#[test]
fn filters_tell_what_they_refuse_and_why() {
    let bed = Bed::new(&[]);
    let body = json!({
        "Image": "busybox",
        "Env": ["constraint:node==node-1", "affinity:container==~nobody"],
    });
    let explained = explain(&bed, "POST", "?name=web", &body);
    assert_eq!(explained["Chosen"]["Name"], "node-1");
    let (nodes, conditions) = refused(&explained, "constraint");
    assert!(nodes.contains(&"node-0".to_owned()), "{nodes:?}");
    assert!(conditions.contains("node==node-1"), "{conditions}");
    let steps = explained["Filters"].as_array().expect("a list").iter();
    let mut wishes = steps.filter(|step| step["Soft"] == true);
    assert_eq!(
        wishes.next().map(|step| &step["Dropped"]),
        Some(&json!(true))
    );
    assert!(bed.ps(&["-a"]).is_empty());

    bed.sleeper("web", &["-p", "8090:80", "-e", "constraint:node==node-1"]);
    let own = explain(&bed, "GET", "?container=web", &Value::Null);
    assert_eq!(own["Chosen"]["Name"], "node-1", "{own}");
    let body = json!({
        "Image": "busybox",
        "Env": ["constraint:node==node-1"],
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8090"}]}},
    });
    let explained = explain(&bed, "POST", "", &body);
    assert_eq!(explained["Chosen"], Value::Null);
    assert!(
        explained["Error"]
            .as_str()
            .is_some_and(|error| error.contains("8090"))
    );
    let (nodes, conditions) = refused(&explained, "port");
    assert_eq!(nodes, ["node-1"]);
    assert!(conditions.contains("8090"), "{conditions}");
}
