//! One binary, every role: `naru` and `docker` are the command line, `naru daemon` the engine, `naru oci` the runtime's
//! own command line, and `naru-spawner` the process that forks containers. The role is chosen before anything else
//! happens, because two of them start thousands of times a day.

mod cli;
mod commands;
mod config;
mod output;
mod parse;
mod plugin;
mod stream;
mod template;

use std::ffi::OsString;

fn main() {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let name = called.as_encoded_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
    let args: Vec<OsString> = args.collect();
    let status = match name.as_slice() {
        name if name == cli::autostart::LAUNCHER.as_bytes() => cli::autostart::launch(),
        name if name == naru_runtime::spawner::ROLE.as_bytes() => naru_runtime::spawner::main(),
        b"docker" => cli::main("docker", args),
        _ => match args.first().and_then(|word| word.to_str()) {
            Some("daemon") => naru_daemon::main(args.into_iter().skip(1).collect()),
            Some("oci") => naru_runtime::oci::main(args.into_iter().skip(1).collect()),
            _ => cli::main("naru", args),
        },
    };
    std::process::exit(status);
}
