//! `images`

use naru_api::Query;
use naru_api::models::ImageSummary;
use naru_types::ImageRef;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::output::format::{Listing, Row};
use crate::output::units::{ago, human_size, human_size_precision, local_time, short_id};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Show all images (default hides intermediate images)
    #[arg(short = 'a', long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter (dangling=, label=, before=, since=, reference=)
    #[arg(short = 'f', long, value_name = "filter", value_parser = crate::commands::filter)]
    filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not cut the output
    #[arg(long)]
    no_trunc: bool,
    /// Only show IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// List the platforms of images as a tree
    #[arg(long)]
    tree: bool,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["image ls", "image list", "images"],
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    Arguments::AtMost(1),
    "{} images\n{} images --filter dangling=true -q"
);

/// Titles of the fields.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];
const NONE: &str = "<none>";

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let flags =
        [("quiet", options.quiet), ("no-trunc", options.no_trunc), ("show-digest", options.digests), ("format", options.format.is_some())];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| options.tree && *given) {
        return Err(Failure::message(format!("--{flag} is not yet supported with --tree")));
    }
    let mut filters = crate::commands::filters(&options.filter)?;
    if let Some(reference) = options.args.first() {
        filters.add("reference", reference);
    }
    let mut query = Query::new();
    query.flag("all", options.all);
    if !filters.is_empty() {
        query.push("filters", filters.to_json());
    }
    query.flag("manifests", options.tree);
    let images = cx.client()?.image_list(&query).await?;
    if options.tree {
        crate::output::write(super::tree::render(&images).as_bytes())?;
        return Ok(0);
    }
    let format = match &options.format {
        Some(format) => format.clone(),
        None if options.quiet => String::new(),
        None => cx.config().images_format.clone(),
    };
    let cut = !options.no_trunc;
    if options.quiet && matches!(format.as_str(), "" | "table") {
        let mut out = String::new();
        for (image, _) in entries(&images, options.digests) {
            out.push_str(if cut { short_id(&image.id) } else { &image.id });
            out.push('\n');
        }
        crate::output::write(out.as_bytes())?;
        return Ok(0);
    }
    let digest = if options.digests { "{{.Digest}}\t" } else { "" };
    let default = format!(
        "{{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{{{{if .CreatedSince }}}}{{{{.CreatedSince}}}}{{{{else}}}}N/A{{{{end}}}}\t{{{{.Size}}}}"
    );
    let raw = "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n";
    let wants_digest = options.digests || format.contains(".Digest");
    let rows: Vec<Row> = entries(&images, wants_digest).into_iter().map(|(image, name)| row(image, &name, cut)).collect();
    let listing = Listing { kind: "*formatter.imageContext", headers: HEADERS, default: &default, raw: Some(raw) };
    crate::output::write(listing.render(&format, &rows)?.as_bytes())?;
    Ok(0)
}

/// What one line of the list is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    pub repository: String,
    pub tag: String,
    pub digest: String,
}

/// One entry per tag of an image, one per digest without a tag, or one nameless entry.
pub fn entries(images: &[ImageSummary], digests: bool) -> Vec<(&ImageSummary, Name)> {
    let mut out = Vec::new();
    for image in images {
        let tags: Vec<ImageRef> =
            image.repo_tags.iter().flatten().filter(|tag| *tag != "<none>:<none>").filter_map(|tag| ImageRef::parse(tag).ok()).collect();
        let known: Vec<ImageRef> = image
            .repo_digests
            .iter()
            .flatten()
            .filter(|digest| *digest != "<none>@<none>")
            .filter_map(|digest| ImageRef::parse(digest).ok())
            .collect();
        let mut names = Vec::new();
        for tag in &tags {
            let repository = tag.familiar_name();
            let same = |digest: &&ImageRef| digest.familiar_name() == repository;
            let text = |digest: &ImageRef| digest.digest.as_ref().map_or(NONE.to_owned(), ToString::to_string);
            let name =
                |digest: String| Name { repository: repository.clone(), tag: tag.tag.clone().unwrap_or_else(|| NONE.to_owned()), digest };
            let matching: Vec<&ImageRef> = known.iter().filter(same).collect();
            if digests && !matching.is_empty() {
                names.extend(matching.into_iter().map(|digest| name(text(digest))));
            } else {
                names.push(name(NONE.to_owned()));
            }
        }
        for digest in &known {
            if !tags.iter().any(|tag| tag.familiar_name() == digest.familiar_name()) {
                names.push(Name {
                    repository: digest.familiar_name(),
                    tag: NONE.to_owned(),
                    digest: digest.digest.as_ref().map_or(NONE.to_owned(), ToString::to_string),
                });
            }
        }
        if names.is_empty() {
            names.push(Name { repository: NONE.to_owned(), tag: NONE.to_owned(), digest: NONE.to_owned() });
        }
        out.extend(names.into_iter().map(|name| (image, name)));
    }
    out
}

/// The fields of an image in lists.
#[expect(clippy::cast_precision_loss, reason = "sizes are shown with four digits")]
pub fn row(image: &ImageSummary, name: &Name, cut: bool) -> Row {
    let shared = image.shared_size;
    let unique = if shared < 0 { "N/A".to_owned() } else { human_size((image.size - shared) as f64) };
    Row::new([
        ("ID", if cut { short_id(&image.id).into() } else { image.id.as_str().into() }),
        ("Repository", name.repository.as_str().into()),
        ("Tag", name.tag.as_str().into()),
        ("Digest", name.digest.as_str().into()),
        ("CreatedSince", ago(image.created).into()),
        ("CreatedAt", local_time(image.created).into()),
        ("Size", human_size_precision(image.size as f64, 3).into()),
        ("Containers", if image.containers < 0 { "N/A".into() } else { image.containers.to_string().into() }),
        ("VirtualSize", human_size(image.size as f64).into()),
        ("SharedSize", if shared < 0 { "N/A".into() } else { human_size(shared as f64).into() }),
        ("UniqueSize", unique.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_line_for_every_name() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = |tags: &[&str], digests: &[String]| ImageSummary {
            repo_tags: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()),
            repo_digests: Some(digests.to_vec()),
            ..ImageSummary::default()
        };
        let shown = |image: ImageSummary, digests: bool| -> Vec<String> {
            entries(&[image], digests).into_iter().map(|(_, n)| format!("{} {} {}", n.repository, n.tag, &n.digest[..6])).collect()
        };
        assert_eq!(shown(image(&[], &[]), false), ["<none> <none> <none>"]);
        assert_eq!(shown(image(&["a:1", "b.example/c:2"], &[]), false), ["a 1 <none>", "b.example/c 2 <none>"]);
        let named = image(&["a:1"], &[format!("a@{digest}"), format!("x@{digest}")]);
        assert_eq!(shown(named.clone(), true), ["a 1 sha256", "x <none> sha256"]);
        assert_eq!(shown(named, false), ["a 1 <none>", "x <none> sha256"]);
    }
}
