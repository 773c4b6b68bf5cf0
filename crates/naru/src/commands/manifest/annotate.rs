//! `manifest annotate`

use super::store::Lists;
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Architecture
    #[arg(long, value_name = "string")]
    arch: Option<String>,
    /// Operating system
    #[arg(long, value_name = "string")]
    os: Option<String>,
    /// Features of the operating system
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Version of the operating system
    #[arg(long, value_name = "string")]
    os_version: Option<String>,
    /// Variant of the architecture
    #[arg(long, value_name = "string")]
    variant: Option<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["manifest annotate"],
    "[OPTIONS] MANIFEST_LIST MANIFEST",
    "Say what an image of a list is for",
    Arguments::Exactly(2),
    "{} manifest annotate --arch arm64 --variant v8 reg.example/web:2 reg.example/web:2-arm64"
);

/// What images can be for, by operating system: Go's words and Docker's selection.
const KNOWN: [(&str, &[&str]); 9] = [
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm"]),
    ("linux", &["386", "amd64", "arm", "arm64", "ppc64le", "mips64", "mips64le", "riscv64", "s390x"]),
    ("netbsd", &["386", "amd64", "arm"]),
    ("openbsd", &["386", "amd64", "arm"]),
    ("plan9", &["386", "amd64"]),
    ("solaris", &["amd64"]),
    ("windows", &["386", "amd64"]),
];

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let (list_text, text) = (&options.args[0], &options.args[1]);
    let named = |what: &str, text: &str| {
        super::reference(text).map_err(|error| Failure::message(format!("annotate: error parsing name for {what} {text}: {error}")))
    };
    let (list, reference) = (named("manifest list", list_text)?, named("manifest", text)?);
    let lists = Lists::new(cx);
    let mut entry = lists
        .get(&list, &reference)?
        .ok_or_else(|| Failure::message(format!("manifest for image {text} does not exist in {list_text}")))?;
    let platform = entry.descriptor.platform.get_or_insert_default();
    for (value, field) in [
        (&options.os, &mut platform.os),
        (&options.arch, &mut platform.architecture),
        (&options.variant, &mut platform.variant),
        (&options.os_version, &mut platform.os_version),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            field.clone_from(value);
        }
    }
    for feature in options.os_features {
        if !platform.os_features.contains(&feature) {
            platform.os_features.push(feature);
        }
    }
    let known = KNOWN.iter().any(|(os, architectures)| *os == platform.os && architectures.contains(&&*platform.architecture));
    if !known {
        let (os, architecture) = (&platform.os, &platform.architecture);
        return Err(Failure::message(format!("manifest entry for image has unsupported os/arch combination: {os}/{architecture}")));
    }
    lists.put(&list, &reference, &entry)?;
    Ok(0)
}
