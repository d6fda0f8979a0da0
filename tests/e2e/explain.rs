//! Why containers go where they go, as the filters that Skep comes with tell it.

use serde_json::{Value, json};

use crate::{bed::Bed, docker::Docker, http::exchange, recorder::Recorder};

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
    command_at(bed.manager.address(), arguments)
}

fn command_at(address: &str, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_skep"))
        .arg("explain")
        .args(["-H", &format!("tcp://{address}")])
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

/// The members of a create request that bear on where a container goes.
const MEMBERS: [&str; 22] = [
    "/Image",
    "/Cmd",
    "/Env",
    "/Labels",
    "/ExposedPorts",
    "/Volumes",
    "/HostConfig/PortBindings",
    "/HostConfig/PublishAllPorts",
    "/HostConfig/NetworkMode",
    "/HostConfig/PidMode",
    "/HostConfig/IpcMode",
    "/HostConfig/Links",
    "/HostConfig/VolumesFrom",
    "/HostConfig/VolumeDriver",
    "/HostConfig/Binds",
    "/HostConfig/Mounts",
    "/HostConfig/Memory",
    "/HostConfig/MemoryReservation",
    "/HostConfig/NanoCpus",
    "/HostConfig/CpuShares",
    "/NetworkingConfig/EndpointsConfig/lan/Aliases",
    "/NetworkingConfig/EndpointsConfig/lan/IPAMConfig/IPv4Address",
];

/// One member, in the same words whether it is empty or absent.
fn member(body: &Value, pointer: &str) -> Value {
    let mut value = body.pointer(pointer).cloned().unwrap_or_default();
    if let Some(mounts) = value.as_array_mut().filter(|_| pointer.ends_with("Mounts")) {
        for mount in mounts {
            // One of the two leaves out what is not set.
            let is_read_only = mount["ReadOnly"] == true;
            mount["ReadOnly"] = json!(is_read_only);
        }
    }
    match &value {
        Value::Array(list) if list.is_empty() => Value::Null,
        Value::Object(members) if members.is_empty() => Value::Null,
        Value::String(text) if text.is_empty() => Value::Null,
        Value::Number(number) if number.as_i64() == Some(0) => Value::Null,
        Value::Bool(false) => Value::Null,
        _ => value,
    }
}

#[test]
fn what_is_explained_is_what_the_docker_command_would_create() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("variables");
    std::fs::write(&file, "# of a file\nA=1\nHOME\n").expect("a file");
    let file = file.display();
    let lines = [
        "busybox".to_owned(),
        format!("--env-file {file} -e A=2 -e HOME -e NOT_SET_AT_ALL busybox top -b"),
        format!("--label-file {file} -l tier=front -l bare busybox"),
        "-p 80:80 -p 8000-8002:9000-9002/udp -p 127.0.0.1::53 -p 7000-7010:70 -P busybox"
            .to_owned(),
        "-p [::1]:443:443 -p published=81,target=81 --expose 90-92 --expose 5/udp busybox"
            .to_owned(),
        "--network lan --network-alias a --network-alias b --ip 10.9.8.7 busybox".to_owned(),
        "--net host --pid host --ipc shareable --uts host --userns host busybox".to_owned(),
        "--net container:web --pid container:web --ipc container:web busybox".to_owned(),
        "--link db --link cache:store --volumes-from data:ro --volumes-from web busybox".to_owned(),
        "-v /data -v /srv:/srv:ro -v named:/n --volume-driver local busybox".to_owned(),
        "--mount type=bind,src=/srv,dst=/srv,readonly --mount source=data,target=/d busybox"
            .to_owned(),
        "-m 512m --memory-reservation 1.5g --memory-swap 2GiB --cpus 1.5 -c 3 busybox".to_owned(),
        "--cpuset-cpus 0,1 --cap-add NET_ADMIN --cap-drop ALL --read-only --init busybox"
            .to_owned(),
        "--log-driver none --add-host a:10.0.0.1 --restart on-failure:3 busybox".to_owned(),
        "--ulimit nofile=10:20 --device /dev/null --tmpfs /run --sysctl net.a=1 busybox".to_owned(),
        "--shm-size 64m --health-cmd true --health-interval 5s --no-healthcheck=false busybox"
            .to_owned(),
        "-it --hostname h --user 1:1 --workdir / --entrypoint sh --stop-signal INT busybox"
            .to_owned(),
        "--stop-timeout 5 --security-opt label=disable --cgroup-parent /x busybox".to_owned(),
        "--rm --name web --pull never --platform linux/amd64 -- busybox --name other".to_owned(),
    ];
    let recorder = Recorder::start();
    for program in Docker::programs() {
        println!("--- with {}", program.display());
        let docker = Docker::current(recorder.address()).with_program(program);
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            docker.ok(&[&["create"], &words[..]].concat());
            let wanted = recorder.last("/containers/create");
            let explained = [&["--json", "--"], &words[..]].concat();
            let (is_well, text) = command_at(recorder.address(), &explained);
            assert!(is_well, "{line}: {text}");
            let sent = recorder.last("/skep/explain");
            for pointer in MEMBERS {
                let [wanted, sent] = [&wanted, &sent].map(|body| member(body, pointer));
                assert_eq!(sorted(sent), sorted(wanted), "{line}: {pointer}");
            }
        }
    }
    let docker = Docker::current(recorder.address());
    for words in [&["--colour", "red"][..], &["-z", "busybox"], &["--name"]] {
        let said = docker.refused(&[&["create"], words].concat());
        let (is_well, text) = command_at(recorder.address(), &[&["--"], words].concat());
        let first = said.lines().next().unwrap_or_default();
        assert!(!is_well && text.contains(first), "{said} {text}");
    }
}

/// The docker command does not keep the order of binds.
fn sorted(mut value: Value) -> Value {
    if let Some(list) = value.as_array_mut() {
        list.sort_by_key(ToString::to_string);
    }
    value
}
