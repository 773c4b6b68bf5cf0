//! `network connect`

use naru_api::models::NetworkConnectRequest;

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::flags::parse_int;
use crate::cli::verb::{Arguments, Verb, verb};
use crate::parse::key_values;
use crate::parse::networks::{Attachment, link};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Add an alias on the network
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    alias: Vec<String>,
    /// Options of the driver for this endpoint
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    driver_opt: Vec<String>,
    /// The highest priority is the default gateway; negative numbers are allowed
    #[arg(long, value_name = "int", value_parser = parse_int)]
    gw_priority: Option<i64>,
    /// IPv4 address (172.30.100.104)
    #[arg(long, value_name = "string")]
    ip: Option<String>,
    /// IPv6 address (2001:db8::33)
    #[arg(long, value_name = "string")]
    ip6: Option<String>,
    /// Link to another container
    #[arg(long, value_name = "list", value_parser = link)]
    link: Vec<String>,
    /// Link-local addresses
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    args: Vec<String>,
}

pub const VERB: Verb = verb!(
    Options,
    run,
    ["network connect"],
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    Arguments::Exactly(2),
    "{} network connect --alias db back postgres"
);

async fn run(cx: Cx, options: Options) -> Result<i32> {
    if options.driver_opt.iter().any(|option| option.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
        return Err(Failure::message("invalid key/value pair format in driver options"));
    }
    let attachment = Attachment {
        target: options.args[0].clone(),
        aliases: options.alias,
        driver_options: key_values(&options.driver_opt),
        links: options.link,
        ipv4: options.ip.unwrap_or_default(),
        ipv6: options.ip6.unwrap_or_default(),
        link_local: options.link_local_ip,
        mac: String::new(),
        priority: options.gw_priority.unwrap_or(0),
    };
    let mut endpoint = attachment.endpoint();
    // As docker's client sends them, and as `inspect` shows them after: empty, not absent.
    endpoint.aliases.get_or_insert_default();
    endpoint.driver_opts.get_or_insert_default();
    endpoint.ipam_config.get_or_insert_default();
    let request = NetworkConnectRequest { container: options.args[1].clone(), endpoint_config: Some(endpoint) };
    cx.client()?.network_connect(&attachment.target, &request).await?;
    Ok(0)
}
