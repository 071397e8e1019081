//! bollard, a client of docker in Rust that is part of no program of this project, against the gateway: with and without
//! negotiation of the API version. Each call is checked for its result, and for its effect by another call.

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ContainerSummaryStateEnum, HostConfig, NetworkCreateRequest};
use bollard::query_parameters as query;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{StreamExt, TryStreamExt};
use sampan_tests::docker_api::DockerApi;
use std::collections::HashMap;
use std::future::Future;
use tokio::io::AsyncWriteExt;

/// Longest time of a request, in seconds.
const TIMEOUT: u64 = 60;

/// Runs `program` twice, each time with an installation of its own: as bollard is made, and after it has negotiated.
fn with_bollard<F: Future<Output = Result<(), Error>>>(program: impl Fn(Docker, String) -> F) {
    for negotiates in [false, true] {
        let api = DockerApi::new();
        let reference = api.push_busybox("team/box:1");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let outcome = runtime.block_on(async {
            let path = api.socket();
            let path = path.to_str().expect("text");
            let mut docker = Docker::connect_with_socket(path, TIMEOUT, API_DEFAULT_VERSION)?;
            if negotiates {
                docker = docker.negotiate_version().await?;
                assert_eq!(docker.client_version().to_string(), "1.50");
            }
            program(docker, reference).await
        });
        if let Err(error) = outcome {
            panic!("negotiated: {negotiates}: {error:?}\n{}", api.log());
        }
    }
}

fn status<T: std::fmt::Debug>(outcome: Result<T, Error>) -> u16 {
    match outcome {
        Err(Error::DockerResponseServerError { status_code, message }) => {
            assert!(!message.is_empty());
            status_code
        }
        other => panic!("no answer with an error: {other:?}"),
    }
}

fn filters<'a>(key: &'a str, value: &'a str) -> HashMap<&'a str, Vec<&'a str>> {
    HashMap::from([(key, vec![value])])
}

fn body(command: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some("box:1".to_owned()),
        cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        ..ContainerCreateBody::default()
    }
}

async fn create(docker: &Docker, name: &str, body: ContainerCreateBody) -> Result<String, Error> {
    let options = query::CreateContainerOptionsBuilder::default().name(name).build();
    Ok(docker.create_container(Some(options), body).await?.id)
}

#[test]
fn bollard_describes_the_system() {
    with_bollard(|docker, _| async move {
        assert_eq!(docker.ping().await?, "OK");
        let version = docker.version().await?;
        assert_eq!(version.api_version.as_deref(), Some("1.50"));
        let info = docker.info().await?;
        assert_eq!((info.images, info.containers), (Some(1), Some(0)));
        let usage = docker.df(None).await?;
        println!("{usage:?}");
        assert!(
            docker
                .list_volumes(None::<query::ListVolumesOptions>)
                .await?
                .volumes
                .unwrap_or_default()
                .is_empty()
        );
        docker.list_networks(None).await?;
        let network = NetworkCreateRequest { name: "net".to_owned(), ..NetworkCreateRequest::default() };
        assert_eq!(status(docker.create_network(network).await), 501);
        assert_eq!(status(docker.inspect_network("missing", None).await), 404);
        Ok(())
    });
}

#[test]
fn bollard_pulls_lists_tags_and_removes_images() {
    with_bollard(|docker, reference| async move {
        let (name, tag) = reference.rsplit_once(':').expect("a tag");
        let options = query::CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
        let messages: Vec<_> = docker.create_image(Some(options), None, None).try_collect().await?;
        let last = messages.last().and_then(|message| message.status.clone()).unwrap_or_default();
        assert_eq!(last, format!("Status: Downloaded newer image for {reference}"));
        let image = docker.inspect_image(&reference).await?;
        let all = docker.list_images(None::<query::ListImagesOptions>).await?;
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(
            all.iter().any(|row| Some(&row.id) == image.id.as_ref() && row.repo_tags == [reference.clone()])
        );
        let options =
            query::ListImagesOptionsBuilder::default().filters(&filters("reference", "box")).build();
        assert_eq!(docker.list_images(Some(options)).await?.len(), 1);
        assert!(!docker.image_history(&reference).await?.is_empty());
        let options = query::TagImageOptionsBuilder::default().repo("copied/box").tag("2").build();
        docker.tag_image(&reference, Some(options)).await?;
        assert_eq!(docker.inspect_image("copied/box:2").await?.id, image.id);
        let removed = docker.remove_image("copied/box:2", None::<query::RemoveImageOptions>, None).await?;
        assert_eq!(removed.len(), 1, "{removed:?}");
        assert_eq!(status(docker.inspect_image("copied/box:2").await), 404);
        // A failure before the stream has a status; bollard gives it as the stream's item.
        let options = query::CreateImageOptionsBuilder::default().from_image(name).tag("missing").build();
        let outcome: Result<Vec<_>, Error> =
            docker.create_image(Some(options), None, None).try_collect().await;
        assert_eq!(status(outcome), 404);
        let options =
            query::PruneImagesOptionsBuilder::default().filters(&filters("dangling", "false")).build();
        assert!(docker.prune_images(Some(options)).await?.images_deleted.is_some());
        assert!(docker.list_images(None::<query::ListImagesOptions>).await?.is_empty());
        Ok(())
    });
}

#[test]
fn bollard_runs_a_container_through_its_life() {
    with_bollard(|docker, _| async move {
        let script = "trap 'exit 0' TERM; echo out; echo err >&2; while :; do sleep 0.1; done";
        let host_config = HostConfig { memory: Some(64 << 20), ..HostConfig::default() };
        let made = ContainerCreateBody { host_config: Some(host_config), ..body(&["sh", "-c", script]) };
        let id = create(&docker, "one", made.clone()).await?;
        assert_eq!(status(create(&docker, "one", made).await), 409);
        docker.start_container("one", None).await?;
        let row = docker.list_containers(None).await?.remove(0);
        assert_eq!(row.id.as_ref(), Some(&id));
        assert_eq!(row.state, Some(ContainerSummaryStateEnum::RUNNING));
        let inspected = docker.inspect_container("one", None).await?;
        assert_eq!(inspected.host_config.and_then(|host| host.memory), Some(64 << 20));
        docker
            .rename_container("one", query::RenameContainerOptionsBuilder::default().name("uno").build())
            .await?;
        docker.pause_container("uno").await?;
        let options =
            query::ListContainersOptionsBuilder::default().filters(&filters("status", "paused")).build();
        assert_eq!(docker.list_containers(Some(options)).await?.len(), 1);
        docker.unpause_container("uno").await?;
        assert!(docker.top_processes("uno", None).await?.processes.is_some_and(|rows| !rows.is_empty()));
        docker.restart_container("uno", None).await?;
        docker.stop_container("uno", None).await?;
        let ended: Vec<_> = docker.wait_container("uno", None).try_collect().await?;
        assert_eq!(ended[0].status_code, 0);
        let options = query::LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let lines: Vec<LogOutput> = docker.logs("uno", Some(options)).try_collect().await?;
        let has = |wanted: LogOutput| lines.contains(&wanted);
        assert!(has(LogOutput::StdOut { message: "out\n".into() }), "{lines:?}");
        assert!(has(LogOutput::StdErr { message: "err\n".into() }), "{lines:?}");
        docker.start_container("uno", None).await?;
        docker.kill_container("uno", None).await?;
        // bollard makes an error of every exit code but 0.
        let killed: Result<Vec<_>, Error> = docker.wait_container("uno", None).try_collect().await;
        assert!(matches!(killed, Err(Error::DockerContainerWaitError { code: 137, .. })), "{killed:?}");
        assert_eq!(status(docker.kill_container("uno", None).await), 409);
        docker.remove_container("uno", None).await?;
        assert_eq!(status(docker.inspect_container("uno", None).await), 404);
        create(&docker, "left", body(&["true"])).await?;
        let pruned = docker.prune_containers(None).await?;
        assert_eq!(pruned.containers_deleted.map_or(0, |all| all.len()), 1);
        Ok(())
    });
}

#[test]
fn bollard_attaches_and_executes() {
    with_bollard(|docker, _| async move {
        let made = ContainerCreateBody {
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            ..body(&["cat"])
        };
        let id = create(&docker, "cat", made).await?;
        let options = query::AttachContainerOptionsBuilder::default();
        let options = options.stdin(true).stdout(true).stderr(true).stream(true).build();
        let mut attached = docker.attach_container(&id, Some(options)).await?;
        docker.start_container(&id, None).await?;
        let options = CreateExecOptions {
            cmd: Some(vec!["sh", "-c", "echo out; echo err >&2; exit 5"]),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..CreateExecOptions::default()
        };
        let exec = docker.create_exec(&id, options).await?.id;
        let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec, None).await? else {
            panic!("not attached")
        };
        let mut text = Vec::new();
        while let Some(part) = output.next().await {
            text.push(part?.to_string());
        }
        text.sort();
        assert_eq!(text, ["err\n", "out\n"]);
        assert_eq!(docker.inspect_exec(&exec).await?.exit_code, Some(5));
        attached.input.write_all(b"through bollard\n").await.expect("written");
        attached.input.shutdown().await.expect("half-closed");
        let mut parts = Vec::new();
        while let Some(part) = attached.output.next().await {
            parts.extend_from_slice(part?.into_bytes().as_ref());
        }
        assert_eq!(parts, b"through bollard\n");
        let ended: Vec<_> = docker.wait_container(&id, None).try_collect().await?;
        assert_eq!(ended[0].status_code, 0);
        docker.remove_container(&id, None).await
    });
}

#[test]
fn bollard_reads_all_events_of_all_types() {
    with_bollard(|docker, reference| async move {
        let (name, tag) = reference.rsplit_once(':').expect("a tag");
        // A pull makes events of types that docker does not have; bollard ends at an unknown type.
        let options = query::CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
        docker.create_image(Some(options), None, None).try_collect::<Vec<_>>().await?;
        create(&docker, "told", body(&["true"])).await?;
        docker.remove_container("told", None).await?;
        let mut events = docker.events(Some(query::EventsOptionsBuilder::default().since("0").build()));
        let mut actions = Vec::new();
        while actions.last().is_none_or(|last| last != "destroy") {
            let event = events.next().await.expect("a stream without an end")?;
            actions.push(event.action.expect("an action"));
        }
        for action in ["import", "pull", "create", "destroy"] {
            assert!(actions.iter().any(|known| known == action), "{action} in {actions:?}");
        }
        Ok(())
    });
}
