//! `network create`

use naru_api::models::{ConfigReference, Ipam, IpamConfig, NetworkCreateRequest, StringMap};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Verb, verb};
use crate::parse::key_values;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Allow containers to be attached by hand
    #[arg(long)]
    attachable: bool,
    /// Addresses kept for the driver's own use (name=address)
    #[arg(long, value_name = "map")]
    aux_address: Vec<String>,
    /// Network whose configuration is taken
    #[arg(long, value_name = "string")]
    config_from: Option<String>,
    /// Only keep the configuration, for others to take
    #[arg(long)]
    config_only: bool,
    /// Driver of the network (default "bridge")
    #[arg(short = 'd', long, value_name = "string")]
    driver: Option<String>,
    /// Gateway of a subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Make it the swarm's routing mesh
    #[arg(long)]
    ingress: bool,
    /// No way out of the network
    #[arg(long)]
    internal: bool,
    /// Give containers addresses of this part of a subnet
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// Driver of the address management (default "default")
    #[arg(long, value_name = "string")]
    ipam_driver: Option<String>,
    /// Options of the address management
    #[arg(long, value_name = "map")]
    ipam_opt: Vec<String>,
    /// Give IPv4 addresses (default true)
    #[arg(long, value_name = "bool")]
    ipv4: Option<bool>,
    /// Give IPv6 addresses
    #[arg(long, value_name = "bool")]
    ipv6: Option<bool>,
    /// Set labels
    #[arg(long, value_name = "list", value_parser = crate::parse::label)]
    label: Vec<String>,
    /// Options of the driver
    #[arg(short = 'o', long, value_name = "map")]
    opt: Vec<String>,
    /// Where the network exists
    #[arg(long, value_name = "string")]
    scope: Option<String>,
    /// Subnet in CIDR notation
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    subnet: Vec<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["network create"],
    "[OPTIONS] NETWORK",
    "Create a network",
    Arguments::Exactly(1),
    "{} network create front\n{} network create --subnet 10.5.0.0/24 --gateway 10.5.0.1 back"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    let config = subnets(&options).map_err(Failure::message)?;
    let map = |pairs: &[String]| Some(key_values(pairs));
    let request = NetworkCreateRequest {
        name: options.args[0].clone(),
        driver: options.driver.clone().unwrap_or_else(|| "bridge".to_owned()),
        scope: options.scope.clone().unwrap_or_default(),
        enable_ipv4: options.ipv4,
        enable_ipv6: options.ipv6,
        ipam: Some(Ipam {
            driver: options.ipam_driver.clone().unwrap_or_else(|| "default".to_owned()),
            options: map(&options.ipam_opt),
            config: Some(config),
        }),
        internal: options.internal,
        attachable: options.attachable,
        ingress: options.ingress,
        config_only: options.config_only,
        config_from: options.config_from.clone().map(|network| ConfigReference { network }),
        options: map(&options.opt),
        labels: map(&options.label),
        check_duplicate: None,
    };
    let answer = cx.client()?.network_create(&request).await?;
    if !answer.warning.is_empty() {
        crate::output::error_line(&format!("WARNING: {}", answer.warning));
    }
    crate::output::line(&answer.id)?;
    Ok(0)
}

/// A subnet as numbers: its address, its length, its family's width.
fn cidr(text: &str) -> Result<(u128, u32, u32), String> {
    let bad = || format!("invalid CIDR address: {text}");
    let (address, length) = text.split_once('/').ok_or_else(bad)?;
    let length: u32 = length.parse().map_err(|_| bad())?;
    let (bits, width) = number(address).ok_or_else(bad)?;
    if length > width { Err(bad()) } else { Ok((bits, length, width)) }
}

fn number(text: &str) -> Option<(u128, u32)> {
    match text.parse::<std::net::IpAddr>().ok()? {
        std::net::IpAddr::V4(address) => Some((u128::from(u32::from(address)), 32)),
        std::net::IpAddr::V6(address) => Some((u128::from(address), 128)),
    }
}

fn contains(subnet: &str, address: &str) -> bool {
    let (Ok((base, length, width)), Some((bits, other))) = (cidr(subnet), number(address.split('/').next().unwrap_or(address))) else {
        return false;
    };
    let shift = width - length;
    let cut = |value: u128| if shift >= 128 { 0 } else { value >> shift };
    width == other && cut(base) == cut(bits)
}

/// Each range, gateway and auxiliary address goes to the subnet that holds it.
fn subnets(options: &Options) -> Result<Vec<IpamConfig>, String> {
    if options.subnet.len() < options.ip_range.len() || options.subnet.len() < options.gateway.len() {
        return Err("every ip-range or gateway must have a corresponding subnet".to_owned());
    }
    let mut out: Vec<IpamConfig> = Vec::new();
    for subnet in &options.subnet {
        if out.iter().any(|other| contains(&other.subnet, subnet) || contains(subnet, &other.subnet)) {
            return Err("multiple overlapping subnet configuration is not supported".to_owned());
        }
        out.push(IpamConfig { subnet: subnet.clone(), ..IpamConfig::default() });
    }
    for range in &options.ip_range {
        let home =
            out.iter_mut().find(|config| contains(&config.subnet, range)).ok_or_else(|| format!("no matching subnet for range {range}"))?;
        if !home.ip_range.is_empty() {
            return Err(format!("cannot configure multiple ranges ({range}, {}) on the same subnet ({})", home.ip_range, home.subnet));
        }
        home.ip_range.clone_from(range);
    }
    for gateway in &options.gateway {
        let home = out
            .iter_mut()
            .find(|config| contains(&config.subnet, gateway))
            .ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
        if !home.gateway.is_empty() {
            return Err(format!("cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})", home.gateway, home.subnet));
        }
        home.gateway.clone_from(gateway);
    }
    for (name, address) in key_values(&options.aux_address) {
        let home = out
            .iter_mut()
            .find(|config| contains(&config.subnet, &address))
            .ok_or_else(|| format!("no matching subnet for aux-address {address}"))?;
        home.auxiliary_addresses.get_or_insert_with(StringMap::new).insert(name, address);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Vec<IpamConfig>, String> {
        use clap::{Args as _, FromArgMatches as _};
        let command = crate::cli::flags::with_manners(Options::augment_args(clap::Command::new("x").no_binary_name(true)));
        let matches = command.try_get_matches_from(line.split(' ')).expect("parses");
        subnets(&Options::from_arg_matches(&matches).expect("fits"))
    }

    #[test]
    fn everything_finds_its_subnet() {
        let configs =
            parse("--subnet 10.0.0.0/24,fd00::/64 --gateway fd00::1 --ip-range 10.0.0.128/25 --aux-address a=10.0.0.5 n").expect("fits");
        assert_eq!((configs[0].ip_range.as_str(), configs[1].gateway.as_str()), ("10.0.0.128/25", "fd00::1"));
        assert_eq!(configs[0].auxiliary_addresses.as_ref().map(StringMap::len), Some(1));
        for (line, error) in [
            ("--gateway 10.0.0.1 n", "every ip-range or gateway must have a corresponding subnet"),
            ("--subnet 10.0.0.0/24 --gateway 10.0.1.1 n", "no matching subnet for gateway 10.0.1.1"),
            ("--subnet 10.0.0.0/8 --subnet 10.1.0.0/16 n", "multiple overlapping subnet configuration is not supported"),
        ] {
            assert_eq!(parse(line).expect_err(line), error);
        }
    }
}
