//! Tests of the body of a create.

use super::*;
use sampan_ipc::container::{Mount, MountKind};
use serde_json::json;

fn parsed(body: &Value) -> Parsed {
    parse(body.to_string().as_bytes(), None, None).expect("a valid body")
}

/// The options of a body with this `HostConfig`.
fn host(host: Value) -> Create {
    parsed(&json!({"Image": "busybox", "HostConfig": host})).create
}

fn refused(host: Value) -> (u16, String) {
    let body = json!({"Image": "busybox", "HostConfig": host}).to_string();
    let refusal = parse(body.as_bytes(), None, None).expect_err(&body);
    (refusal.status, refusal.message)
}

/// What docker's command line 28 sends for `docker create busybox true`.
const OF_COMMAND_LINE: &str = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,
"AttachStderr":true,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["true"],"Image":"busybox",
"Volumes":{},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,
"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":
{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[24,80],
"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,
"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,
"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,
"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],
"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,
"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],
"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,
"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,
"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":
{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null,"GwPriority":0,"NetworkID":"",
"EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"",
"GlobalIPv6PrefixLen":0,"DNSNames":null}}}}"#;

#[test]
fn a_plain_create_of_the_command_line_has_only_a_network_to_tell() {
    let parsed = parse(OF_COMMAND_LINE.as_bytes(), Some("/web"), Some("linux/amd64")).expect("valid");
    let expected = Create {
        name: Some("web".into()),
        platform: Some("linux/amd64".into()),
        image: "busybox".into(),
        command: vec!["true".into()],
        network: Network::None,
        ..Create::default()
    };
    assert_eq!(parsed.create, expected);
    assert_eq!(parsed.warnings.len(), 1, "{:?}", parsed.warnings);
    assert!(parsed.warnings.iter().all(|warning| warning.contains("loopback")));
}

#[test]
fn missing_keys_null_and_unknown_fields_are_accepted() {
    let body = json!({"Image": "a", "Env": null, "Cmd": null, "HostConfig": null, "NetworkingConfig": null,
        "Labels": null, "FieldOfTomorrow": {"a": 1}, "NetworkDisabled": true});
    let expected = Create { image: "a".into(), network: Network::None, ..Create::default() };
    assert_eq!(parsed(&body), Parsed { create: expected, warnings: vec![] });
    for body in ["", " ", "[]", "{", "{\"Image\":5}", "{\"HostConfig\":{\"Memory\":\"much\"}}"] {
        assert_eq!(parse(body.as_bytes(), None, None).map_err(|refusal| refusal.status), Err(400), "{body}");
    }
}

#[test]
fn the_fields_of_the_body_reach_the_engine() {
    let body = json!({"Image": "a", "Hostname": "h", "User": "1:2", "Tty": true, "OpenStdin": true, "Env": ["A=1", "B"],
        "Cmd": "one", "WorkingDir": "/w", "Entrypoint": ["e"], "Labels": {"l": "v"}, "StopSignal": "INT",
        "StopTimeout": 3, "HostConfig": {"NetworkMode": "host"}});
    let expected = Create {
        image: "a".into(),
        hostname: Some("h".into()),
        user: Some("1:2".into()),
        tty: true,
        open_stdin: true,
        env: vec!["A=1".into(), "B".into()],
        command: vec!["one".into()],
        workdir: Some("/w".into()),
        entrypoint: Some(vec!["e".into()]),
        labels: vec![("l".into(), "v".into())],
        stop_signal: Some("INT".into()),
        stop_timeout: Some(3),
        network: Network::Host,
        ..Create::default()
    };
    assert_eq!(parsed(&body).create, expected);
    let reset = parsed(&json!({"Image": "a", "Entrypoint": [""], "StopTimeout": -1})).create;
    assert_eq!((reset.entrypoint, reset.stop_timeout), (Some(vec![]), Some(FOR_EVER)));
}

#[test]
fn the_fields_of_the_host_s_part_reach_the_engine() {
    let made =
        host(json!({"Binds": ["/a:/b:ro"], "Tmpfs": {"/t": "size=1m"}, "AutoRemove": true, "Init": true,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "Annotations": {"a": "b"},
        "Runtime": "crun", "ShmSize": 65536, "Sysctls": {"net.x": "1"}, "GroupAdd": ["3"], "CapAdd": ["KILL"],
        "CapDrop": ["ALL"], "Privileged": true, "ReadonlyRootfs": true, "Memory": 8388608, "MemorySwap": -1,
        "NanoCpus": 500_000_000, "PidsLimit": 9, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]}));
    let bind = Mount {
        source: "/a".into(),
        target: "/b".into(),
        read_only: true,
        make_source: true,
        ..Mount::default()
    };
    let tmpfs = Mount {
        kind: MountKind::Tmpfs,
        target: "/t".into(),
        options: vec!["size=1m".into()],
        ..Mount::default()
    };
    let expected = Create {
        image: "busybox".into(),
        mounts: vec![bind, tmpfs],
        auto_remove: true,
        init: true,
        log_driver: Some("json-file".into()),
        log_options: vec![("max-size".into(), "1m".into())],
        annotations: vec![("a".into(), "b".into())],
        runtime: Some("crun".into()),
        shm_size: Some(65536),
        sysctls: vec![("net.x".into(), "1".into())],
        group_add: vec!["3".into()],
        cap_add: vec!["KILL".into()],
        cap_drop: vec!["ALL".into()],
        privileged: true,
        read_only: true,
        memory: Some(8 << 20),
        memory_swap: Some(-1),
        nano_cpus: Some(500_000_000),
        pids: Some(9),
        ulimits: vec![("nofile".into(), 1, 2)],
        devices: vec!["/dev/null:/dev/x:r".into()],
        network: Network::None,
        ..Create::default()
    };
    assert_eq!(made, expected);
}

#[test]
fn restart_policies_are_docker_s() {
    let of = |name: &str, count: i64| json!({"RestartPolicy": {"Name": name, "MaximumRetryCount": count}});
    assert_eq!(host(of("on-failure", 3)).restart, Restart::OnFailure(3));
    assert_eq!(host(of("always", 0)).restart, Restart::Always);
    assert_eq!(host(of("unless-stopped", 0)).restart, Restart::UnlessStopped);
    assert_eq!(host(of("", 0)).restart, Restart::No);
    for policy in [of("always", 1), of("on-failure", -1), of("sometimes", 0)] {
        assert_eq!(refused(policy).0, 400);
    }
}

#[test]
fn a_quota_of_cpu_time_becomes_processors() {
    assert_eq!(host(json!({"CpuQuota": 50_000})).nano_cpus, Some(500_000_000));
    assert_eq!(host(json!({"CpuQuota": 50_000, "CpuPeriod": 25_000})).nano_cpus, Some(2_000_000_000));
    assert_eq!(host(json!({"CpuQuota": -1, "CpuPeriod": 25_000})).nano_cpus, None);
    assert_eq!(refused(json!({"CpuQuota": i64::MAX, "CpuPeriod": 1_000})).0, 400);
    assert_eq!(refused(json!({"NanoCpus": 1, "CpuQuota": 1})).0, 400);
    assert_eq!(refused(json!({"CpuQuota": 1, "CpuPeriod": 1})).0, 400);
    assert_eq!(refused(json!({"NanoCpus": -1})).0, 400);
}

#[test]
fn networks_other_than_none_and_host_wait_for_networks() {
    assert_eq!(host(json!({"NetworkMode": "none"})).network, Network::None);
    assert_eq!(refused(json!({"NetworkMode": "container:x"})).0, 501);
    assert_eq!(refused(json!({"NetworkMode": "mine"})).0, 501);
    for endpoints in [json!({"mine": {}}), json!({"bridge": {"Aliases": ["a"]}})] {
        let body = json!({"Image": "a", "NetworkingConfig": {"EndpointsConfig": endpoints}}).to_string();
        assert_eq!(parse(body.as_bytes(), None, None).map_err(|refusal| refusal.status), Err(501), "{body}");
    }
}

#[test]
fn security_options_are_served_or_refused() {
    let profile = "seccomp={ \"defaultAction\": \"SCMP_ACT_ALLOW\" }";
    let made = host(json!({"SecurityOpt": ["no-new-privileges", profile, "seccomp=builtin", "apparmor=x"]}));
    assert_eq!(
        made.security,
        ["no-new-privileges", "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}", "apparmor=x"]
    );
    assert_eq!(refused(json!({"SecurityOpt": ["seccomp=/a/file"]})).0, 400);
    assert_eq!(host(json!({"MaskedPaths": [], "ReadonlyPaths": []})).security, ["systempaths=unconfined"]);
    assert_eq!(refused(json!({"MaskedPaths": ["/proc/kcore"]})).0, 501);
    assert_eq!(refused(json!({"ReadonlyPaths": []})).0, 501);
    assert_eq!(refused(json!({"Runtime": "/tmp/evil"})).0, 400);
    assert_eq!(refused(json!({"Devices": [{"PathOnHost": "/dev/a:b"}]})).0, 400);
}

#[test]
fn keys_in_another_case_are_not_overlooked() {
    let body = json!({"image": "a", "hostconfig": {"readonlyrootfs": true,
        "mounts": [{"type": "bind", "source": "/a", "target": "/b", "readonly": true}],
        "restartpolicy": {"name": "always"}, "logconfig": {"type": "json-file", "config": {"name": "x"}}}});
    let made = parsed(&body).create;
    assert!(made.read_only && made.mounts.iter().all(|mount| mount.read_only) && made.mounts.len() == 1);
    assert_eq!(made.restart, Restart::Always);
    assert_eq!(made.log_options, [("name".to_owned(), "x".to_owned())]);
}

#[test]
fn a_volume_at_the_target_of_a_mount_is_that_mount() {
    // docker-py names the target of each bind in `Volumes`, too.
    let mut body = json!({
        "Image": "busybox",
        "Volumes": {"/data": {}, "/more/": {}, "/scratch": {}},
        "HostConfig": {
            "Binds": ["/srv:/data/:ro"],
            "Mounts": [{"Type": "bind", "Source": "/srv", "Target": "/more"}],
            "Tmpfs": {"/scratch": ""},
        },
    });
    assert_eq!(parsed(&body).create.mounts.len(), 3);
    body["Volumes"]["/other"] = json!({});
    let refusal = parse(body.to_string().as_bytes(), None, None).expect_err("an anonymous volume");
    assert_eq!(refusal.status, 501, "{refusal:?}");
}
