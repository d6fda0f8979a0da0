use serde_json::json;

use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn create(line: &str) -> Result<Create, String> {
    parse(&words(line), &|name| {
        (name == "HOME").then(|| "/root".to_owned())
    })
}

#[track_caller]
fn check(line: &str, pointer: &str, wanted: &Value) {
    let create = create(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(create.body.pointer(pointer), Some(wanted), "{line}");
}

#[test]
fn a_pasted_command_line_is_what_docker_would_ask_for() {
    let line = "-d --rm -it -e constraint:rack==r1 -l tier=front --net front -p 8080:80 -p 127.0.0.1::53/udp \
                -m 512m --cpus 1.5 -c 2 --link db:db --volumes-from data -v /srv:/srv --name web nginx -g \
                daemon --name=x";
    assert_eq!(create(line).unwrap().name, "web");
    let binding = |ip: &str, port: &str| json!([{"HostIp": ip, "HostPort": port}]);
    for (pointer, wanted) in [
        ("/Image", json!("nginx")),
        ("/Cmd", json!(["-g", "daemon", "--name=x"])),
        ("/Env", json!(["constraint:rack==r1"])),
        ("/Labels", json!({"tier": "front"})),
        ("/ExposedPorts", json!({"80/tcp": {}, "53/udp": {}})),
        ("/HostConfig/PortBindings/80~1tcp", binding("", "8080")),
        ("/HostConfig/PortBindings/53~1udp", binding("127.0.0.1", "")),
        ("/HostConfig/Memory", json!(512 << 20)),
        ("/HostConfig/NanoCpus", json!(1_500_000_000)),
        ("/HostConfig/CpuShares", json!(2)),
        ("/HostConfig/NetworkMode", json!("front")),
        ("/HostConfig/Links", json!(["db:db"])),
        ("/HostConfig/VolumesFrom", json!(["data"])),
        ("/HostConfig/Binds", json!(["/srv:/srv"])),
    ] {
        check(line, pointer, &wanted);
    }
}

#[test]
fn options_are_written_in_all_the_ways_that_docker_takes() {
    for line in [
        "-e A=b busybox",
        "-eA=b busybox",
        "-e=A=b busybox",
        "--env A=b busybox",
        "--env=A=b busybox",
        "-diteA=b busybox",
        "--rm=false -t=true -e A=b -- busybox",
    ] {
        check(line, "/Env", &json!(["A=b"]));
        check(line, "/Image", &json!("busybox"));
    }
    check("-e HOME -e NONE i", "/Env", &json!(["HOME=/root", "NONE"]));
    check("-P i", "/HostConfig/PublishAllPorts", &json!(true));
}

#[test]
fn ports_have_ranges() {
    let bindings = |ports: &[(&str, &str)]| {
        let bindings = ports.iter().map(|(port, host)| {
            let binding = json!([{"HostIp": "", "HostPort": host}]);
            (format!("{port}/tcp"), binding)
        });
        Value::from(bindings.collect::<Map<_, _>>())
    };
    for (text, wanted) in [
        (
            "8000-8001:80-81",
            bindings(&[("80", "8000"), ("81", "8001")]),
        ),
        ("80-81", bindings(&[("80", ""), ("81", "")])),
        ("8000-8010:80", bindings(&[("80", "8000-8010")])),
        ("published=8080,target=80", bindings(&[("80", "8080")])),
    ] {
        let line = format!("-p {text} i");
        check(&line, "/HostConfig/PortBindings", &wanted);
    }
    check(
        "--expose 80-81/udp i",
        "/ExposedPorts",
        &json!({"80/udp": {}, "81/udp": {}}),
    );
    let six = json!([{"HostIp": "::1", "HostPort": "80"}]);
    check("-p [::1]:80:80 i", "/HostConfig/PortBindings/80~1tcp", &six);
}

#[test]
fn sizes_have_units() {
    for (text, wanted) in [
        ("1024", 1024_i64),
        ("10b", 10),
        ("1k", 1 << 10),
        ("1.5G", 3 << 29),
        ("2GiB", 2 << 30),
        ("1mb", 1 << 20),
        ("1t", 1 << 40),
    ] {
        let line = format!("--memory {text} --memory-reservation={text} i");
        check(&line, "/HostConfig/Memory", &json!(wanted));
        check(&line, "/HostConfig/MemoryReservation", &json!(wanted));
    }
}

#[test]
fn networks_volumes_and_neighbours_are_named() {
    let endpoints = "/NetworkingConfig/EndpointsConfig";
    let line = "--network lan --network-alias a --ip 10.0.0.9 --net name=far,alias=b i";
    let wanted = json!({
        "lan": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}},
        "far": {"Aliases": ["b"], "IPAMConfig": {}},
    });
    check(line, endpoints, &wanted);
    check("--net container:web i", endpoints, &json!({}));
    check(
        "--pid container:web i",
        "/HostConfig/PidMode",
        &json!("container:web"),
    );
    check("-v /data -v data:/d i", "/Volumes", &json!({"/data": {}}));
    check(
        "-v /data -v data:/d i",
        "/HostConfig/Binds",
        &json!(["data:/d"]),
    );
    let mount = "--mount type=volume,src=data,dst=/d,readonly,volume-driver=nfs i";
    let wanted = json!([{
        "Type": "volume", "Source": "data", "Target": "/d", "ReadOnly": true,
        "VolumeOptions": {"DriverConfig": {"Name": "nfs"}},
    }]);
    check(mount, "/HostConfig/Mounts", &wanted);
}

#[test]
fn files_come_before_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs_write(&file, "# comment\nA=1\n\n  HOME\nUNSET\n");
    let line = format!(
        "--env-file {0} --label-file {0} -e A=2 -l B=3 i",
        file.display()
    );
    check(&line, "/Env", &json!(["A=1", "HOME=/root", "A=2"]));
    let wanted = json!({"A": "1", "B": "3"});
    check(&line, "/Labels", &wanted);
    fs_write(&file, "A B=1\n");
    assert!(create(&line).unwrap_err().contains("A B=1"));
    assert!(
        create("--env-file /nowhere i")
            .unwrap_err()
            .contains("/nowhere")
    );
}

fn fs_write(file: &std::path::Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

#[test]
fn every_option_of_docker_is_known_once() {
    let names = OPTIONS.iter().map(|(names, _)| *names);
    let names = names
        .chain(FLAGS.iter().copied())
        .chain(VALUES.iter().copied());
    let mut all: Vec<&str> = names.flat_map(|names| names.split(',')).collect();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn what_is_not_understood_is_named_in_dockers_words() {
    for (line, wanted) in [
        ("--colour red i", "unknown flag: --colour"),
        ("-z i", "unknown shorthand flag: 'z' in -z"),
        ("-itz i", "unknown shorthand flag: 'z' in -z"),
        ("--name", "flag needs an argument: --name"),
        ("-e", "flag needs an argument: 'e' in -e"),
        (
            "-m lots i",
            r#"invalid argument "lots" for "-m, --memory" flag: invalid size: 'lots'"#,
        ),
        (
            "--rm=maybe i",
            r#"invalid argument "maybe" for "--rm" flag: invalid syntax"#,
        ),
    ] {
        assert_eq!(create(line).unwrap_err(), wanted);
    }
    for (line, named) in [
        ("-p http:80 i", "invalid hostPort: http"),
        ("-p 80:99999 i", "invalid containerPort: 99999"),
        ("-p 80-81:80-85 i", "80-85 and 80-81"),
        ("-p 80:80/icmp i", "invalid proto: icmp"),
        ("--cpus -1 i", "-1"),
        ("--gpus all i", "--gpus"),
        ("--gpus=all i", "--gpus"),
        (
            "--mount type=bind,colour=red,dst=/d i",
            "unexpected key 'colour'",
        ),
        ("--mount src=data i", "target is required"),
        ("--link a:b:c i", "bad format for links"),
        ("-e =x i", "invalid environment variable"),
        ("-e A=b", "IMAGE"),
    ] {
        let error = create(line).unwrap_err();
        assert!(error.contains(named), "{line}: {error}");
    }
}
