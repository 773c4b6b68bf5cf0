//! Containers' networks on the host: links, firewall, addresses, ports, and the files that name things.
//!
//! - [`Links`]: bridges and veth pairs, macvlan and ipvlan by rtnetlink, in few messages; their rates.
//! - [`Firewall`]: one nf_tables table; a network or port is an element of a set. [`Watch`] hears when others change it.
//! - [`Shortcuts`]: containers of one bridge send to each other directly.
//! - [`ipam`]: which subnet, which address. [`ports`]: host ports held by sockets. [`proxy`]: what cannot be rewritten.
//! - [`dns`]: containers' names. [`hosts`], [`resolv`]: the container's files.
//!
//! No program is executed, no file of the host's configuration is changed, no other table or link is touched, but for one
//! rule in a chain that would drop what containers send, or, by D-Bus, an interface in a zone of firewalld (`passage`). All
//! calls but those of [`proxy`] and [`dns`], and what firewalld is asked for, block for the time of a few system calls. Netlink
//! is spoken by a small builder of our own: what is needed of rtnetlink and nf_tables is a dozen messages, sent in batches.

#![warn(missing_docs)]

mod address;
mod children;
mod claim;
mod conntrack;
pub mod dns;
mod error;
mod firewall;
mod holder;
pub mod hosts;
pub mod ipam;
mod links;
mod netlink;
mod nft;
mod passage;
pub mod ports;
pub mod proxy;
mod rates;
pub mod resolv;
mod rtnetlink;
mod shortcut;
mod watch;

pub use address::{IpNet, LinkName, MacAddress, Protocol};
pub use children::{ChildKind, ChildPlan, IpvlanFlag, IpvlanMode, MacvlanMode, Parent};
pub use claim::Claim;
pub use error::{Error, Result};
pub use firewall::{BridgeRules, Firewall, FirewallConfig, FirewallMode, GatewayMode, PortMap, enable_forwarding};
pub use links::{Bridge, Links, VethPlan, write_parameter};
pub use passage::{FIREWALLD_CHAIN, MARK, bus_message};
pub use rates::Rate;
pub use rtnetlink::Link;
pub use shortcut::{Filtering, Shortcuts, Way};
pub use watch::{Changed, Watch};
