//! The fields of a create through the Docker API, one by one: each is checked in the running container, or refused with
//! its status and name.

use sampan_tests::docker_api::DockerApi;
use serde_json::{Value, json};
use std::fs;

/// Runs `script` in a container with these options of docker's command line; returns what it wrote.
fn shown(api: &DockerApi, options: &[&str], script: &str) -> String {
    let dir = api.path("out");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).expect("made");
    let bind = format!("{}:/out", dir.display());
    let script = format!("{{ {script}; }} > /out/text 2>&1");
    let args =
        [&["run", "-d", "--network", "none", "-v", &bind], options, &["box:1", "sh", "-c", &script]].concat();
    let id = api.docker_ok(&args);
    api.docker_ok(&["wait", &id]);
    api.docker_ok(&["rm", &id]);
    fs::read_to_string(dir.join("text")).expect("written").trim_end().to_owned()
}

#[test]
fn environment_user_directory_and_names_reach_the_process() {
    let api = DockerApi::new();
    let see = |options: &[&str], script: &str| shown(&api, options, script);
    assert_eq!(see(&["-e", "A=1 2"], "echo \"$A\""), "1 2");
    assert_eq!(see(&["-u", "0:12", "--group-add", "10"], "id -u; id -G"), "0\n12 10");
    assert_eq!(see(&["-w", "/etc"], "pwd"), "/etc");
    assert_eq!(see(&["-h", "boat"], "hostname"), "boat");
    assert!(see(&["--init"], "readlink /proc/1/exe").ends_with("init"));
    let id = api.docker_ok(&["run", "-d", "--entrypoint", "sh", "box:1", "-c", "exit 6"]);
    assert_eq!(api.docker_ok(&["wait", &id]), "6");
    // KEY without a value removes the image's variable.
    let body = json!({"Image": "box:1", "Env": ["FROM_IMAGE"], "Cmd": ["sh", "-c", "env > /out/text"],
        "HostConfig": {"NetworkMode": "none", "Binds": [format!("{}:/out", api.path("out").display())]}});
    let created = api.http_json("POST", "/containers/create?name=env", &body);
    assert_eq!(created.json()["Warnings"], json!([]), "{}", created.text());
    api.docker_ok(&["start", "env"]);
    assert_eq!(api.docker_ok(&["wait", "env"]), "0");
    let env = fs::read_to_string(api.path("out/text")).expect("written");
    assert!(env.contains("PATH=") && !env.contains("FROM_IMAGE"), "{env}");
}

#[test]
fn limits_and_rights_reach_the_process() {
    let api = DockerApi::new();
    let see = |options: &[&str], script: &str| shown(&api, options, script);
    let group =
        |v2: &str, v1: &str| format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}");
    assert_eq!(see(&["-m", "64m"], &group("memory.max", "memory/memory.limit_in_bytes")), "67108864");
    assert_eq!(see(&["--pids-limit", "37"], &group("pids.max", "pids/pids.max")), "37");
    let quota = group("cpu.max", "cpu/cpu.cfs_quota_us");
    let half = see(&["--cpus", "0.5"], &quota);
    assert!(half.starts_with("50000"), "{half}");
    let quarter = see(&["--cpu-quota", "5000", "--cpu-period", "20000"], &quota);
    assert!(quarter.starts_with("25000"), "{quarter}");
    assert_eq!(see(&["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"), "100\n200");
    assert_eq!(see(&["--sysctl", "kernel.msgmax=4096"], "cat /proc/sys/kernel/msgmax"), "4096");
    assert_eq!(
        see(&["--cap-drop", "ALL"], "grep CapEff /proc/self/status | awk '{print $2}'"),
        "0000000000000000"
    );
    let kill =
        see(&["--cap-drop", "ALL", "--cap-add", "KILL"], "grep CapEff /proc/self/status | awk '{print $2}'");
    assert_eq!(kill, "0000000000000020");
    let no_new =
        see(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status | awk '{print $2}'");
    assert_eq!(no_new, "1");
    assert_eq!(
        see(&["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status | awk '{print $2}'"),
        "0"
    );
    assert_eq!(see(&["--device", "/dev/null:/dev/nothing"], "ls /dev/nothing"), "/dev/nothing");
}

#[test]
fn mounts_and_labels_reach_the_container() {
    let api = DockerApi::new();
    let see = |options: &[&str], script: &str| shown(&api, options, script);
    assert!(see(&["--read-only"], "touch /x").contains("Read-only"));
    let size = "df -k /t | tail -n 1 | awk '{print $2}'";
    assert_eq!(see(&["--tmpfs", "/t:size=1m"], size), "1024");
    assert_eq!(see(&["--mount", "type=tmpfs,dst=/t,tmpfs-size=2m"], size), "2048");
    assert_eq!(see(&["--shm-size", "3m"], "df -k /dev/shm | tail -n 1 | awk '{print $2}'"), "3072");
    fs::create_dir(api.path("shared")).expect("made");
    fs::write(api.path("shared/file"), "hello").expect("written");
    let source = api.path("shared").display().to_string();
    assert_eq!(see(&["-v", &format!("{source}:/s")], "cat /s/file; echo more >> /s/file"), "hello");
    assert_eq!(fs::read_to_string(api.path("shared/file")).expect("there"), "hellomore\n");
    assert!(see(&["-v", &format!("{source}:/s:ro")], "touch /s/x").contains("Read-only"));
    let mount = format!("type=bind,src={source},dst=/s,readonly");
    assert!(see(&["--mount", &mount], "touch /s/x").contains("Read-only"));
    let id = api.docker_ok(&["create", "-l", "a=b", "--stop-signal", "INT", "box:1", "true"]);
    let summary = api.containers.summary(&id).expect("there");
    assert!(summary.labels.contains(&("a".to_owned(), "b".to_owned())), "{:?}", summary.labels);
}

#[test]
fn the_default_network_is_none_and_is_told() {
    let api = DockerApi::new();
    let output = api.docker(&["create", "box:1", "true"]);
    assert!(output.status.success(), "{output:?}");
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(warning.contains("WARNING: ") && warning.contains("loopback"), "{warning}");
    let quiet = api.docker(&["create", "--network", "none", "box:1", "true"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");
    assert_eq!(shown(&api, &[], "ifconfig -a | grep -c HWaddr"), "0");
    let own = fs::read_link("/proc/self/ns/net").expect("mounted").display().to_string();
    let id = api.docker_ok(&["create", "--network", "host", "box:1", "sleep", "1000"]);
    api.docker_ok(&["start", &id]);
    let pid = api.containers.summary(&id).expect("there").pid;
    let of_container = fs::read_link(format!("/proc/{pid}/ns/net")).expect("mounted").display().to_string();
    assert_eq!(of_container, own);
    api.docker_ok(&["rm", "-f", &id]);
}

/// The status and message of a create of `box:1` with this `HostConfig`.
fn create(api: &DockerApi, host: Value) -> (u16, String) {
    let reply = api.http_json("POST", "/containers/create", &json!({"Image": "box:1", "HostConfig": host}));
    let message = if reply.status() >= 400 { reply.message() } else { reply.json()["Warnings"].to_string() };
    (reply.status(), message)
}

#[test]
fn what_cannot_be_served_is_refused_with_its_name() {
    let api = DockerApi::new();
    for (host, status, word) in [
        (json!({"Binds": ["name:/x"]}), 501, "the named volume \"name\""),
        (json!({"Binds": ["/x"]}), 501, "the anonymous volume"),
        (json!({"Mounts": [{"Type": "volume", "Source": "v", "Target": "/x"}]}), 501, "volume"),
        (json!({"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}), 501, "a published port"),
        (json!({"PublishAllPorts": true}), 501, "a published port"),
        (json!({"NetworkMode": "container:x"}), 501, "the network"),
        (json!({"NetworkMode": "mine"}), 501, "the network"),
        (json!({"PidMode": "host"}), 501, "HostConfig.PidMode"),
        (json!({"IpcMode": "host"}), 501, "HostConfig.IpcMode"),
        (json!({"CpusetCpus": "0"}), 501, "HostConfig.CpusetCpus"),
        (json!({"DeviceCgroupRules": ["c 1:3 r"]}), 501, "HostConfig.DeviceCgroupRules"),
        (json!({"MaskedPaths": ["/proc/kcore"]}), 501, "masked"),
        (json!({"Memory": 1000}), 400, "6 MiB"),
        (json!({"CapAdd": ["NONSENSE"]}), 400, "NONSENSE"),
        (json!({"SecurityOpt": ["nonsense"]}), 400, "nonsense"),
        (json!({"Ulimits": [{"Name": "nonsense", "Soft": 1, "Hard": 1}]}), 400, "nonsense"),
        (json!({"RestartPolicy": {"Name": "always"}, "AutoRemove": true}), 400, "restart policy"),
        (json!({"LogConfig": {"Type": "nonsense"}}), 400, "nonsense"),
        (json!({"Runtime": "/bin/sh"}), 400, "runtime"),
    ] {
        let (actual, message) = create(&api, host.clone());
        assert!(actual == status && message.contains(word), "{host}: {actual} {message}");
    }
    assert_eq!(api.containers.stdout_of(&["ps", "-aq"]), "", "no container is left");
}

#[test]
fn what_only_shifts_shares_is_told_in_a_warning() {
    let api = DockerApi::new();
    let (status, warnings) =
        create(&api, json!({"NetworkMode": "none", "CpuShares": 512, "BlkioWeight": 100}));
    assert_eq!(status, 201, "{warnings}");
    assert!(
        warnings.contains("HostConfig.CpuShares") && warnings.contains("HostConfig.BlkioWeight"),
        "{warnings}"
    );
    let body = json!({"Image": "box:1", "NetworkDisabled": true, "Healthcheck": {"Test": ["CMD", "true"]}});
    let reply = api.http_json("POST", "/containers/create", &body);
    assert_eq!(reply.json()["Warnings"].as_array().map(Vec::len), Some(1), "{}", reply.text());
    for body in [&b""[..], b"{", b"[]", b"{\"Image\":1}"] {
        let reply = api.http_with("POST", "/containers/create", &[], body);
        assert_eq!(reply.status(), 400, "{}", reply.text());
    }
}
