//! The stand-in speaks the API of dockerd well enough for bollard, a client that checks types.

use std::collections::HashMap;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerCreateBody, EventMessage, ExecConfig, HostConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, CreateImageOptionsBuilder,
    EventsOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use skep_fleet::container::Phase;
use skep_fleet::{Engine, Fleet};
use tokio::io::AsyncWriteExt;

fn connect(engine: &Engine) -> Docker {
    let addr = format!("http://{}", engine.addr());
    Docker::connect_with_http(&addr, 10, bollard::API_DEFAULT_VERSION)
        .expect("the address is valid")
}

async fn create(docker: &Docker, name: &str, body: ContainerCreateBody) -> String {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let image = Some("busybox".to_owned());
    let body = ContainerCreateBody { image, ..body };
    docker
        .create_container(Some(options), body)
        .await
        .expect("the create succeeds")
        .id
}

fn status(result: Result<impl Sized, bollard::errors::Error>) -> u16 {
    match result.err() {
        Some(bollard::errors::Error::DockerResponseServerError { status_code, .. }) => status_code,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn words(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

#[tokio::test]
async fn seeded_containers_are_listed_and_inspected() {
    let fleet = Fleet::builder()
        .engines(2)
        .containers(5)
        .start()
        .await
        .expect("the fleet starts");
    let docker = connect(fleet.engine(1));
    let list = docker
        .list_containers(None)
        .await
        .expect("the list is valid");
    assert_eq!(list.len(), 5);
    let id = list[0].id.clone().expect("an entry has an ID");
    let inspected = docker
        .inspect_container(&id, None)
        .await
        .expect("the answer is valid");
    assert_eq!(inspected.name.as_deref(), Some("/seed-1-4"));
    assert_eq!(inspected.state.and_then(|state| state.running), Some(true));
    let info = docker.info().await.expect("info is valid");
    assert_eq!(
        (info.name.as_deref(), info.containers_running),
        (Some("node-1"), Some(5))
    );
    assert_eq!(info.id, Some(fleet.engine(1).id()));
    docker.version().await.expect("version is valid");
    assert_eq!(fleet.engine(1).requests("GET /containers/{id}/json"), 1);
    assert_eq!(fleet.engine(0).total_requests(), 0);
}

#[tokio::test]
async fn a_container_goes_through_its_life() {
    let fleet = Fleet::builder().start().await.expect("the fleet starts");
    let (engine, docker) = (fleet.engine(0), connect(fleet.engine(0)));
    let host_config = Some(HostConfig {
        memory: Some(1 << 20),
        nano_cpus: Some(5),
        ..Default::default()
    });
    let id = create(
        &docker,
        "web",
        ContainerCreateBody {
            host_config,
            ..Default::default()
        },
    )
    .await;
    assert!(String::from_utf8_lossy(&engine.create_bodies()[0]).contains("busybox"));
    let again = ContainerCreateBody {
        image: Some("busybox".to_owned()),
        ..Default::default()
    };
    let options = CreateContainerOptionsBuilder::new().name("web").build();
    assert_eq!(
        status(docker.create_container(Some(options), again).await),
        409
    );
    let absent = ContainerCreateBody {
        image: Some("absent".to_owned()),
        ..Default::default()
    };
    assert_eq!(status(docker.create_container(None, absent).await), 404);

    docker
        .start_container("web", None)
        .await
        .expect("it starts");
    assert_eq!(status(docker.remove_container("web", None).await), 409);
    docker.pause_container("web").await.expect("it pauses");
    assert_eq!(
        engine.container("web").map(|c| c.phase),
        Some(Phase::Paused)
    );
    docker.unpause_container("web").await.expect("it goes on");
    docker.stop_container("web", None).await.expect("it stops");
    let inspected = docker
        .inspect_container(&id, None)
        .await
        .expect("the answer is valid");
    let host_config = inspected.host_config.expect("there is a host config");
    assert_eq!(
        (host_config.memory, host_config.nano_cpus),
        (Some(1 << 20), Some(5))
    );
    assert_eq!(inspected.state.and_then(|state| state.exit_code), Some(143));
    let filters = HashMap::from([("status", vec!["exited"])]);
    let options = ListContainersOptionsBuilder::new()
        .filters(&filters)
        .build();
    assert_eq!(
        docker
            .list_containers(Some(options))
            .await
            .expect("the list is valid")
            .len(),
        1
    );
    docker.remove_container("web", None).await.expect("it goes");
    assert_eq!(status(docker.inspect_container("web", None).await), 404);
}

#[tokio::test]
async fn unknown_fields_of_a_create_survive() {
    let fleet = Fleet::builder().start().await.expect("the fleet starts");
    let body = r#"{"Image":"busybox","NewThing":[1,2],"HostConfig":{"OtherThing":{"a":1}}}"#;
    let answer = raw(
        fleet.engine(0),
        &post("/v1.41/containers/create?name=x1", body),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(fleet.engine(0).create_bodies(), [body]);
    let answer = raw(
        fleet.engine(0),
        "GET /containers/x1/json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    for field in [
        r#""NewThing":[1,2]"#,
        r#""OtherThing":{"a":1}"#,
        r#""FutureField""#,
    ] {
        assert!(answer.contains(field), "{field} is missing: {answer}");
    }
}

#[tokio::test]
async fn events_are_told_in_order_and_again_on_request() {
    let fleet = Fleet::builder().start().await.expect("the fleet starts");
    let docker = connect(fleet.engine(0));
    let kinds = HashMap::from([("type", vec!["container"])]);
    let live = docker.events(Some(EventsOptionsBuilder::new().filters(&kinds).build()));
    let collect = async {
        let events: Vec<EventMessage> = live
            .take(4)
            .try_collect()
            .await
            .expect("the events are valid");
        events
            .into_iter()
            .filter_map(|event| event.action)
            .collect::<Vec<_>>()
    };
    let act = async {
        fleet
            .engine(0)
            .wait_for(|engine| engine.event_streams() == 1)
            .await;
        let body = ContainerCreateBody {
            cmd: words(&["echo", "hi"]),
            ..Default::default()
        };
        create(&docker, "one", body).await;
        docker
            .start_container("one", None)
            .await
            .expect("it starts");
        docker.remove_container("one", None).await.expect("it goes");
    };
    let (told, ()) = tokio::join!(collect, act);
    assert_eq!(told, ["create", "start", "die", "destroy"]);
    let options = EventsOptionsBuilder::new()
        .since("1")
        .until("1000")
        .filters(&kinds)
        .build();
    let none: Vec<_> = docker
        .events(Some(options))
        .try_collect()
        .await
        .expect("the answer is valid");
    assert!(none.is_empty());
    let options = EventsOptionsBuilder::new()
        .since("1")
        .filters(&kinds)
        .build();
    let past: Vec<_> = docker
        .events(Some(options))
        .take(4)
        .try_collect()
        .await
        .expect("the answer is valid");
    assert_eq!(past.len(), 4);
}

#[tokio::test]
async fn logs_are_framed_and_wait_gives_the_exit_code() {
    let fleet = Fleet::builder().start().await.expect("the fleet starts");
    let docker = connect(fleet.engine(0));
    create(&docker, "talker", ContainerCreateBody::default()).await;
    docker
        .start_container("talker", None)
        .await
        .expect("it starts");
    fleet.engine(0).write_output("talker", "early\n");
    let options = LogsOptionsBuilder::new().stdout(true).follow(true).build();
    let mut logs = docker.logs("talker", Some(options));
    let early = logs
        .next()
        .await
        .expect("there is output")
        .expect("it is framed");
    assert_eq!(early.to_string(), "early\n");
    fleet.engine(0).write_output("talker", "late\n");
    assert!(fleet.engine(0).exit("talker", 3));
    let rest: Vec<LogOutput> = logs.try_collect().await.expect("it is framed");
    assert_eq!(
        rest.iter().map(ToString::to_string).collect::<String>(),
        "late\n"
    );
    let waited = docker
        .wait_container("talker", None)
        .next()
        .await
        .expect("there is an answer");
    let code = match waited {
        Ok(answer) => answer.status_code,
        Err(bollard::errors::Error::DockerContainerWaitError { code, .. }) => code,
        Err(error) => panic!("the wait failed: {error}"),
    };
    assert_eq!(code, 3);
}

#[tokio::test]
async fn attach_echoes_and_ends_with_its_input() {
    let fleet = Fleet::builder().start().await.expect("the fleet starts");
    let (engine, docker) = (fleet.engine(0), connect(fleet.engine(0)));
    let body = ContainerCreateBody {
        open_stdin: Some(true),
        stdin_once: Some(true),
        ..Default::default()
    };
    create(&docker, "cat", body).await;
    let options = AttachContainerOptionsBuilder::new()
        .stream(true)
        .stdin(true)
        .stdout(true)
        .build();
    let mut attached = docker
        .attach_container("cat", Some(options))
        .await
        .expect("it upgrades");
    docker
        .start_container("cat", None)
        .await
        .expect("it starts");
    attached
        .input
        .write_all(b"hello")
        .await
        .expect("the stream is open");
    attached
        .input
        .shutdown()
        .await
        .expect("the stream closes one way");
    let output: Vec<_> = attached.output.try_collect().await.expect("it is framed");
    assert_eq!(
        output.iter().map(ToString::to_string).collect::<String>(),
        "hello"
    );
    engine
        .wait_for(|engine| {
            engine
                .container("cat")
                .is_some_and(|c| c.phase == Phase::Exited)
        })
        .await;
}

#[tokio::test]
async fn exec_runs_over_an_upgraded_connection() {
    let fleet = Fleet::builder()
        .containers(1)
        .start()
        .await
        .expect("the fleet starts");
    let docker = connect(fleet.engine(0));
    let config = ExecConfig {
        cmd: words(&["echo", "from", "exec"]),
        attach_stdout: Some(true),
        ..Default::default()
    };
    let id = docker
        .create_exec("seed-0-0", config)
        .await
        .expect("it is created")
        .id;
    let StartExecResults::Attached { output, .. } =
        docker.start_exec(&id, None).await.expect("it starts")
    else {
        panic!("the exec was not attached");
    };
    let output: Vec<_> = output.try_collect().await.expect("it is framed");
    assert_eq!(
        output.iter().map(ToString::to_string).collect::<String>(),
        "from exec\n"
    );
    let inspected = docker.inspect_exec(&id).await.expect("the answer is valid");
    assert_eq!(
        (inspected.running, inspected.exit_code),
        (Some(false), Some(0))
    );
}

#[tokio::test]
async fn images_networks_and_volumes_are_listed_as_dockerd_does() {
    let fleet = Fleet::builder().start().await.expect("the fleet starts");
    let docker = connect(fleet.engine(0));
    let options = CreateImageOptionsBuilder::new()
        .from_image("alpine")
        .tag("3")
        .build();
    docker
        .create_image(Some(options), None, None)
        .try_collect::<Vec<_>>()
        .await
        .expect("the pull succeeds");
    assert_eq!(
        docker
            .list_images(None)
            .await
            .expect("the list is valid")
            .len(),
        2
    );
    docker
        .inspect_image("alpine:3")
        .await
        .expect("the answer is valid");
    assert_eq!(
        docker
            .list_networks(None)
            .await
            .expect("the list is valid")
            .len(),
        3
    );
    docker
        .inspect_network("bridge", None)
        .await
        .expect("the answer is valid");
    docker
        .create_volume(bollard::models::VolumeCreateRequest::default())
        .await
        .expect("it is created");
    assert_eq!(
        docker
            .list_volumes(None)
            .await
            .expect("the list is valid")
            .volumes
            .map(|list| list.len()),
        Some(1)
    );
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn raw(engine: &Engine, request: &str) -> String {
    use tokio::io::AsyncReadExt;
    let mut socket = tokio::net::TcpStream::connect(engine.addr())
        .await
        .expect("the engine listens");
    socket
        .write_all(request.as_bytes())
        .await
        .expect("the engine reads");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .await
        .expect("the answer is text");
    answer
}
