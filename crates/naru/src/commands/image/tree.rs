//! `images --tree`: each image with its platforms below it.

use naru_api::models::ImageSummary;
use serde_json::Value;

use crate::output::units::human_size_precision;

/// One line: name or branch and platform, id, disk usage, size of the content as it travels, marks.
#[derive(Default)]
struct Line {
    image: String,
    id: String,
    usage: String,
    content: String,
    extra: String,
}

const HEADER: [&str; 5] = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];

/// The whole tree as text; `U` marks what containers use. As Docker's: the names of an image stand above each other, the
/// last one beside what is told of it, and images with platforms are set apart.
pub fn render(images: &[ImageSummary]) -> String {
    let mut lines = Vec::new();
    let spaced = images.iter().any(|image| platforms_of(image).next().is_some());
    for image in images {
        let manifests: Vec<&Value> = platforms_of(image).collect();
        let content = manifests.iter().map(|manifest| size(manifest, "Content")).sum::<f64>();
        let used = image.containers > 0 || manifests.iter().any(|manifest| is_used(manifest));
        let mut names: Vec<String> = image.repo_tags.iter().flatten().cloned().collect();
        let last = names.pop().unwrap_or_else(|| "<untagged>".to_owned());
        if spaced && !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.extend(names.into_iter().map(|image| Line { image, ..Line::default() }));
        lines.push(line(last, &image.id, image.size as f64, content, used));
        for (at, manifest) in manifests.iter().enumerate() {
            let branch = if at + 1 == manifests.len() { "└─" } else { "├─" };
            let id = manifest["ID"].as_str().unwrap_or_default();
            let name = format!("{branch} {}", platform(manifest));
            lines.push(line(name, id, size(manifest, "Total"), size(manifest, "Content"), is_used(manifest)));
        }
    }
    table(&lines)
}

fn platforms_of(image: &ImageSummary) -> impl Iterator<Item = &Value> {
    image.manifests.iter().flatten().filter(|manifest| manifest["Kind"] == "image")
}

fn size(manifest: &Value, key: &str) -> f64 {
    manifest["Size"][key].as_f64().unwrap_or_default()
}

fn is_used(manifest: &Value) -> bool {
    manifest["ImageData"]["Containers"].as_array().is_some_and(|users| !users.is_empty())
}

fn platform(manifest: &Value) -> String {
    let platform = &manifest["ImageData"]["Platform"];
    let part = |key: &str| platform[key].as_str().unwrap_or_default().to_owned();
    let text =
        [part("os"), part("architecture"), part("variant")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
    if text.is_empty() { "unknown".to_owned() } else { text }
}

fn line(image: String, id: &str, usage: f64, content: f64, used: bool) -> Line {
    let id = id.trim_start_matches("sha256:");
    Line {
        image,
        id: id.get(..12).unwrap_or(id).to_owned(),
        usage: human_size_precision(usage, 3),
        content: human_size_precision(content, 3),
        extra: if used { "U".to_owned() } else { String::new() },
    }
}

fn table(lines: &[Line]) -> String {
    let width = |get: &dyn Fn(&Line) -> &str, header: &str| {
        lines.iter().map(|line| get(line).chars().count()).chain([header.len()]).max().unwrap_or_default()
    };
    let (first, second, third, fourth) = (
        width(&|line| &line.image, HEADER[0]),
        width(&|line| &line.id, HEADER[1]),
        width(&|line| &line.usage, HEADER[2]),
        width(&|line| &line.content, HEADER[3]),
    );
    let row = |cells: [&str; 5]| {
        let text = format!("{:<first$}   {:<second$}   {:>third$}   {:>fourth$}   {}", cells[0], cells[1], cells[2], cells[3], cells[4]);
        format!("{}\n", text.trim_end())
    };
    let mut text = row(HEADER);
    for line in lines {
        text.push_str(&row([&line.image, &line.id, &line.usage, &line.content, &line.extra]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn platforms_hang_below_their_image() {
        let manifest = |architecture: &str, total: u64, users: &[&str]| {
            json!({
                "ID": format!("sha256:{}", architecture.repeat(20)), "Kind": "image", "Size": { "Content": total / 2, "Total": total },
                "ImageData": { "Platform": { "os": "linux", "architecture": architecture }, "Containers": users },
            })
        };
        let image = ImageSummary {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: Some(vec!["app:0".into(), "app:1".into()]),
            size: 2_000_000,
            manifests: Some(vec![manifest("amd64", 2_000_000, &["c"]), manifest("arm64", 0, &[]), json!({ "Kind": "attestation" })]),
            ..ImageSummary::default()
        };
        let next = ImageSummary { id: image.id.clone(), size: 1_234_567, ..ImageSummary::default() };
        let told = "\
IMAGE            ID             DISK USAGE   CONTENT SIZE   EXTRA
app:0
app:1            abababababab          2MB            1MB   U
├─ linux/amd64   amd64amd64am          2MB            1MB   U
└─ linux/arm64   arm64arm64ar           0B             0B

<untagged>       abababababab       1.23MB             0B
";
        assert_eq!(render(&[image, next]), told);
    }
}
