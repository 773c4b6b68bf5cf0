//! Images.

use super::body::{self, BodyReader, BodyWriter, Response, Sender};
use super::convert::image::{descriptor, for_platform, manifests, repo_digests, repo_tags, summary};
use super::convert::{self, time};
use super::error::{ApiError, Result};
use super::{Call, registry};
use http::StatusCode;
use naru_api::filters::Filters;
use naru_api::models;
use naru_api::query::Query;
use naru_api::version::ApiVersion;
use naru_engine::events::ObjectKind;
use naru_store::{CommitOptions, ConfigPatch, Image, ImportOptions, LoadOptions, Loaded, Progress, Removed, SaveOptions};
use naru_types::{Digest, ErrorKind, ImageRef};
use std::collections::HashSet;
use std::sync::Arc;

const LIST_FILTERS: [&str; 6] = ["before", "dangling", "label", "reference", "since", "until"];

fn users(call: &Call, image: &Image) -> i64 {
    i64::try_from(call.app.engine.image_users(&image.id).len()).unwrap_or(i64::MAX)
}

/// `GET /images/json`.
pub async fn list(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&LIST_FILTERS)?;
    let images = call.app.engine.images();
    let dangling = if filters.contains("dangling") { Some(filters.boolean("dangling", false)?) } else { None };
    let mut bounds = (None, None);
    if let Some(name) = filters.values("before").next() {
        bounds.0 = Some(made(&call.app.engine.image(name)?));
    }
    if let Some(name) = filters.values("since").next() {
        bounds.1 = Some(made(&call.app.engine.image(name)?));
    }
    let until = time::until_filter(&filters)?;
    let patterns = filters.values("reference").map(glob).collect::<Result<Vec<_>>>()?;
    let all = call.query.boolean("all");
    let parents = parents(&images);
    let rows: Vec<models::ImageSummary> = images
        .iter()
        .filter(|image| {
            let nameless = image.tags.is_empty() && image.digests.is_empty();
            // What has no name and is a step to another image is shown to who asks for all.
            let step = nameless && parents.contains(&image.id);
            (match dangling {
                Some(true) => image.tags.is_empty() && !parents.contains(&image.id),
                Some(false) => !nameless && (all || !step),
                None => all || !step,
            }) && bounds.0.is_none_or(|before| made(image) < before)
                && bounds.1.is_none_or(|since| made(image) > since)
                && until.is_none_or(|until| made(image) < until)
                && filters.matches_labels("label", &image.config.config.labels)
        })
        .filter_map(|image| named(image, &patterns))
        .map(|image| row(call, &image))
        .collect::<Result<_>>()?;
    Ok(body::ok(&rows))
}

/// When an image was made; those that do not say are of the beginning of time.
fn made(image: &Image) -> jiff::Timestamp {
    image.created.unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// The images that others were made of.
fn parents(images: &[Image]) -> HashSet<Digest> {
    images.iter().filter_map(|image| image.parent.clone()).collect()
}

fn row(call: &Call, image: &Image) -> Result<models::ImageSummary> {
    let store = call.app.engine.store();
    // Clients before 1.51 take a count for one that was asked for.
    let mut row = summary(image, if call.version >= ApiVersion::new(1, 51) { users(call, image) } else { -1 });
    if call.version < ApiVersion::new(1, 44) {
        row.virtual_size = Some(row.size);
    }
    // Clients before 1.43 know what has no name by these.
    if call.version < ApiVersion::new(1, 43) && image.tags.is_empty() && image.digests.is_empty() {
        row.repo_tags = Some(vec!["<none>:<none>".into()]);
        row.repo_digests = Some(vec!["<none>@<none>".into()]);
    }
    if call.version >= ApiVersion::new(1, 42) && call.query.boolean("shared-size") {
        row.shared_size = i64::try_from(store.shared_size(&image.id)).unwrap_or(i64::MAX);
    }
    if call.version >= ApiVersion::new(1, 48) {
        row.descriptor = Some(descriptor(&store.target(image)?));
    }
    if call.query.boolean("manifests") {
        let all = manifests(&call.app, image)?;
        // Beside its platforms an image is what they are together.
        row.size = all.iter().filter_map(|manifest| manifest["Size"]["Total"].as_i64()).sum();
        row.manifests = Some(all);
    }
    Ok(row)
}

/// The image with those of its names that one of the `reference` filter's patterns takes; without any it is not listed.
fn named(image: &Image, patterns: &[regex_lite::Regex]) -> Option<Image> {
    let mut image = image.clone();
    if !patterns.is_empty() {
        // The tag may be left out of the pattern.
        let takes =
            |name: &ImageRef| patterns.iter().any(|pattern| pattern.is_match(&name.familiar()) || pattern.is_match(&name.familiar_name()));
        image.tags.retain(takes);
        // The digest of a tag that is listed is told too, also where the pattern names the tag.
        let listed = |digest: &ImageRef| image.tags.iter().any(|tag| tag.familiar_name() == digest.familiar_name());
        image.digests.retain(|digest| takes(digest) || listed(digest));
        if image.tags.is_empty() && image.digests.is_empty() {
            return None;
        }
    }
    Some(image)
}

/// A pattern of Go's `path.Match`: `*` and `?` within path components, `[a-z]`, `[^a]`, `\` before what means itself.
fn glob(pattern: &str) -> Result<regex_lite::Regex> {
    let bad = || ApiError::invalid(format!("syntax error in pattern {pattern:?}"));
    let literal = |expression: &mut String, character: char| {
        if !character.is_alphanumeric() {
            expression.push('\\');
        }
        expression.push(character);
    };
    let mut expression = String::from("^");
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '\\' => literal(&mut expression, characters.next().ok_or_else(bad)?),
            '[' => {
                expression.push('[');
                let mut rest = characters.clone();
                if rest.next() == Some('^') {
                    expression.push('^');
                    characters = rest;
                }
                let mut members = 0;
                loop {
                    match characters.next().ok_or_else(bad)? {
                        ']' if members > 0 => break,
                        '-' if members > 0 => expression.push('-'),
                        '\\' => literal(&mut expression, characters.next().ok_or_else(bad)?),
                        other => literal(&mut expression, other),
                    }
                    members += 1;
                }
                expression.push(']');
            }
            other if other.is_ascii() => literal(&mut expression, other),
            other => expression.push(other),
        }
    }
    expression.push('$');
    regex_lite::Regex::new(&expression).map_err(|_| bad())
}

/// `GET /images/{name}/json`.
pub async fn inspect(call: &Call, name: &str) -> Result<Response> {
    let image = wanted(call, name, ApiVersion::new(1, 49))?;
    let with_manifests = call.query.boolean("manifests");
    if with_manifests && call.query.get("platform").is_some_and(|platform| !platform.is_empty()) {
        return Err(ApiError::invalid("conflicting options: manifests and platform options cannot both be set"));
    }
    let config = &image.config;
    let run: models::ImageConfig = serde_json::to_value(&config.config)
        .and_then(serde_json::from_value)
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("cannot show the image's config: {error}")))?;
    let answer = models::ImageInspect {
        id: image.id.to_string(),
        repo_tags: repo_tags(&image),
        repo_digests: repo_digests(&image),
        parent: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        comment: config.comment.clone(),
        created: config.created.clone().unwrap_or_default(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: Some(run),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        // What does not say is for Linux, as everything was when nothing said.
        os: config.platform().os,
        size: i64::try_from(image.size).unwrap_or(i64::MAX),
        virtual_size: if call.version < ApiVersion::new(1, 44) { Some(i64::try_from(image.size).unwrap_or(i64::MAX)) } else { None },
        graph_driver: {
            let store = call.app.engine.store();
            convert::image::graph_driver(store.driver(), store.image_directories(&image.layers))
        },
        root_fs: models::RootFs { r#type: "layers".into(), layers: Some(image.layers.iter().map(ToString::to_string).collect()) },
        descriptor: if call.version >= ApiVersion::new(1, 48) { Some(descriptor(&call.app.engine.store().target(&image)?)) } else { None },
        manifests: if with_manifests { Some(manifests(&call.app, &image)?) } else { None },
        metadata: models::ImageMetadata { last_tag_time: image.last_tagged.map_or_else(|| time::NEVER.to_owned(), time::rfc3339) },
        ..models::ImageInspect::default()
    };
    if call.version >= ApiVersion::new(1, 50) {
        return Ok(body::ok(&answer));
    }
    // Until then the config had all members of a container's, which clients in languages with strict types look for.
    let mut answer = serde_json::to_value(&answer).map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    for member in ["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"] {
        answer["Config"][member] = false.into();
    }
    for member in ["Domainname", "Hostname", "Image"] {
        answer["Config"][member] = "".into();
    }
    Ok(body::ok(&answer))
}

/// The image of a name, for the platform that clients from that version on may ask for.
fn wanted(call: &Call, name: &str, since: ApiVersion) -> Result<Image> {
    match call.query.get("platform").filter(|platform| !platform.is_empty() && call.version >= since) {
        Some(text) => for_platform(&call.app, name, &platform(text)?),
        None => Ok(call.app.engine.image(name)?),
    }
}

/// Platforms of a `platform` parameter, which may be given several times.
fn platforms(call: &Call) -> Result<Vec<naru_types::Platform>> {
    if call.version < ApiVersion::new(1, 48) {
        return Ok(vec![]);
    }
    call.query.all("platform").filter(|text| !text.is_empty()).map(platform).collect()
}

/// `GET /images/{name}/history`, newest step first.
pub async fn history(call: &Call, name: &str) -> Result<Response> {
    let image = wanted(call, name, ApiVersion::new(1, 48))?;
    let id = image.id.clone();
    let mut steps = call.app.engine.with_store(move |store| store.history(&id)).await?;
    // The steps below the newest are those of the images it was committed from.
    let mut below = image.parent.clone();
    for step in steps.iter_mut().skip(1) {
        let Some(parent) = below.take().and_then(|id| call.app.engine.image(&id.to_string()).ok()) else { break };
        (step.id, step.tags) = (Some(parent.id), parent.tags);
        below = parent.parent;
    }
    let items: Vec<models::HistoryItem> = steps
        .iter()
        .map(|step| models::HistoryItem {
            comment: step.entry.comment.clone(),
            created: step
                .entry
                .created
                .as_deref()
                .and_then(|text| text.parse::<jiff::Timestamp>().ok())
                .map_or(0, jiff::Timestamp::as_second),
            created_by: step.entry.created_by.clone(),
            id: step.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string),
            size: i64::try_from(step.size).unwrap_or(i64::MAX),
            tags: Some(step.tags.iter().map(ImageRef::familiar).collect::<Vec<_>>()).filter(|tags| !tags.is_empty()),
        })
        .collect();
    Ok(body::ok(&items))
}

/// `POST /images/{name}/tag`.
pub async fn tag(call: &Call, name: &str) -> Result<Response> {
    let repo = call.query.get("repo").unwrap_or_default();
    let reference = reference(repo, call.query.get("tag").unwrap_or_default())?;
    call.app.engine.tag_image(name, &reference).await?;
    Ok(body::empty(StatusCode::CREATED))
}

fn reference(repo: &str, tag: &str) -> Result<ImageRef> {
    let text = if tag.is_empty() { repo.to_owned() } else { format!("{repo}:{tag}") };
    let reference = ImageRef::parse(&text)?;
    if reference.digest.is_some() {
        return Err(ApiError::invalid("refusing to create a tag with a digest reference"));
    }
    if reference.familiar_name() == "sha256" {
        return Err(ApiError::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
    }
    Ok(reference)
}

/// `DELETE /images/{name}`.
pub async fn remove(call: &Call, name: &str) -> Result<Response> {
    only_of(call, name)?;
    let removed = call.app.engine.remove_image(name, call.query.boolean("force"), !call.query.boolean("noprune")).await?;
    let items: Vec<models::ImageDeleteItem> = removed.iter().map(deleted).collect();
    Ok(body::ok(&items))
}

/// Refuses what would remove another platform than those asked for.
fn only_of(call: &Call, name: &str) -> Result<()> {
    let asked: Vec<&str> = call.query.all("platforms").filter(|text| !text.is_empty()).collect();
    if asked.is_empty() || call.version < ApiVersion::new(1, 50) {
        return Ok(());
    }
    for text in asked {
        for_platform(&call.app, name, &platform(text)?)?;
    }
    let image = call.app.engine.image(name)?;
    if call.app.engine.store().variants_of(&image)?.iter().filter(|variant| variant.image.is_some()).count() > 1 {
        return Err(ApiError::unsupported("removing some platforms of an image is not built into this version"));
    }
    Ok(())
}

fn deleted(item: &Removed) -> models::ImageDeleteItem {
    match item {
        Removed::Untagged(name) => models::ImageDeleteItem { untagged: name.familiar(), ..models::ImageDeleteItem::default() },
        Removed::Deleted(id) | Removed::Layer(id) => {
            models::ImageDeleteItem { deleted: id.to_string(), ..models::ImageDeleteItem::default() }
        }
    }
}

/// `POST /images/prune`.
pub async fn prune(call: &Call) -> Result<Response> {
    let filters = Filters::parse(call.query.get("filters").unwrap_or_default())?;
    filters.validate(&["dangling", "label", "label!", "until"])?;
    let dangling_only = filters.boolean("dangling", true)?;
    let until = time::until_filter(&filters)?;
    let Ok(_guard) = call.app.pruning.images.try_lock() else {
        return Err(ApiError::new(ErrorKind::Conflict, "a prune operation is already running"));
    };
    let selected =
        move |image: &Image| until.is_none_or(|until| made(image) < until) && convert::labels_match(&filters, &image.config.config.labels);
    let (removed, space) = call.app.engine.prune_images(dangling_only, selected).await?;
    let items: Vec<_> = removed.iter().map(deleted).collect();
    call.app.engine.emit_prune(ObjectKind::Image, space);
    Ok(body::ok(&models::ImagesPruneReport { images_deleted: Some(items).filter(|items| !items.is_empty()), space_reclaimed: space }))
}

/// One message of a progress stream, ended by CRLF.
pub fn message(message: &models::ProgressMessage) -> bytes::Bytes {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.extend_from_slice(b"\r\n");
    line.into()
}

pub fn failure(text: String) -> bytes::Bytes {
    let detail = models::ErrorDetail { code: 0, message: text.clone() };
    message(&models::ProgressMessage { error_detail: Some(detail), error: text, ..models::ProgressMessage::default() })
}

/// Passes the store's progress on; one that nobody reads is dropped.
fn reporter(sender: Sender, quiet: bool) -> impl Fn(Progress) + Send + Sync + 'static {
    move |progress| {
        if quiet {
            return;
        }
        let detail = models::ProgressDetail {
            current: i64::try_from(progress.current).unwrap_or(i64::MAX),
            total: i64::try_from(progress.total).unwrap_or(i64::MAX),
            ..models::ProgressDetail::default()
        };
        let line = message(&models::ProgressMessage {
            status: "Loading layer".into(),
            id: progress.layer.as_ref().map(naru_types::Digest::short).unwrap_or_default(),
            progress_detail: Some(detail),
            ..models::ProgressMessage::default()
        });
        // Progress is news, not data: a full channel loses it.
        sender.try_send(Ok(line)).ok();
    }
}

/// `POST /images/load`.
pub fn load(call: Call) -> Result<Response> {
    let options = LoadOptions { platforms: platforms(&call)? };
    let quiet = call.query.boolean("quiet");
    let app = Arc::clone(&call.app);
    let (_, body) = call.into_body();
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        let lines = match app.engine.load_images(BodyReader::new(body), options, reporter(sender.clone(), quiet)).await {
            Err(error) => vec![failure(naru_engine::chain(&error))],
            Ok(loaded) => loaded
                .iter()
                .map(|item| {
                    let text = match item {
                        Loaded::Reference(name) => format!("Loaded image: {}\n", name.familiar()),
                        Loaded::Id(id) => format!("Loaded image ID: {id}\n"),
                        Loaded::Replaced { name, old } => {
                            let name = name.familiar();
                            format!("The image {name} already exists, renaming the old one with ID {old} to empty string\n")
                        }
                    };
                    message(&models::ProgressMessage { stream: text, ..models::ProgressMessage::default() })
                })
                .collect(),
        };
        for line in lines {
            sender.send(Ok(line)).await.ok();
        }
        tokio::task::spawn_blocking(naru_sys::memory::trim);
    });
    Ok(response)
}

/// `POST /images/create`: a pull, or an import from the body.
pub async fn create(call: Call) -> Result<Response> {
    let query = call.query.clone();
    let source = query.get("fromSrc").unwrap_or_default().to_owned();
    if source.is_empty() {
        if query.get("fromImage").is_none_or(str::is_empty) {
            return Err(ApiError::invalid("neither fromImage nor fromSrc is given"));
        }
        return registry::pull(call).await;
    }
    let options = import_options(&query)?;
    let app = Arc::clone(&call.app);
    let (_, body) = call.into_body();
    let (sender, response) = body::stream("application/json");
    tokio::spawn(async move {
        let line = |status: String| message(&models::ProgressMessage { status, ..models::ProgressMessage::default() });
        let imported = if source == "-" {
            app.engine.import_image(BodyReader::new(body), options).await
        } else {
            sender.send(Ok(line(format!("Downloading from {source}")))).await.ok();
            match app.engine.download(&with_scheme(&source)).await {
                Ok(archive) => app.engine.import_image(archive, options).await,
                Err(error) => Err(error),
            }
        };
        let last = imported.map_or_else(|error| failure(naru_engine::chain(&error)), |id| line(id.to_string()));
        sender.send(Ok(last)).await.ok();
    });
    Ok(response)
}

/// An address without a scheme is one of HTTP.
fn with_scheme(source: &str) -> String {
    if source.contains("://") { source.to_owned() } else { format!("http://{source}") }
}

fn import_options(query: &Query) -> Result<ImportOptions> {
    let repo = query.get("repo").unwrap_or_default();
    let changes: Vec<&str> = query.all("changes").collect();
    let changes = ConfigPatch::parse(&changes).map_err(|error| ApiError::invalid(error.to_string()))?;
    // What only shows when they are applied is told before the answer has begun.
    changes.apply(&mut naru_store::RunConfig::default()).map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(ImportOptions {
        reference: if repo.is_empty() { None } else { Some(reference(repo, query.get("tag").unwrap_or_default())?) },
        changes,
        message: query.get("message").filter(|text| !text.is_empty()).unwrap_or("Imported from -").to_owned(),
        platform: match query.get("platform").unwrap_or_default() {
            "" => None,
            text => match text.parse::<naru_types::Platform>()? {
                // What could not be loaded cannot be imported.
                other if other.os != "linux" => return Err(ApiError::invalid("operating system is not supported")),
                platform => Some(platform),
            },
        },
    })
}

/// The platform of an image that is here, in JSON; what is fetched or made is named as `linux/amd64`.
pub fn platform(text: &str) -> Result<naru_types::Platform> {
    let wire: models::OciPlatform = naru_api::json::from_slice(text.as_bytes()).map_err(|error| {
        let text = error.to_string();
        ApiError::invalid(format!("failed to parse platform: {}", text.strip_prefix("invalid JSON: ").unwrap_or(&text)))
    })?;
    if wire.os.is_empty() || wire.architecture.is_empty() {
        return Err(ApiError::invalid("both OS and Architecture must be provided"));
    }
    Ok(naru_types::Platform {
        os: wire.os,
        architecture: wire.architecture,
        variant: Some(wire.variant).filter(|variant| !variant.is_empty()),
    })
}

/// `GET /images/{name}/get`.
pub async fn save(call: &Call, name: &str) -> Result<Response> {
    write_archive(call, vec![name.to_owned()]).await
}

/// `GET /images/get?names=…`.
pub async fn save_many(call: &Call) -> Result<Response> {
    let names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("no images are named"));
    }
    write_archive(call, names).await
}

/// A repository without a tag means all its tags, as in Docker; an id and everything else means itself.
fn every_tag(call: &Call, name: String) -> Vec<String> {
    let Ok(wanted) = ImageRef::parse(&name) else { return vec![name] };
    if !ImageRef::is_bare(&name) {
        return vec![name];
    }
    let images = call.app.engine.images();
    let tags = images.iter().flat_map(|image| &image.tags).filter(|tag| tag.familiar_name() == wanted.familiar_name());
    let mut names: Vec<String> = tags.map(ImageRef::familiar).collect();
    names.sort();
    if names.is_empty() { vec![name] } else { names }
}

async fn write_archive(call: &Call, names: Vec<String>) -> Result<Response> {
    let options = SaveOptions { platforms: platforms(call)? };
    let names: Vec<String> = names.into_iter().flat_map(|name| every_tag(call, name)).collect();
    for name in &names {
        call.app.engine.image(name).map_err(|error| match &error {
            // Of all commands this one names what is not there as it was asked for, without `:latest`.
            naru_engine::EngineError::Store(naru_store::Error::NoSuchImage { query }) => {
                ApiError::new(ErrorKind::NotFound, format!("No such image: {query}"))
            }
            _ => error.into(),
        })?;
        for platform in &options.platforms {
            for_platform(&call.app, name, platform).map_err(|error| match error.kind {
                ErrorKind::NotFound => {
                    ApiError::new(ErrorKind::NotFound, format!("no suitable export target found for platform {platform}"))
                }
                _ => error,
            })?;
        }
    }
    let app = Arc::clone(&call.app);
    let (sender, response) = body::stream("application/x-tar");
    let failure = sender.clone();
    tokio::spawn(async move {
        if let Err(error) = app.engine.save_images(names, options, BodyWriter::new(sender)).await {
            failure.send(Err(std::io::Error::other(naru_engine::chain(&error)))).await.ok();
        }
    });
    Ok(response)
}

/// `POST /commit`.
pub async fn commit(call: Call) -> Result<Response> {
    let (query, app) = (call.query.clone(), Arc::clone(&call.app));
    let (headers, body) = call.into_body();
    let overrides: models::ContainerConfig = body::read_json(&headers, body).await?;
    let container = query.get("container").unwrap_or_default().to_owned();
    let view = app.engine.find(&container)?.view();
    let repo = query.get("repo").unwrap_or_default();
    let reference = if repo.is_empty() { None } else { Some(reference(repo, query.get("tag").unwrap_or_default())?) };
    let mut config = convert::commit::config(&view, &overrides)?;
    let changes: Vec<&str> = query.all("changes").flat_map(str::lines).collect();
    let patch = ConfigPatch::parse(&changes).map_err(|error| ApiError::invalid(error.to_string()))?;
    patch.apply(&mut config.config).map_err(|error| ApiError::invalid(error.to_string()))?;
    let options = CommitOptions {
        author: query.get("author").unwrap_or_default().to_owned(),
        comment: query.get("comment").unwrap_or_default().to_owned(),
        reference,
        created_by: view.spec.process.args.join(" "),
    };
    let id = app.engine.commit(&container, query.boolean_or("pause", true), config, options).await?;
    Ok(body::json(StatusCode::CREATED, &models::IdResponse { id: id.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("busy*", "busybox:1", true),
            ("busy*", "busybox", true),
            ("*/a", "x/a", true),
            ("*", "x/a", false),
            ("b.x", "bax", false),
            ("b?x", "bax", true),
        ] {
            assert_eq!(glob(pattern).unwrap().is_match(text), fits, "{pattern} {text}");
        }
    }
}
