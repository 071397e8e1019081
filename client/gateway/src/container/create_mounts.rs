//! Mounts in the body of a create: binds, mounts, tmpfs. Pure.

use crate::refusal::Refusal;
use sampan_ipc::container::{Mount, MountKind};
use serde::Deserialize;

/// An element of `Mounts`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct MountBody {
    r#type: String,
    source: String,
    target: String,
    read_only: bool,
    bind_options: BindOptions,
    tmpfs_options: TmpfsOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct BindOptions {
    propagation: String,
    non_recursive: bool,
    create_mountpoint: bool,
    read_only_non_recursive: bool,
    read_only_force_recursive: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct TmpfsOptions {
    size_bytes: i64,
    mode: u32,
    options: Vec<Vec<String>>,
}

/// Parses `SOURCE:TARGET[:OPTIONS]`.
///
/// # Errors
/// The form is another one, or the source is the name of a volume.
pub(crate) fn bind(text: &str) -> Result<Mount, Refusal> {
    let invalid = |why: &str| Refusal::bad(format!("invalid volume specification {text:?}: {why}"));
    let mut parts = text.splitn(3, ':');
    let (source, target, options) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let Some(target) = target else {
        return Err(Refusal::missing(&format!("the anonymous volume {text:?}")));
    };
    if source.is_empty() {
        return Err(invalid("the source is missing"));
    }
    if !source.starts_with('/') {
        return Err(Refusal::missing(&format!("the named volume {source:?}")));
    }
    if !target.starts_with('/') {
        return Err(invalid("the target must be an absolute path"));
    }
    let mut mount = Mount {
        kind: MountKind::Bind,
        source: source.to_owned(),
        target: target.to_owned(),
        make_source: true,
        ..Mount::default()
    };
    let mut access = None;
    for option in options.unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" if access.is_some_and(|other| other != option) => {
                return Err(invalid("ro and rw exclude each other"));
            }
            "ro" | "rw" => access = Some(option),
            // Copying the image's files is for volumes.
            "nocopy" => {}
            other => mount.options.push(other.to_owned()),
        }
    }
    mount.read_only = access == Some("ro");
    Ok(mount)
}

/// The mount of an element of `Tmpfs`.
pub(crate) fn tmpfs(target: String, options: &str) -> Mount {
    let mut mount = Mount { kind: MountKind::Tmpfs, target, ..Mount::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.read_only = true,
            "rw" => mount.read_only = false,
            other => mount.options.push(other.to_owned()),
        }
    }
    mount
}

/// The mount of an element of `Mounts`.
///
/// # Errors
/// The type is not served, or a part is missing.
pub(crate) fn mount(body: MountBody) -> Result<Mount, Refusal> {
    let invalid = |why: &str| Refusal::bad(format!("invalid mount config for type {:?}: {why}", body.r#type));
    if !body.target.starts_with('/') {
        return Err(invalid("field Target must be an absolute path"));
    }
    let mut mount = Mount { target: body.target.clone(), read_only: body.read_only, ..Mount::default() };
    match body.r#type.as_str() {
        "bind" if !body.source.starts_with('/') => {
            return Err(invalid("field Source must be an absolute path"));
        }
        "bind" => {
            mount.source.clone_from(&body.source);
            mount.make_source = body.bind_options.create_mountpoint;
            let options = &body.bind_options;
            if options.read_only_non_recursive || options.read_only_force_recursive {
                return Err(Refusal::missing("a choice of which mounts below a bind mount are read-only"));
            }
            if !options.propagation.is_empty() {
                mount.options.push(options.propagation.clone());
            }
            if options.non_recursive {
                mount.options.push("bind".to_owned());
            }
        }
        "tmpfs" if !body.source.is_empty() => return Err(invalid("field Source must not be specified")),
        "tmpfs" => {
            mount.kind = MountKind::Tmpfs;
            let options = &body.tmpfs_options;
            match options.size_bytes {
                0 => {}
                size if size < 0 => return Err(invalid("field TmpfsOptions.SizeBytes must not be negative")),
                size => mount.options.push(format!("size={size}")),
            }
            if options.mode != 0 {
                mount.options.push(format!("mode={:o}", options.mode));
            }
            mount.options.extend(options.options.iter().map(|words| words.join("=")));
        }
        "volume" => return Err(Refusal::missing("a named or anonymous volume")),
        "image" | "cluster" | "npipe" => {
            return Err(Refusal::missing(&format!("a mount of type {:?}", body.r#type)));
        }
        _ => return Err(invalid("mount type unknown")),
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status<T>(result: Result<T, Refusal>) -> u16 {
        result.err().map_or(200, |refusal| refusal.status)
    }

    #[test]
    fn a_bind_has_a_path_of_the_host() {
        let mount = bind("/a:/b:ro,rslave").expect("valid");
        assert_eq!((mount.source.as_str(), mount.target.as_str()), ("/a", "/b"));
        assert!(mount.read_only && mount.make_source);
        assert_eq!(mount.options, ["rslave"]);
        for text in ["name:/b", "/a", "./a:/b"] {
            assert_eq!(status(bind(text)), 501, "{text}");
        }
        for text in [":/b", "/a:b", "/a:/b:ro,rw", "/a:"] {
            assert_eq!(status(bind(text)), 400, "{text}");
        }
    }

    #[test]
    fn a_mount_is_a_bind_mount_or_a_tmpfs() {
        let of = |json: &str| mount(serde_json::from_str(json).expect("JSON"));
        let bind = of(r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,
            "BindOptions":{"Propagation":"rslave","NonRecursive":true}}"#)
        .expect("valid");
        assert!(bind.read_only && !bind.make_source);
        assert_eq!(bind.options, ["rslave", "bind"]);
        let memory = of(r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":4096,"Mode":448,"Options":[["noexec"]]}}"#)
            .expect("valid");
        assert_eq!(
            (memory.kind, memory.options),
            (MountKind::Tmpfs, vec!["size=4096".into(), "mode=700".into(), "noexec".into()])
        );
        assert_eq!(status(of(r#"{"Type":"volume","Source":"v","Target":"/b"}"#)), 501);
        assert_eq!(status(of(r#"{"Type":"image","Source":"v","Target":"/b"}"#)), 501);
        for json in [
            r#"{"Type":"bind","Source":"a","Target":"/b"}"#,
            r#"{"Type":"bind","Source":"/a","Target":"b"}"#,
            r#"{"Type":"tmpfs","Source":"/a","Target":"/b"}"#,
            r#"{"Type":"x","Target":"/b"}"#,
            r#"{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":-1}}"#,
        ] {
            assert_eq!(status(of(json)), 400, "{json}");
        }
    }
}
