//! Docker's JSON profiles: an OCI filter with conditions on capabilities, architecture and kernel.

use crate::error::{Error, Result};
use crate::spec::{Seccomp, SeccompArg, SeccompRule};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<SeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// The machine a profile is resolved for.
struct Host<'a> {
    capabilities: &'a [String],
    /// As Go names it.
    architecture: &'static str,
    kernel: (u32, u32),
}

/// Resolves a profile for a process with these capabilities.
pub fn from_json(profile: &str, capabilities: &[String]) -> Result<Seccomp> {
    let release = rustix::system::uname();
    let host = Host {
        capabilities,
        architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        kernel: kernel(&release.release().to_string_lossy()).unwrap_or((0, 0)),
    };
    resolve(profile, &host)
}

fn resolve(profile: &str, host: &Host<'_>) -> Result<Seccomp> {
    let profile: Profile =
        serde_json::from_str(profile).map_err(|error| Error::Invalid(format!("decoding seccomp profile failed: {error}")))?;
    if profile.architectures.as_ref().is_some_and(|list| !list.is_empty()) && profile.arch_map.as_ref().is_some_and(|list| !list.is_empty())
    {
        return Err(Error::Invalid(
            "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'".into(),
        ));
    }
    let native = if host.architecture == "arm64" { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    let mut architectures = profile.architectures.unwrap_or_default();
    if let Some(map) = profile.arch_map.unwrap_or_default().into_iter().find(|map| map.architecture == native) {
        architectures.push(map.architecture);
        architectures.extend(map.sub_architectures.unwrap_or_default());
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let includes = rule.includes.unwrap_or_default();
        let excludes = rule.excludes.unwrap_or_default();
        if !included(&includes, host)? || excluded(&excludes, host)? {
            continue;
        }
        let names = match (rule.name, rule.names.unwrap_or_default()) {
            (Some(_), names) if !names.is_empty() => {
                return Err(Error::Invalid(
                    "'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'".into(),
                ));
            }
            (Some(name), _) => vec![name],
            (None, names) => names,
        };
        syscalls.push(SeccompRule { names, action: rule.action, errno_ret: rule.errno_ret, args: rule.args.unwrap_or_default() });
    }
    Ok(Seccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags.unwrap_or_default(),
        listener_path: profile.listener_path.unwrap_or_default(),
        syscalls,
    })
}

fn arch_is(name: &str, host: &Host<'_>) -> bool {
    name == host.architecture || (name == "x32" && host.architecture == "amd64") || (name == "x86" && host.architecture == "amd64")
}

/// Every condition given must hold.
fn included(filter: &Filter, host: &Host<'_>) -> Result<bool> {
    let caps = filter.caps.as_deref().unwrap_or_default();
    let arches = filter.arches.as_deref().unwrap_or_default();
    Ok((arches.is_empty() || arches.iter().any(|name| arch_is(name, host)))
        && caps.iter().all(|name| host.capabilities.contains(name))
        && filter.min_kernel.as_deref().map_or(Ok(true), |text| at_least(text, host))?)
}

/// One condition that holds is enough.
fn excluded(filter: &Filter, host: &Host<'_>) -> Result<bool> {
    let caps = filter.caps.as_deref().unwrap_or_default();
    let arches = filter.arches.as_deref().unwrap_or_default();
    Ok(arches.iter().any(|name| arch_is(name, host))
        || caps.iter().any(|name| host.capabilities.contains(name))
        || filter.min_kernel.as_deref().map_or(Ok(false), |text| at_least(text, host))?)
}

fn at_least(text: &str, host: &Host<'_>) -> Result<bool> {
    let wanted = kernel(text).ok_or_else(|| Error::Invalid(format!("invalid kernel version in the seccomp profile: {text:?}")))?;
    Ok(host.kernel >= wanted)
}

/// Major and minor of `6.18.44-foo`.
fn kernel(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_select_rules() {
        let profile = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
          "syscalls":[
            {"names":["a"],"action":"SCMP_ACT_ALLOW"},
            {"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_X"]}},
            {"names":["c"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_X"]}},
            {"names":["d"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["amd64"]}},
            {"names":["e"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
            {"names":["f"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
            {"names":["g"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.1"}},
            {"name":"h","action":"SCMP_ACT_ERRNO","errnoRet":38,"args":null}]}"#;
        let names = |capabilities: &[String]| {
            let host = Host { capabilities, architecture: "amd64", kernel: (6, 1) };
            resolve(profile, &host).unwrap().syscalls.iter().flat_map(|rule| rule.names.clone()).collect::<String>()
        };
        assert_eq!(names(&[]), "acdfh");
        assert_eq!(names(&["CAP_X".into()]), "abdfh");
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "",
            "{}",
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["b"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}]}"#,
        ] {
            assert!(from_json(bad, &[]).is_err(), "{bad}");
        }
    }
}
