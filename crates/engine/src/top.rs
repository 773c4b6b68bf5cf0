//! The processes of a container, as `ps` would list them; read from /proc, no program is run.

use crate::Engine;
use crate::container::View;
use crate::error::{EngineError, Result};
use naru_runtime::cgroup::Cgroup;
use std::collections::HashMap;
use std::sync::Arc;

/// Titles and rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Column titles.
    pub titles: Vec<String>,
    /// One row for each process.
    pub rows: Vec<Vec<String>>,
}

/// A column of ps(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    Uid,
    Pid,
    ParentPid,
    CpuPercent,
    CpuShort,
    MemoryPercent,
    VirtualSize,
    ResidentSize,
    Tty,
    State,
    StartTime,
    CpuTime,
    Command,
    Name,
    Nice,
    Threads,
}

fn column(name: &str) -> Option<Column> {
    Some(match name {
        "user" | "euser" | "uname" | "ruser" => Column::User,
        "uid" | "euid" => Column::Uid,
        "pid" | "tgid" => Column::Pid,
        "ppid" => Column::ParentPid,
        "pcpu" | "%cpu" => Column::CpuPercent,
        "c" => Column::CpuShort,
        "pmem" | "%mem" => Column::MemoryPercent,
        "vsz" | "vsize" => Column::VirtualSize,
        "rss" | "rssize" | "rsz" => Column::ResidentSize,
        "tty" | "tt" | "tname" => Column::Tty,
        "stat" | "state" | "s" => Column::State,
        "stime" | "start" | "start_time" | "bsdstart" | "lstart" => Column::StartTime,
        "time" | "cputime" | "bsdtime" => Column::CpuTime,
        "cmd" | "command" | "args" => Column::Command,
        "comm" | "ucmd" | "ucomm" => Column::Name,
        "ni" | "nice" => Column::Nice,
        "nlwp" | "thcount" => Column::Threads,
        _ => return None,
    })
}

fn title(column: Column) -> &'static str {
    match column {
        Column::User => "USER",
        Column::Uid => "UID",
        Column::Pid => "PID",
        Column::ParentPid => "PPID",
        Column::CpuPercent => "%CPU",
        Column::CpuShort => "C",
        Column::MemoryPercent => "%MEM",
        Column::VirtualSize => "VSZ",
        Column::ResidentSize => "RSS",
        Column::Tty => "TTY",
        Column::State => "STAT",
        Column::StartTime => "STIME",
        Column::CpuTime => "TIME",
        Column::Command => "CMD",
        Column::Name => "COMMAND",
        Column::Nice => "NI",
        Column::Threads => "NLWP",
    }
}

/// The columns that arguments of ps ask for: `-ef`, `aux`, `-o a,b,c` and their usual spellings.
fn columns(args: &str) -> Result<Vec<(Column, String)>> {
    use Column as C;
    let named = |list: &[Column]| list.iter().map(|column| (*column, title(*column).to_owned())).collect::<Vec<_>>();
    let words: Vec<&str> = args.split_whitespace().collect();
    let mut list = Vec::new();
    let mut formats = words.iter().peekable();
    while let Some(word) = formats.next() {
        let spec = match word.strip_prefix("-o").or_else(|| (*word == "o").then_some("")) {
            Some("") => formats.next().copied().unwrap_or_default(),
            Some(spec) => spec,
            None => continue,
        };
        for part in spec.split(',').filter(|part| !part.is_empty()) {
            let (name, heading) = part.split_once('=').map_or((part, None), |(name, heading)| (name, Some(heading)));
            let found = column(name).ok_or_else(|| EngineError::invalid(format!("top: column {name:?} is not known")))?;
            // The one column that ps heads by the name it was asked for.
            let usual = if matches!(name, "args" | "command") { "COMMAND" } else { title(found) };
            list.push((found, heading.unwrap_or(usual).to_owned()));
        }
    }
    if list.is_empty() {
        list = match words.first().copied().unwrap_or("-ef") {
            "aux" | "axu" | "-aux" | "u" | "au" => {
                let mut list = named(&[
                    C::User,
                    C::Pid,
                    C::CpuPercent,
                    C::MemoryPercent,
                    C::VirtualSize,
                    C::ResidentSize,
                    C::Tty,
                    C::State,
                    C::StartTime,
                    C::CpuTime,
                ]);
                list[8].1 = "START".into();
                list.push((C::Command, "COMMAND".into()));
                list
            }
            "-ef" | "-e" | "-f" | "-Af" | "ef" => {
                let mut list = named(&[C::User, C::Pid, C::ParentPid, C::CpuShort, C::StartTime, C::Tty, C::CpuTime, C::Command]);
                list[0].1 = "UID".into();
                list
            }
            "-A" | "-a" | "a" | "x" | "ax" => named(&[C::Pid, C::Tty, C::CpuTime, C::Command]),
            other => {
                return Err(EngineError::invalid(format!(
                    "top: ps arguments {other:?} are not supported; use -ef, aux or -o with columns"
                )));
            }
        };
    }
    if !list.iter().any(|(column, _)| *column == C::Pid) {
        return Err(EngineError::invalid("Couldn't find PID field in ps output"));
    }
    Ok(list)
}

/// What /proc/<pid>/stat and friends say.
struct Process {
    pid: i32,
    uid: u32,
    stat: Vec<String>,
    name: String,
    command: String,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let directory = format!("/proc/{pid}");
        let stat = std::fs::read_to_string(format!("{directory}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&directory).ok()?);
        let raw = std::fs::read(format!("{directory}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&raw).trim_end_matches('\0').replace('\0', " ");
        let command = if command.is_empty() { format!("[{name}]") } else { command };
        Some(Process { pid, uid, stat: tail.split_whitespace().map(str::to_owned).collect(), name, command })
    }

    /// Field `number` of proc(5), counted from 1; the third is the first after the name.
    fn field(&self, number: usize) -> i64 {
        self.stat.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn show(&self, column: Column, host: &Host) -> String {
        let ticks = self.field(14) + self.field(15);
        let elapsed = (host.uptime - self.field(22) / host.ticks_per_second).max(1);
        let percent = ticks as f64 * 100.0 / host.ticks_per_second as f64 / elapsed as f64;
        match column {
            Column::User => host.users.get(&self.uid).cloned().unwrap_or_else(|| self.uid.to_string()),
            Column::Uid => self.uid.to_string(),
            Column::Pid => self.pid.to_string(),
            Column::ParentPid => self.field(4).to_string(),
            Column::CpuPercent => format!("{percent:.1}"),
            Column::CpuShort => format!("{percent:.0}"),
            Column::MemoryPercent => format!("{:.1}", (self.field(24) * 4) as f64 * 100.0 / host.memory_kib as f64),
            Column::VirtualSize => (self.field(23) / 1024).to_string(),
            Column::ResidentSize => (self.field(24) * 4).to_string(),
            Column::Tty => match self.field(7) {
                0 => "?".to_owned(),
                tty if (136..144).contains(&(tty >> 8)) => format!("pts/{}", (tty & 0xff) + (((tty >> 8) - 136) << 8)),
                tty => format!("tty{}", tty & 0xff),
            },
            Column::State => self.stat.first().cloned().unwrap_or_default(),
            Column::StartTime => {
                let start = host.boot + self.field(22) / host.ticks_per_second;
                jiff::Timestamp::from_second(start)
                    .map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string())
                    .unwrap_or_default()
            }
            Column::CpuTime => {
                let seconds = ticks / host.ticks_per_second;
                format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
            }
            Column::Command => self.command.clone(),
            Column::Name => self.name.clone(),
            Column::Nice => self.field(19).to_string(),
            Column::Threads => self.field(20).to_string(),
        }
    }
}

/// What the rows need to know of the host.
struct Host {
    users: HashMap<u32, String>,
    uptime: i64,
    boot: i64,
    memory_kib: i64,
    ticks_per_second: i64,
}

impl Host {
    fn read() -> Host {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let users = text("/etc/passwd")
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?.to_owned();
                Some((fields.nth(1)?.parse().ok()?, name))
            })
            .collect();
        let uptime = text("/proc/uptime").split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
        let boot = text("/proc/stat").lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok()).unwrap_or(0);
        let memory = text("/proc/meminfo");
        let memory_kib =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok()).unwrap_or(1);
        let ticks_per_second = i64::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
        Host { users, uptime, boot, memory_kib, ticks_per_second }
    }
}

fn list(view: &View, args: &str) -> Result<Table> {
    let columns = columns(args)?;
    let run = view.run.as_ref().ok_or_else(|| EngineError::conflict(format!("container {} is not running", view.id)))?;
    let mut pids = Cgroup::new(&run.cgroup)?.pids()?;
    pids.sort_unstable();
    let host = Host::read();
    let rows = pids
        .into_iter()
        .filter_map(Process::read)
        .map(|process| columns.iter().map(|(column, _)| process.show(*column, &host)).collect())
        .collect();
    Ok(Table { titles: columns.into_iter().map(|(_, title)| title).collect(), rows })
}

impl Engine {
    /// The processes of a running container.
    pub async fn top(&self, reference: &str, args: &str) -> Result<Table> {
        let view = self.find(reference)?.view();
        if !view.state.is_running() {
            return Err(EngineError::conflict(format!("container {} is not running", view.id)));
        }
        let (view, args) = (Arc::clone(&view), args.to_owned());
        tokio::task::spawn_blocking(move || list(&view, &args)).await.map_err(|_| EngineError::Gone("the thread that lists processes"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(args: &str) -> Vec<String> {
        columns(args).unwrap().into_iter().map(|(_, title)| title).collect()
    }

    #[test]
    fn columns_of_ps() {
        assert_eq!(titles("-ef"), ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
        assert_eq!(titles("aux").last().map(String::as_str), Some("COMMAND"));
        assert_eq!(titles("-o pid,comm=NAME"), ["PID", "NAME"]);
        assert_eq!(titles("-o pid,args,cmd,command"), ["PID", "COMMAND", "CMD", "COMMAND"]);
        assert_eq!(titles("o pid -o user"), ["PID", "USER"]);
        for bad in ["-o comm", "-o nosuch,pid", "--wat"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn this_process_is_read() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = Process::read(pid).unwrap();
        let host = Host::read();
        assert_eq!(process.show(Column::Pid, &host), pid.to_string());
        assert!(process.field(24) > 0 && host.memory_kib > 1000);
    }
}
