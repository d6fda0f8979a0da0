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
