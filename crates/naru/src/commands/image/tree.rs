//! `images --tree`: each image with its platforms below it.

use naru_api::models::ImageSummary;
use serde_json::Value;

use crate::output::units::human_size;

/// One line: name or branch and platform, id, disk usage, size of the content as it travels, marks.
struct Line {
    image: String,
    id: String,
    usage: String,
    content: String,
    extra: String,
}

const HEADER: [&str; 5] = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"];

/// The whole tree as text; `U` marks what containers use.
pub fn render(images: &[ImageSummary]) -> String {
    let mut lines = Vec::new();
    for image in images {
        let manifests: Vec<&Value> = image.manifests.iter().flatten().filter(|manifest| manifest["Kind"] == "image").collect();
        let sum = |key: &str| manifests.iter().map(|manifest| manifest["Size"][key].as_f64().unwrap_or_default()).sum::<f64>();
        let used = manifests.iter().any(|manifest| is_used(manifest));
        let mut names: Vec<String> = image.repo_tags.iter().flatten().cloned().collect();
        if names.is_empty() {
            names.push("<untagged>".to_owned());
        }
        for name in names {
            lines.push(line(name, &image.id, sum("Total"), sum("Content"), used));
        }
        for (at, manifest) in manifests.iter().enumerate() {
            let branch = if at + 1 == manifests.len() { "└─" } else { "├─" };
            let size = |key: &str| manifest["Size"][key].as_f64().unwrap_or_default();
            let id = manifest["ID"].as_str().unwrap_or_default();
            lines.push(line(format!("{branch} {}", platform(manifest)), id, size("Total"), size("Content"), is_used(manifest)));
        }
    }
    table(&lines)
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
        usage: human_size(usage),
        content: human_size(content),
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
            repo_tags: Some(vec!["app:1".into()]),
            manifests: Some(vec![manifest("amd64", 2_000_000, &["c"]), manifest("arm64", 0, &[]), json!({ "Kind": "attestation" })]),
            ..ImageSummary::default()
        };
        let text = render(&[image]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("app:1") && lines[1].contains("2MB") && lines[1].ends_with('U'), "{text}");
        assert!(lines[2].starts_with("├─ linux/amd64") && lines[2].contains("1MB"), "{text}");
        assert!(lines[3].starts_with("└─ linux/arm64") && lines[3].contains("0B"), "{text}");
    }
}
