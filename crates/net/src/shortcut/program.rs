//! The program: which packets take the shortcut.
//!
//! Only those that nobody looks at on the usual way. Nothing that the host can set to decide about a bridged packet, or to see
//! it, may be set: no hook of the `bridge` family (nftables, ebtables, br_netfilter, which shows such packets to iptables), none
//! of `netdev` at the ends of both, no capture on the bridge or at the receiver's end, and the bridge up and not listening to
//! all. The receiver's end has neither filters of tc nor a queue, its container no XDP before all else. Both ends are on the
//! bridge as ports that it forwards between. The kernel's own structures say so, as they are at this packet. The receiver's link
//! is looked for as the kernel does it, in its hash table of links.
//!
//! br_netfilter has one hook at each place also while it is switched off. The element of a receiver says whether that is so;
//! then one hook is none.

use super::btf::{FUNCTION, STRUCT, Types};
use naru_sys::bpf::Instruction;
use std::os::fd::RawFd;

/// Bytes of a key of the table: hardware address, two of nothing, index of the bridge.
pub(super) const KEY: usize = 12;
/// Beside the link's index in an element: the first hook at each place does nothing.
pub(super) const ONE_HOOK_SLEEPS: u32 = 1 << 31;

/// Where the running kernel has what the program looks at: bytes from the beginning of a structure, and numbers of types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    packet_device: u32,
    device_flags: u32,
    device_index: u32,
    device_captures: u32,
    device_uppers: u32,
    /// Absent in a kernel without such hooks.
    device_hooks: Option<u32>,
    device_namespace: u32,
    /// Place and number of them; absent in a kernel without such hooks.
    bridge_hooks: Option<(u32, u32)>,
    hook_count: u32,
    /// Absent in a kernel without such hooks.
    device_leaving_hooks: Option<u32>,
    /// Absent in a kernel without such filters.
    filters: Option<Filters>,
    device_queue: u32,
    queue_enqueue: u32,
    /// Where a link of a pair has its other end.
    device_other_end: u32,
    device_native_xdp: u32,
    /// Absent where the bridge is a module that is not described.
    port: Option<Port>,
    namespace_devices: u32,
    device_node: u32,
    device: u32,
    number: u32,
    adjacent_list: u32,
    adjacent_device: u32,
    adjacent: u32,
    cast_context: u32,
    cast: u32,
}

/// Where a link has the filters for what leaves by it: eBPF's own and tc's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filters {
    /// Before Linux 6.6.
    Plain { of_device: u32 },
    /// There is an entry with either, and with `clsact` for another direction.
    Entry { of_device: u32, bundle: u32, count: u32, bundle_in_entry: u32, entry: u32, first: u32 },
}

/// Where a port of a bridge has what it is looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    of_device: u32,
    state: u32,
    flags: u32,
    bridge: u32,
    bridge_options: u32,
}

impl Places {
    /// Finds them in the kernel's description of itself.
    pub fn of(text: &[u8]) -> Option<Places> {
        let types = Types::parse(text)?;
        let at = |structure: &str, path: &[&str]| Some(types.field(structure, path)?.offset);
        let hooks = |list| {
            let field = types.field("net", &["nf", list])?;
            Some((field.offset, types.length(field)?))
        };
        Some(Places {
            packet_device: at("sk_buff", &["dev"])?,
            device_flags: at("net_device", &["flags"])?,
            device_index: at("net_device", &["ifindex"])?,
            device_captures: at("net_device", &["ptype_all", "next"])?,
            device_uppers: at("net_device", &["adj_list", "upper", "next"])?,
            device_hooks: at("net_device", &["nf_hooks_ingress"]),
            device_namespace: at("net_device", &["nd_net", "net"])?,
            bridge_hooks: hooks("hooks_bridge"),
            device_leaving_hooks: at("net_device", &["nf_hooks_egress"]),
            filters: filters(&types),
            device_queue: at("net_device", &["qdisc"])?,
            queue_enqueue: at("Qdisc", &["enqueue"])?,
            device_other_end: other_end(&types)?,
            device_native_xdp: at("net_device", &["xdp_state"])? + XDP_MODE_DRV * types.size(STRUCT, "bpf_xdp_entity")?,
            port: port(&types),
            namespace_devices: at("net", &["dev_index_head"])?,
            device_node: at("net_device", &["index_hlist"])?,
            device: types.number(STRUCT, "net_device")?,
            number: types.number(STRUCT, NUMBER)?,
            hook_count: at("nf_hook_entries", &["num_hook_entries"])?,
            adjacent_list: at("netdev_adjacent", &["list"])?,
            adjacent_device: at("netdev_adjacent", &["dev"])?,
            adjacent: types.number(STRUCT, "netdev_adjacent")?,
            cast_context: types.number(FUNCTION, "bpf_cast_to_kern_ctx")?,
            cast: types.number(FUNCTION, "bpf_rdonly_cast")?,
        })
    }
}

fn filters(types: &Types<'_>) -> Option<Filters> {
    let at = |structure: &str, name: &str| Some(types.field(structure, &[name])?.offset);
    let Some(of_device) = at("net_device", "tcx_egress") else {
        return Some(Filters::Plain { of_device: at("net_device", "miniq_egress")? });
    };
    Some(Filters::Entry {
        of_device,
        bundle: at("bpf_mprog_entry", "parent")?,
        count: at("bpf_mprog_bundle", "count")?,
        bundle_in_entry: at("tcx_entry", "bundle")?,
        entry: types.number(STRUCT, "tcx_entry")?,
        first: at("tcx_entry", "miniq")?,
    })
}

/// The driver's own part of a link lies behind what all have, at a multiple of 32. There the other end has always come first,
/// which a driver that is a module does not tell; were it something else, no number of a program would be found there, or one
/// that has packets take the usual way.
fn other_end(types: &Types<'_>) -> Option<u32> {
    const NETDEV_ALIGN: u32 = 32;
    let behind = || Some(types.size(STRUCT, "net_device")?.next_multiple_of(NETDEV_ALIGN));
    let own = types.field("net_device", &["priv"]).map(|field| field.offset).or_else(behind)?;
    Some(own + types.field("veth_priv", &["peer"]).map_or(0, |field| field.offset))
}

fn port(types: &Types<'_>) -> Option<Port> {
    let at = |structure: &str, name: &str| Some(types.field(structure, &[name])?.offset);
    Some(Port {
        of_device: at("net_device", "rx_handler_data")?,
        state: at("net_bridge_port", "state")?,
        flags: at("net_bridge_port", "flags")?,
        bridge: at("net_bridge_port", "br")?,
        bridge_options: at("net_bridge", "options")?,
    })
}

/// A structure that begins with a number of eight bytes: what is read as one is a number for the verifier, also a pointer.
const NUMBER: &str = "timespec64";
/// The mode of XDP in which a program runs before the packet is one to the kernel; one that runs later is not passed by.
const XDP_MODE_DRV: u32 = 1;
/// Lists in the table of links (NETDEV_HASHENTRIES), and how far one is followed: with thousands of links they are longer.
const LISTS: i32 = 256;
const LONGEST_LIST: u32 = 16;

const LOAD_8: u8 = 0x71;
const LOAD_16: u8 = 0x69;
const LOAD_32: u8 = 0x61;
const LOAD_64: u8 = 0x79;
const STORE_32: u8 = 0x63;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const SET_64: u8 = 0x18;
const ADD: u8 = 0x07;
const ADD_OTHER: u8 = 0x0f;
const SHIFT_LEFT: u8 = 0x67;
const JUMP: u8 = 0x05;
const AND: u8 = 0x57;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x77;
const IF_EQUAL: u8 = 0x15;
const IF_UNEQUAL: u8 = 0x55;
const IF_SAME: u8 = 0x1d;
const IF_OTHER: u8 = 0x5d;
const IF_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// In the place of a register: a call of a function of the kernel, a number that is a table's descriptor.
const KERNEL_FUNCTION: u8 = 2;
const TABLE: u8 = 1;

const LOOK_UP: i32 = 1;
const REDIRECT_PEER: i32 = 155;

/// Fields of `struct __sk_buff`.
const VLAN_PRESENT: i16 = 20;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

const ETHERNET_HEADER: i32 = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const IFF_UP: i32 = 1;
const IFF_PROMISC: i32 = 0x100;
const BR_STATE_FORWARDING: i32 = 3;
/// BR_ISOLATED and BR_PORT_LOCKED.
const KEPT_APART: i32 = 1 << 16 | 1 << 21;
const BROPT_VLAN_ENABLED: i32 = 1;
/// TC_ACT_UNSPEC: as if there were no program.
const USUAL_WAY: i32 = -1;

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const CONTEXT: u8 = 6;
/// The receiver's link, when the packet is not looked at any more.
const PEER: u8 = 6;
/// The sender's link.
const DEVICE: u8 = 7;
const BRIDGE: u8 = 8;
/// The container's own link, when the bridge is not looked at any more.
const INSIDE: u8 = 8;
/// The receiver's element of the table.
const RECEIVER: u8 = 9;
const STACK: u8 = 10;
/// Where the key lies on the stack.
const KEY_AT: i16 = -16;

/// A program in the making: jumps to the usual way are filled in when its place is known.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    open: Vec<usize>,
}

impl Assembler {
    fn put(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: destination | source << 4, offset, immediate });
    }

    fn load(&mut self, size: u8, destination: u8, source: u8, offset: i16) {
        self.put(size, destination, source, offset, 0);
    }

    /// A field of a structure of the kernel; they are smaller than 32 KiB, or the program is refused.
    fn field(&mut self, size: u8, destination: u8, source: u8, offset: u32) {
        self.load(size, destination, source, i16::try_from(offset).unwrap_or(i16::MAX));
    }

    fn usual_way_if(&mut self, jump: u8, register: u8, other: u8, immediate: i32) {
        self.open.push(self.code.len());
        self.put(jump, register, other, 0, immediate);
    }

    fn call(&mut self, source: u8, function: i32) {
        self.put(CALL, 0, source, 0, function);
    }

    /// The usual way if the list at this place of a structure has an element, or has none.
    fn usual_way_by_list(&mut self, jump: u8, structure: u8, offset: u32) {
        self.field(LOAD_64, R1, structure, offset);
        self.put(MOVE, R2, structure, 0, 0);
        self.put(ADD, R2, 0, 0, offset.cast_signed());
        self.usual_way_if(jump, R1, R2, 0);
    }

    /// Reads a number, or a pointer as one, behind a pointer of any kind.
    fn number(&mut self, places: &Places, size: u8, base: u8, offset: i32) {
        self.put(MOVE, R1, base, 0, 0);
        self.put(ADD, R1, 0, 0, offset);
        self.put(SET, R2, 0, 0, places.number.cast_signed());
        self.call(KERNEL_FUNCTION, places.cast.cast_signed());
        self.load(size, R0, R0, 0);
    }

    /// The first link above another; the usual way when there is none.
    fn upper(&mut self, places: &Places, device: u8) {
        self.usual_way_by_list(IF_SAME, device, places.device_uppers);
        self.put(ADD, R1, 0, 0, -places.adjacent_list.cast_signed());
        self.put(SET, R2, 0, 0, places.adjacent.cast_signed());
        self.call(KERNEL_FUNCTION, places.cast.cast_signed());
        self.field(LOAD_64, R0, R0, places.adjacent_device);
    }

    fn finish(mut self) -> Vec<Instruction> {
        let end = self.code.len();
        self.put(SET, R0, 0, 0, USUAL_WAY);
        self.put(EXIT, 0, 0, 0, 0);
        for jump in self.open {
            self.code[jump].offset = (end - jump - 1) as i16;
        }
        self.code
    }
}

/// The program for a kernel, with the descriptor of its table.
pub(super) fn assemble(places: &Places, table: RawFd) -> Vec<Instruction> {
    let mut a = Assembler::default();
    read_packet(&mut a);
    find_bridge(&mut a, places);
    a.put(SET_64, R1, TABLE, 0, table);
    a.put(0, 0, 0, 0, 0);
    a.put(MOVE, R2, STACK, 0, 0);
    a.put(ADD, R2, 0, 0, i32::from(KEY_AT));
    a.call(0, LOOK_UP);
    a.usual_way_if(IF_EQUAL, R0, 0, 0);
    a.load(LOAD_32, RECEIVER, R0, 0);
    check_that_nobody_looks(&mut a, places);
    find_receiver(&mut a, places);
    check_receiver(&mut a, places);
    a.put(MOVE, R1, RECEIVER, 0, 0);
    a.put(AND_32, R1, 0, 0, i32::MAX);
    a.put(SET, R2, 0, 0, 0);
    a.call(0, REDIRECT_PEER);
    a.put(EXIT, 0, 0, 0, 0);
    a.finish()
}

/// Packets of IP without a VLAN; the address they go to is the key's first part.
fn read_packet(a: &mut Assembler) {
    a.put(MOVE, CONTEXT, R1, 0, 0);
    a.load(LOAD_32, R2, CONTEXT, VLAN_PRESENT);
    a.usual_way_if(IF_UNEQUAL, R2, 0, 0);
    a.load(LOAD_32, R2, CONTEXT, DATA);
    a.load(LOAD_32, R3, CONTEXT, DATA_END);
    a.put(MOVE, R4, R2, 0, 0);
    a.put(ADD, R4, 0, 0, ETHERNET_HEADER);
    a.usual_way_if(IF_GREATER, R4, R3, 0);
    a.load(LOAD_16, R1, R2, 12);
    a.put(IF_EQUAL, R1, 0, 1, i32::from(IPV4.to_be()));
    a.usual_way_if(IF_UNEQUAL, R1, 0, i32::from(IPV6.to_be()));
    a.load(LOAD_32, R1, R2, 0);
    a.put(STORE_32, STACK, R1, KEY_AT, 0);
    a.load(LOAD_16, R1, R2, 4);
    a.put(STORE_32, STACK, R1, KEY_AT + 4, 0);
}

/// The bridge comes first among the links above the sender's; its index is the key's last part.
fn find_bridge(a: &mut Assembler, places: &Places) {
    a.put(MOVE, R1, CONTEXT, 0, 0);
    a.call(KERNEL_FUNCTION, places.cast_context.cast_signed());
    a.field(LOAD_64, DEVICE, R0, places.packet_device);
    a.upper(places, DEVICE);
    a.put(MOVE, BRIDGE, R0, 0, 0);
    a.field(LOAD_32, R1, BRIDGE, places.device_index);
    a.put(STORE_32, STACK, R1, KEY_AT + 8, 0);
}

/// On its usual way nobody decides about the packet or sees it.
fn check_that_nobody_looks(a: &mut Assembler, places: &Places) {
    a.field(LOAD_32, R1, BRIDGE, places.device_flags);
    a.put(AND, R1, 0, 0, IFF_UP | IFF_PROMISC);
    a.usual_way_if(IF_UNEQUAL, R1, 0, IFF_UP);
    check_port(a, places, DEVICE);
    a.usual_way_by_list(IF_OTHER, BRIDGE, places.device_captures);
    if let Some(hooks) = places.device_hooks {
        a.field(LOAD_64, R1, DEVICE, hooks);
        a.usual_way_if(IF_UNEQUAL, R1, 0, 0);
    }
    let Some((hooks, count)) = places.bridge_hooks else { return };
    // How many hooks there may be at a place.
    a.put(MOVE, R3, RECEIVER, 0, 0);
    a.put(SHIFT_RIGHT, R3, 0, 0, 31);
    a.field(LOAD_64, R2, DEVICE, places.device_namespace);
    for number in 0..count {
        a.field(LOAD_64, R1, R2, hooks + number * 8);
        a.put(IF_EQUAL, R1, 0, 2, 0);
        a.field(LOAD_16, R1, R1, places.hook_count);
        a.usual_way_if(IF_GREATER, R1, R3, 0);
    }
}

/// The link that the element names.
fn find_receiver(a: &mut Assembler, places: &Places) {
    a.field(LOAD_64, R3, DEVICE, places.device_namespace);
    a.number(places, LOAD_64, R3, places.namespace_devices.cast_signed());
    a.put(MOVE, R3, RECEIVER, 0, 0);
    a.put(AND, R3, 0, 0, LISTS - 1);
    a.put(SHIFT_LEFT, R3, 0, 0, 3);
    a.put(ADD_OTHER, R3, R0, 0, 0);
    a.number(places, LOAD_64, R3, 0);
    let mut found = vec![];
    for _ in 0..LONGEST_LIST {
        a.usual_way_if(IF_EQUAL, R0, 0, 0);
        a.put(MOVE, R1, R0, 0, 0);
        a.put(ADD, R1, 0, 0, -places.device_node.cast_signed());
        a.put(SET, R2, 0, 0, places.device.cast_signed());
        a.call(KERNEL_FUNCTION, places.cast.cast_signed());
        a.put(MOVE, PEER, R0, 0, 0);
        a.field(LOAD_32, R1, PEER, places.device_index);
        a.put(MOVE, R2, RECEIVER, 0, 0);
        a.put(AND_32, R2, 0, 0, i32::MAX);
        found.push(a.code.len());
        a.put(IF_SAME, R1, R2, 0, 0);
        a.number(places, LOAD_64, PEER, places.device_node.cast_signed());
    }
    a.usual_way_if(JUMP, 0, 0, 0);
    let end = a.code.len();
    for jump in found {
        a.code[jump].offset = (end - jump - 1) as i16;
    }
}

/// It is another than the sender's, up, on the same bridge, and nobody decides about packets there or sees them.
fn check_receiver(a: &mut Assembler, places: &Places) {
    a.usual_way_if(IF_SAME, PEER, DEVICE, 0);
    a.field(LOAD_32, R1, PEER, places.device_flags);
    a.put(AND, R1, 0, 0, IFF_UP);
    a.usual_way_if(IF_EQUAL, R1, 0, 0);
    a.upper(places, PEER);
    a.usual_way_if(IF_OTHER, R0, BRIDGE, 0);
    check_port(a, places, PEER);
    a.usual_way_by_list(IF_OTHER, PEER, places.device_captures);
    if let Some(hooks) = places.device_leaving_hooks {
        a.field(LOAD_64, R1, PEER, hooks);
        a.usual_way_if(IF_UNEQUAL, R1, 0, 0);
    }
    check_leaving(a, places);
    a.number(places, LOAD_64, PEER, places.device_other_end.cast_signed());
    a.put(MOVE, INSIDE, R0, 0, 0);
    // By itself, or held by a link.
    for pointer in [0, 8] {
        a.number(places, LOAD_64, INSIDE, places.device_native_xdp.cast_signed() + pointer);
        a.usual_way_if(IF_UNEQUAL, R0, 0, 0);
    }
}

/// What leaves by the receiver's end for the container meets no filter and waits in no queue.
fn check_leaving(a: &mut Assembler, places: &Places) {
    a.field(LOAD_64, R1, PEER, places.device_queue);
    a.field(LOAD_64, R1, R1, places.queue_enqueue);
    a.usual_way_if(IF_UNEQUAL, R1, 0, 0);
    match places.filters {
        None => {}
        Some(Filters::Plain { of_device }) => {
            a.field(LOAD_64, R1, PEER, of_device);
            a.usual_way_if(IF_UNEQUAL, R1, 0, 0);
        }
        Some(Filters::Entry { of_device, bundle, count, bundle_in_entry, entry, first }) => {
            a.field(LOAD_64, R1, PEER, of_device);
            let absent = a.code.len();
            a.put(IF_EQUAL, R1, 0, 0, 0);
            a.field(LOAD_64, R1, R1, bundle);
            a.field(LOAD_32, R2, R1, count);
            a.usual_way_if(IF_UNEQUAL, R2, 0, 0);
            a.put(ADD, R1, 0, 0, -bundle_in_entry.cast_signed());
            a.put(SET, R2, 0, 0, entry.cast_signed());
            a.call(KERNEL_FUNCTION, places.cast.cast_signed());
            a.field(LOAD_64, R1, R0, first);
            a.usual_way_if(IF_UNEQUAL, R1, 0, 0);
            a.code[absent].offset = (a.code.len() - absent - 1) as i16;
        }
    }
}

/// The bridge forwards from and to a port of it, without regard of VLANs.
fn check_port(a: &mut Assembler, places: &Places, device: u8) {
    let Some(port) = places.port else { return };
    a.field(LOAD_64, R3, device, port.of_device);
    a.number(places, LOAD_8, R3, port.state.cast_signed());
    a.usual_way_if(IF_UNEQUAL, R0, 0, BR_STATE_FORWARDING);
    a.field(LOAD_64, R3, device, port.of_device);
    a.number(places, LOAD_64, R3, port.flags.cast_signed());
    a.put(AND, R0, 0, 0, KEPT_APART);
    a.usual_way_if(IF_UNEQUAL, R0, 0, 0);
    a.field(LOAD_64, R3, device, port.of_device);
    a.number(places, LOAD_64, R3, port.bridge.cast_signed());
    a.number(places, LOAD_64, R0, port.bridge_options.cast_signed());
    a.put(AND, R0, 0, 0, BROPT_VLAN_ENABLED);
    a.usual_way_if(IF_UNEQUAL, R0, 0, 0);
}
