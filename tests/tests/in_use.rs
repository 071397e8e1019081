//! Images that containers use: they cannot be removed, and can be once the last of these containers is gone.

use sampan_ipc::container::AttachMessage;
use sampan_ipc::engine::{Answer, Code, Done, Import, Prune, Request, Usage};
use sampan_tests::containers::{Containers, IMAGE, sh};
use std::fs;
use std::os::fd::AsRawFd;

fn remove_image(name: &str, force: bool) -> Request {
    Request::Remove { name: name.to_owned(), force }
}

fn remove(container: &str) -> Request {
    Request::RemoveContainer { container: container.to_owned(), force: true }
}

fn done(answers: Vec<Answer>) -> Done {
    match answers.into_iter().last() {
        Some(Answer::Done(done)) => done,
        other => panic!("{other:?}"),
    }
}

fn usage(containers: &Containers, kind: &str) -> Usage {
    let Some(Answer::Usage(kinds)) = containers.ok(Request::Usage).into_iter().next() else {
        panic!("no usage")
    };
    kinds.into_iter().find(|usage| usage.kind == kind).expect("a kind")
}

fn layers(containers: &Containers) -> usize {
    fs::read_dir(containers.host.path("data/store/layers")).expect("listed").count()
}

fn id(containers: &Containers) -> String {
    match containers.ok(Request::Images).remove(0) {
        Answer::Images(images) => images.first().expect("the image").id.clone(),
        other => panic!("{other:?}"),
    }
}

fn prune_all(containers: &Containers) -> Done {
    done(containers.ok(Request::Prune(Prune { all: true, ..Prune::default() })))
}

/// Makes the store treat the next start of the engine as the first one after a boot.
fn pretend_reboot(containers: &Containers) {
    fs::write(containers.host.path("data/store/boot"), "another").expect("written");
}

#[test]
fn a_used_images_last_reference_is_removed_only_by_force() {
    let containers = Containers::new();
    containers.create_sh("one", "true");
    containers.create_sh("two", "true");
    containers.ok(Request::Tag { source: IMAGE.to_owned(), target: "box:2".to_owned() });
    let id = id(&containers);
    let by_id = containers.fails(remove_image(&id, false));
    assert!(by_id.code == Code::Conflict && by_id.message.contains("containers one, two"), "{by_id:?}");
    // Of two references to the image, one can be removed.
    let untagged = done(containers.ok(remove_image(IMAGE, false)));
    assert_eq!(untagged.removed, [IMAGE]);
    for name in ["box:2", &id] {
        let refused = containers.fails(remove_image(name, false));
        assert_eq!(refused.code, Code::Conflict, "{name}");
        assert!(refused.message.contains("containers one, two"), "{refused:?}");
        assert!(refused.hint.contains("--force"), "{refused:?}");
    }
    containers.ok(Request::Rename { container: "two".to_owned(), name: "renamed".to_owned() });
    containers.ok(remove("one"));
    let refused = containers.fails(remove_image("box:2", false));
    assert!(refused.message.ends_with("in use by container renamed"), "{refused:?}");
    containers.ok(remove("renamed"));
    let gone = done(containers.ok(remove_image("box:2", false)));
    assert!(gone.removed.len() == 2 && gone.freed > 100_000, "{gone:?}");
    assert_eq!(layers(&containers), 0);
}

#[test]
fn a_forcibly_removed_image_stays_until_its_last_container_goes() {
    let mut containers = Containers::new();
    containers.create_sh("one", "echo still here");
    let two = containers.create_sh("two", "true");
    let removed = done(containers.ok(remove_image(IMAGE, true)));
    assert!(removed.removed.contains(&IMAGE.to_owned()), "{removed:?}");
    assert_eq!(layers(&containers), 1);
    assert_eq!(containers.fails(Request::Inspect { name: IMAGE.to_owned() }).code, Code::NotFound);
    for _ in 0..2 {
        containers.kill_engine();
        pretend_reboot(&containers);
        containers.start_engine();
        prune_all(&containers);
        assert_eq!(layers(&containers), 1);
        assert_eq!(usage(&containers, "layers").reclaimable, 0);
    }
    let one = containers.summary("one").expect("kept").id;
    let (told, out, _) = containers.attach_start(&one).to_end(b"");
    assert_eq!((told, out.as_str()), (AttachMessage::Exited(0), "still here\n"));
    containers.ok(remove("one"));
    assert_eq!(layers(&containers), 1, "the other one needs it");
    containers.ok(remove(&two));
    containers.host.wait_until("the layers to go", || layers(&containers) == 0);
    let blobs = || fs::read_dir(containers.host.path("data/store/blobs/sha256")).expect("listed").count();
    containers.host.wait_until("the blobs to go", || blobs() == 0);
    let mut events = containers.host.follow_from(0);
    let pruned =
        |event: &sampan_ipc::Event| event.action == "prune" && event.attributes.get("by") == Some("rm");
    let told = events.until(pruned).pop().expect("told");
    let freed: u64 = told.attributes.get("reclaimed").and_then(|freed| freed.parse().ok()).expect("a number");
    assert!(freed > 100_000, "{freed}");
}

#[test]
fn a_container_that_removes_itself_removes_its_unnamed_image() {
    let containers = Containers::new();
    let create = sampan_ipc::container::Create { auto_remove: true, ..sh("brief", "cat") };
    let id = containers.create(create);
    let attached = containers.attach_start(&id);
    containers.ok(remove_image(IMAGE, true));
    assert_eq!(layers(&containers), 1);
    assert_eq!(attached.to_end(b"last words").1, "last words");
    containers.host.wait_until("the layers to go", || layers(&containers) == 0);
}

#[test]
fn pruning_spares_images_that_containers_need() {
    let mut containers = Containers::new();
    containers.create_sh("one", "true");
    assert_eq!(prune_all(&containers).removed, Vec::<String>::new());
    containers.kill_engine();
    // A collection begins at once, since no disk is completely free.
    let table = "[engine]\ngc-free-low = \"100%\"\ngc-free-high = \"100%\"\n";
    fs::write(containers.host.path("sampan.toml"), table).expect("written");
    containers.start_engine();
    let import = |reference: &str, command: &str| {
        let tar = fs::File::open(containers.host.path("box.tar")).expect("made with the installation");
        let (reference, cmd) = (reference.to_owned(), vec![command.to_owned()]);
        let import = Import { reference, layers: 1, cmd, ..Import::default() };
        done(containers.ask_with(Request::Import(import), &[tar.as_raw_fd()]));
    };
    import("docker.io/library/other:1", "false");
    let archive = containers.host.path("other.tar").display().to_string();
    let sampan = |words: &[&str]| {
        let status = containers.host.command("sampan").args(words).status();
        assert!(status.expect("built").success(), "{words:?}\n{}", containers.log());
    };
    sampan(&["save", "-q", "-o", &archive, "other:1"]);
    sampan(&["rmi", "other:1"]);
    import("docker.io/library/unneeded:1", "true");
    sampan(&["load", "-q", "-i", &archive]);
    // An unused image is removed, which shows that the collection has happened.
    let unneeded = Request::Inspect { name: "unneeded:1".to_owned() };
    containers.host.wait_until("the image that nobody needs to go", || {
        matches!(containers.ask(unneeded.clone()).last(), Some(Answer::Error(failure)) if failure.code == Code::NotFound)
    });
    containers.ok(Request::Inspect { name: IMAGE.to_owned() });
    assert_eq!(prune_all(&containers).removed.iter().filter(|name| *name == IMAGE).count(), 0);
    containers.ok(remove("one"));
    assert!(prune_all(&containers).removed.contains(&IMAGE.to_owned()));
    assert_eq!(layers(&containers), 0);
}

#[test]
fn system_df_shows_what_containers_wrote_and_a_prune_would_free() {
    let containers = Containers::new();
    assert_eq!(usage(&containers, "containers"), Usage { kind: "containers".to_owned(), ..Usage::default() });
    let write = "dd if=/dev/zero of=/file bs=1k count=500 2>/dev/null; echo; exec cat";
    for name in ["ends", "runs"] {
        let id = containers.create_sh(name, write);
        let (told, ..) = containers.attach_start(&id).to_end(b"");
        assert_eq!(told, AttachMessage::Exited(0));
    }
    let of = usage(&containers, "containers");
    assert!(of.count == 2 && of.active == 0 && of.reclaimable == of.size, "{of:?}");
    assert!((1_000_000..2_000_000).contains(&of.size), "{of:?}");
    let id = containers.create_sh("up", "sleep 1000");
    containers.start(&id);
    let of = usage(&containers, "containers");
    assert!(of.count == 3 && of.active == 1 && (1_000_000..=of.size).contains(&of.reclaimable), "{of:?}");
    assert_eq!((usage(&containers, "images").reclaimable, usage(&containers, "layers").reclaimable), (0, 0));
    let mut command = containers.host.command("sampan");
    let said = command.args(["system", "df"]).output().expect("built");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let row = said.lines().find(|line| line.starts_with("Containers")).expect("a row");
    assert!(row.split_whitespace().skip(1).take(2).eq(["3", "1"]), "{said}");
    containers.ok(remove("up"));
}
