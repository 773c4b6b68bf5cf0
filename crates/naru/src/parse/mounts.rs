//! `--mount`, `--volume` and `--tmpfs`.

use naru_api::models::{BindOptions, Driver, ImageOptions, Mount, StringMap, TmpfsOptions, VolumeOptions};

use super::Parsed;
use crate::cli::flags::{parse_bool, parse_bytes};

/// One `--mount`.
pub fn mount(text: &str) -> Parsed<Mount> {
    let mut mount = Mount { r#type: "volume".to_owned(), ..Mount::default() };
    let mut fields = Vec::new();
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    for field in super::csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
            None => (field.to_lowercase(), None),
        };
        match key.as_str() {
            "type" => mount.r#type = value.clone().unwrap_or_default().to_lowercase(),
            _ => fields.push((field, key, value)),
        }
    }
    for (field, key, value) in fields {
        set(&mut mount, &field, &key, value)?;
    }
    check(&mount)?;
    Ok(mount)
}

fn set(mount: &mut Mount, field: &str, key: &str, value: Option<String>) -> Parsed<()> {
    let flag =
        |value: Option<&str>| value.map_or(Ok(true), |value| parse_bool(value).map_err(|_| format!("invalid value for {key}: {value}")));
    match (key, value.as_deref()) {
        ("readonly" | "ro", value) => return flag(value).map(|set| mount.read_only = set),
        ("volume-nocopy", value) => {
            let set = flag(value)?;
            return volume(mount).map(|options| options.no_copy = set);
        }
        ("bind-nonrecursive", value) => {
            let set = flag(value)?;
            return bind(mount).map(|options| options.non_recursive = set);
        }
        ("bind-create-src", value) => {
            let set = flag(value)?;
            return bind(mount).map(|options| options.create_mountpoint = set);
        }
        _ => {}
    }
    let Some(value) = value else { return Err(format!("invalid field '{field}' must be a key=value pair")) };
    match key {
        "source" | "src" => {
            mount.source = value;
            if mount.r#type == "bind" && mount.source.starts_with('.') {
                mount.source = absolute(&mount.source);
            }
        }
        "target" | "dst" | "destination" => mount.target = value,
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => bind(mount)?.propagation = value.to_lowercase(),
        "bind-recursive" => match value.as_str() {
            "enabled" => {}
            "disabled" => bind(mount)?.non_recursive = true,
            "writable" => bind(mount)?.read_only_non_recursive = true,
            "readonly" => bind(mount)?.read_only_force_recursive = true,
            _ => {
                return Err(format!("invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"));
            }
        },
        "volume-subpath" => volume(mount)?.subpath = value,
        "volume-driver" => volume(mount)?.driver_config.get_or_insert_with(Driver::default).name = value,
        "volume-label" => {
            let (name, text) = value.split_once('=').unwrap_or((&value, ""));
            volume(mount)?.labels.get_or_insert_with(StringMap::new).insert(name.to_owned(), text.to_owned());
        }
        "volume-opt" => {
            let (name, text) = value.split_once('=').unwrap_or((&value, ""));
            let driver = volume(mount)?.driver_config.get_or_insert_with(Driver::default);
            driver.options.get_or_insert_with(StringMap::new).insert(name.to_owned(), text.to_owned());
        }
        "image-subpath" => {
            only(mount, "image")?;
            mount.image_options.get_or_insert_with(ImageOptions::default).subpath = value;
        }
        "tmpfs-size" => {
            let size = parse_bytes(&value).map_err(|_| format!("invalid value for {key}: {value}"))?;
            tmpfs(mount)?.size_bytes = size;
        }
        "tmpfs-mode" => {
            let mode = u32::from_str_radix(&value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?;
            tmpfs(mount)?.mode = mode;
        }
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn only(mount: &Mount, kind: &str) -> Parsed<()> {
    if mount.r#type == kind { Ok(()) } else { Err(format!("cannot mix '{kind}-*' options with mount type '{}'", mount.r#type)) }
}

fn bind(mount: &mut Mount) -> Parsed<&mut BindOptions> {
    only(mount, "bind")?;
    Ok(mount.bind_options.get_or_insert_with(BindOptions::default))
}

fn volume(mount: &mut Mount) -> Parsed<&mut VolumeOptions> {
    only(mount, "volume")?;
    Ok(mount.volume_options.get_or_insert_with(VolumeOptions::default))
}

fn tmpfs(mount: &mut Mount) -> Parsed<&mut TmpfsOptions> {
    only(mount, "tmpfs")?;
    Ok(mount.tmpfs_options.get_or_insert_with(TmpfsOptions::default))
}

fn check(mount: &Mount) -> Parsed<()> {
    if mount.r#type.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    if let Some(options) = &mount.bind_options {
        if options.read_only_non_recursive && !mount.read_only {
            return Err("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction".to_owned());
        }
        if options.read_only_force_recursive {
            if !mount.read_only {
                return Err("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction".to_owned());
            }
            if options.propagation != "rprivate" {
                return Err(
                    "option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction".to_owned()
                );
            }
        }
    }
    Ok(())
}

/// What one `--volume` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Volume {
    /// `/inside`: a volume without name.
    Anonymous(String),
    /// `source:/inside[:options]`, ready for the wire.
    Bind(String),
}

/// One `--volume`. A source that begins with a dot is made absolute.
pub fn volume_spec(text: &str) -> Parsed<Volume> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [inside] => Ok(Volume::Anonymous((*inside).to_owned())),
        parts if parts.iter().any(|part| part.is_empty()) => Err(format!("invalid spec: {text}: empty section between colons")),
        _ => {
            let (source, rest) = text.split_once(':').unwrap_or((text, ""));
            let source = if source.starts_with('.') { absolute(source) } else { source.to_owned() };
            Ok(Volume::Bind(format!("{source}:{rest}")))
        }
    }
}

/// One `--tmpfs`: `/inside[:options]`.
pub fn tmpfs_spec(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.to_owned(), options.to_owned())
}

/// Joins with the working folder and removes `.` and `..` by text, as Go's filepath.Abs does.
pub fn absolute(path: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let whole =
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", std::env::current_dir().unwrap_or_default().display()) };
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop();
            }
            part => out.push(part.to_owned()),
        }
    }
    format!("/{}", out.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_every_kind() {
        let json = |text: &str| serde_json::to_string(&mount(text).expect(text)).expect("serialises");
        for (text, expected) in [
            ("target=/x", r#"{"Type":"volume","Target":"/x"}"#),
            ("type=bind,src=/a,dst=/b,ro", r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}"#),
            (
                "type=bind,source=/a,destination=/b,readonly=false,bind-propagation=rslave",
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"Propagation":"rslave"}}"#,
            ),
            (
                "type=bind,src=/a,dst=/b,bind-recursive=disabled",
                r#"{"Type":"bind","Source":"/a","Target":"/b","BindOptions":{"NonRecursive":true}}"#,
            ),
            (
                "dst=/b,src=v,volume-nocopy,volume-opt=type=nfs,volume-driver=d,volume-label=a=b,volume-subpath=s",
                r#"{"Type":"volume","Source":"v","Target":"/b","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"},"Subpath":"s","DriverConfig":{"Name":"d","Options":{"type":"nfs"}}}}"#,
            ),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777",
                r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1023}}"#,
            ),
            (
                "type=image,src=busybox,dst=/i,image-subpath=bin",
                r#"{"Type":"image","Source":"busybox","Target":"/i","ImageOptions":{"Subpath":"bin"}}"#,
            ),
            ("tmpfs-size=1,type=tmpfs,dst=/t", r#"{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1}}"#),
        ] {
            assert_eq!(json(text), expected);
        }
    }

    #[test]
    fn refusals_have_dockers_words() {
        for (text, error) in [
            ("type=bind", "target is required"),
            ("target", "invalid field 'target' must be a key=value pair"),
            ("target=/x,foo=1", "unexpected key 'foo' in 'foo=1'"),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
            ("type=bind,target=/x,volume-nocopy", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("type=tmpfs,target=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
        ] {
            assert_eq!(mount(text).expect_err(text), error);
        }
    }

    #[test]
    fn volumes() {
        assert_eq!(volume_spec("/x"), Ok(Volume::Anonymous("/x".to_owned())));
        assert_eq!(volume_spec("a:/x:ro,z"), Ok(Volume::Bind("a:/x:ro,z".to_owned())));
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(volume_spec("./a/../b:/x"), Ok(Volume::Bind(format!("{}/b:/x", here.display()))));
        assert_eq!(volume_spec("").expect_err("empty"), "invalid empty volume spec");
        assert!(volume_spec("a::b").is_err());
        assert_eq!(absolute("/a/./b//../c/"), "/a/c");
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "[a-z=,:./\"-]{0,40}") {
            let _ = (mount(&text), volume_spec(&text));
        }
    }
}
