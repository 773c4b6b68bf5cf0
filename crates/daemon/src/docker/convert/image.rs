//! Images and files: wire shapes of what the store knows.

use super::super::error::{ApiError, Result};
use super::time;
use crate::App;
use naru_api::models;
use naru_store::archive::PathStat;
use naru_store::{Change, ChangeKind, Directories, Driver, Image, Target, Variant, VariantKind};
use naru_types::{ErrorKind, Platform};

/// What tools that look at the files on the host ask for, with dockerd's names.
pub fn graph_driver(driver: Driver, directories: Option<Directories>) -> models::GraphDriver {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let data = directories.map(|directories| {
        let mut data = models::StringMap::from([("UpperDir".to_owned(), text(&directories.upper))]);
        if !directories.lower.is_empty() {
            let lower: Vec<String> = directories.lower.iter().map(|path| text(path)).collect();
            data.insert("LowerDir".into(), lower.join(":"));
        }
        if let Some(work) = &directories.work {
            data.insert("WorkDir".into(), text(work));
        }
        data
    });
    models::GraphDriver { data, name: driver.name().to_owned() }
}

/// The image a container is to be made of.
pub async fn find_for_create(app: &App, name: &str, platform: &str) -> Result<Image> {
    if name.is_empty() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container: no image"));
    }
    let image = app.engine.image(name)?;
    let of_image = Platform {
        os: image.config.os.clone(),
        architecture: image.config.architecture.clone(),
        variant: Some(image.config.variant.clone()).filter(|variant| !variant.is_empty()),
    };
    if !platform.is_empty() {
        let wanted: Platform = platform.parse()?;
        if wanted.os != of_image.os || wanted.architecture != of_image.architecture {
            return Err(ApiError::new(
                ErrorKind::NotFound,
                format!(
                    "image with reference {name} was found but its platform ({of_image}) does not match the specified platform ({wanted})"
                ),
            ));
        }
    } else if !of_image.os.is_empty() && !of_image.architecture.is_empty() && !Platform::host().runs(&of_image) {
        return Err(ApiError::invalid(format!(
            "image {name} is for {of_image}, which this host ({}) cannot run; get it for another platform",
            Platform::host()
        )));
    }
    Ok(image)
}

/// A changed path.
pub fn change(change: Change) -> models::FilesystemChange {
    let kind = match change.kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    models::FilesystemChange { path: String::from_utf8_lossy(&change.path).into_owned(), kind }
}

/// The stat of `docker cp`, with Go's mode bits.
pub fn path_stat(stat: &PathStat) -> models::PathStat {
    models::PathStat {
        name: stat.name.clone(),
        size: stat.size,
        mode: stat.go_mode(),
        mtime: time::rfc3339(stat.modified),
        link_target: stat.link_target.clone(),
    }
}

/// Names without a digest, as lists show them.
pub fn repo_tags(image: &Image) -> Vec<String> {
    image.tags.iter().map(naru_types::ImageRef::familiar).collect()
}

/// Names with a digest.
pub fn repo_digests(image: &Image) -> Vec<String> {
    image.digests.iter().map(naru_types::ImageRef::familiar).collect()
}

/// Seconds since 1970 of the image's creation.
pub fn created(image: &Image) -> i64 {
    image.created.map_or(0, jiff::Timestamp::as_second)
}

/// A descriptor.
pub fn descriptor(target: &Target) -> models::OciDescriptor {
    models::OciDescriptor {
        media_type: target.media_type.clone(),
        digest: target.digest.to_string(),
        size: i64::try_from(target.size).unwrap_or(i64::MAX),
        ..models::OciDescriptor::default()
    }
}

/// The variants of an image (moby `api/types/image/manifest.go`).
pub fn manifests(app: &App, image: &Image) -> Result<Vec<serde_json::Value>> {
    let variants = app.engine.store().variants_of(image)?;
    Ok(variants.iter().map(|variant| manifest(app, variant)).collect())
}

fn manifest(app: &App, variant: &Variant) -> serde_json::Value {
    let mut value = serde_json::json!({
        "ID": variant.target.digest.to_string(),
        "Descriptor": descriptor(&variant.target),
        "Available": variant.image.is_some(),
        "Size": { "Content": variant.content_size, "Total": variant.stored_size + variant.unpacked_size },
    });
    match &variant.kind {
        VariantKind::Image { platform } => {
            let users = variant.image.as_ref().map(|id| app.engine.image_users(id)).unwrap_or_default();
            let platform = platform.as_ref().map(|platform| models::OciPlatform {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
                variant: platform.variant.clone().unwrap_or_default(),
                ..models::OciPlatform::default()
            });
            value["Kind"] = "image".into();
            value["ImageData"] = serde_json::json!({
                "Platform": platform.unwrap_or_default(),
                "Containers": users.iter().map(|user| user.id.to_string()).collect::<Vec<_>>(),
                "Size": { "Unpacked": variant.unpacked_size },
            });
        }
        VariantKind::Attestation { of } => {
            value["Kind"] = "attestation".into();
            value["AttestationData"] = serde_json::json!({ "For": of.as_ref().map(ToString::to_string).unwrap_or_default() });
        }
    }
    value
}

/// The variant of an image for a platform.
pub fn for_platform(app: &App, name: &str, wanted: &Platform) -> Result<Image> {
    let image = app.engine.image(name)?;
    let fits = |found: &Platform| {
        found.os == wanted.os && found.architecture == wanted.architecture && (wanted.variant.is_none() || wanted.variant == found.variant)
    };
    if fits(&image.config.platform()) {
        return Ok(image);
    }
    let variants = app.engine.store().variants_of(&image)?;
    let found = variants.iter().find_map(|variant| match &variant.kind {
        VariantKind::Image { platform: Some(platform) } if fits(platform) => variant.image.as_ref(),
        _ => None,
    });
    match found {
        Some(id) => Ok(app.engine.image(&id.to_string())?),
        None => Err(ApiError::new(
            ErrorKind::NotFound,
            format!(
                "image with reference {name} was found but its platform ({}) does not match the specified platform ({wanted})",
                image.config.platform()
            ),
        )),
    }
}

/// A row of the list.
pub fn summary(image: &Image, containers: i64) -> models::ImageSummary {
    models::ImageSummary {
        containers,
        created: created(image),
        id: image.id.to_string(),
        labels: Some(image.config.config.labels.clone()).filter(|labels| !labels.is_empty()),
        parent_id: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        repo_digests: Some(repo_digests(image)),
        repo_tags: Some(repo_tags(image)),
        shared_size: -1,
        size: i64::try_from(image.size).unwrap_or(i64::MAX),
        ..models::ImageSummary::default()
    }
}
