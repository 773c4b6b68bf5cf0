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
    StateFlags,
    StartTime,
    CpuTime,
    CpuMinutes,
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
        "state" | "s" => Column::State,
        "stat" => Column::StateFlags,
        "stime" | "start" | "start_time" | "bsdstart" | "lstart" => Column::StartTime,
        "time" | "cputime" => Column::CpuTime,
        "bsdtime" => Column::CpuMinutes,
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
        Column::State => "S",
        Column::StateFlags => "STAT",
        Column::StartTime => "STIME",
        Column::CpuTime | Column::CpuMinutes => "TIME",
        Column::Command => "CMD",
        Column::Name => "COMMAND",
        Column::Nice => "NI",
        Column::Threads => "NLWP",
    }
}

/// The columns that arguments of ps ask for: `-ef`, `aux`, `-o a,b,c` and their usual spellings.
fn columns(args: &str) -> Result<Vec<(Column, String)>> {
    let (mut list, mut rest) = (Vec::new(), Vec::new());
    let mut words = args.split_whitespace();
    while let Some(word) = words.next() {
        let Some(spec) = format_of(word) else {
            rest.push(word);
            continue;
        };
        let spec = if spec.is_empty() { words.next().unwrap_or_default() } else { spec };
        for part in spec.split(',').filter(|part| !part.is_empty()) {
            let (name, heading) = part.split_once('=').map_or((part, None), |(name, heading)| (name, Some(heading)));
            let found = column(name).ok_or_else(|| EngineError::invalid(format!("top: column {name:?} is not known")))?;
            // Those that ps heads by the name they were asked for.
            let usual = match name {
                "args" | "command" => "COMMAND",
                "start_time" | "bsdstart" => "START",
                "start" | "lstart" => "STARTED",
                "tty" | "tt" => "TT",
                _ => title(found),
            };
            list.push((found, heading.unwrap_or(usual).to_owned()));
        }
    }
    let format = usual_format(&rest)?;
    if list.is_empty() {
        list = format;
    }
    if !list.iter().any(|(column, _)| *column == Column::Pid) {
        return Err(EngineError::invalid("Couldn't find PID field in ps output"));
    }
    Ok(list)
}

/// What follows a word that asks for columns: `-o`, `o`, and with letters for processes before it, `-eo`, `axo`.
fn format_of(word: &str) -> Option<&str> {
    let letters = word.strip_prefix('-').unwrap_or(word);
    let at = letters.find('o')?;
    letters[..at].bytes().all(|letter| b"aAdefx".contains(&letter)).then_some(&letters[at + 1..])
}

/// The columns of the words that say which processes and how much of them; which does not matter here.
fn usual_format(words: &[&str]) -> Result<Vec<(Column, String)>> {
    use Column as C;
    let named = |list: &[Column]| list.iter().map(|column| (*column, title(*column).to_owned())).collect::<Vec<_>>();
    let unknown =
        |word: &str| Err(EngineError::invalid(format!("top: ps arguments {word:?} are not supported; use -ef, aux or -o with columns")));
    let (mut full, mut bsd, mut users) = (words.is_empty(), false, false);
    for word in words {
        match *word {
            "ef" => full = true,
            // Not the processes of a user called x.
            "-aux" | "-axu" => (bsd, users) = (true, true),
            word => {
                let (letters, known) = word.strip_prefix('-').map_or((word, &b"auxw"[..]), |letters| (letters, b"aAdefw"));
                if letters.is_empty() || !letters.bytes().all(|letter| known.contains(&letter)) {
                    return unknown(word);
                }
                full |= letters.contains('f');
                users |= letters.contains('u');
                bsd |= letters.len() == word.len();
            }
        }
    }
    let (columns, headings): (&[Column], &[(usize, &str)]) = match (full, bsd) {
        (true, true) => return unknown(&words.join(" ")),
        (true, false) => (&[C::User, C::Pid, C::ParentPid, C::CpuShort, C::StartTime, C::Tty, C::CpuTime, C::Command], &[(0, "UID")]),
        (false, true) if users => (
            &[
                C::User,
                C::Pid,
                C::CpuPercent,
                C::MemoryPercent,
                C::VirtualSize,
                C::ResidentSize,
                C::Tty,
                C::StateFlags,
                C::StartTime,
                C::CpuMinutes,
                C::Command,
            ],
            &[(8, "START"), (10, "COMMAND")],
        ),
        (false, true) => (&[C::Pid, C::Tty, C::StateFlags, C::CpuMinutes, C::Command], &[(4, "COMMAND")]),
        (false, false) => (&[C::Pid, C::Tty, C::CpuTime, C::Name], &[(3, "CMD")]),
    };
    let mut list = named(columns);
    for (at, heading) in headings {
        list[*at].1 = (*heading).to_owned();
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
    /// Has pages that are never swapped out.
    locked: bool,
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
        let status = std::fs::read_to_string(format!("{directory}/status")).unwrap_or_default();
        let locked = status.lines().any(|line| line.strip_prefix("VmLck:").is_some_and(|size| size.trim() != "0 kB"));
        Some(Process { pid, uid, locked, stat: tail.split_whitespace().map(str::to_owned).collect(), name, command })
    }

    /// Field `number` of proc(5), counted from 1; the third is the first after the name.
    fn field(&self, number: usize) -> i64 {
        self.stat.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// The state, and in ps's order: priority, locked pages, leader of a session, threads, in the foreground of its terminal.
    fn state_flags(&self) -> String {
        let nice = self.field(19);
        let mut text = self.stat.first().cloned().unwrap_or_default();
        for (holds, flag) in [
            (nice < 0, '<'),
            (nice > 0, 'N'),
            (self.locked, 'L'),
            (self.field(6) == i64::from(self.pid), 's'),
            (self.field(20) > 1, 'l'),
            (self.field(8) == self.field(5), '+'),
        ] {
            text.extend(holds.then_some(flag));
        }
        text
    }

    fn show(&self, column: Column, host: &Host) -> String {
        let ticks = self.field(14) + self.field(15);
        let seconds = |ticks: i64| ticks as f64 / host.ticks_per_second as f64;
        let elapsed = host.uptime - seconds(self.field(22));
        let percent = if elapsed > 0.0 { seconds(ticks) * 100.0 / elapsed } else { 0.0 };
        match column {
            Column::User => host.users.get(&self.uid).cloned().unwrap_or_else(|| self.uid.to_string()),
            Column::Uid => self.uid.to_string(),
            Column::Pid => self.pid.to_string(),
            Column::ParentPid => self.field(4).to_string(),
            Column::CpuPercent => format!("{percent:.1}"),
            Column::CpuShort => format!("{:.0}", percent.floor()),
            Column::MemoryPercent => format!("{:.1}", (self.field(24) * 4) as f64 * 100.0 / host.memory_kib as f64),
            Column::VirtualSize => (self.field(23) / 1024).to_string(),
            Column::ResidentSize => (self.field(24) * 4).to_string(),
            Column::Tty => match self.field(7) {
                0 => "?".to_owned(),
                tty if (136..144).contains(&(tty >> 8)) => format!("pts/{}", (tty & 0xff) + (((tty >> 8) - 136) << 8)),
                tty => format!("tty{}", tty & 0xff),
            },
            Column::State => self.stat.first().cloned().unwrap_or_default(),
            Column::StateFlags => self.state_flags(),
            Column::StartTime => {
                let zone = jiff::tz::TimeZone::system();
                let zoned = |at: jiff::Timestamp| at.to_zoned(zone.clone());
                let start = jiff::Timestamp::from_second(host.boot + self.field(22) / host.ticks_per_second);
                start.map(|start| start_time(&zoned(start), &zoned(jiff::Timestamp::now()))).unwrap_or_default()
            }
            Column::CpuTime => {
                let seconds = ticks / host.ticks_per_second;
                let days = if seconds < 86_400 { String::new() } else { format!("{}-", seconds / 86_400) };
                format!("{days}{:02}:{:02}:{:02}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
            }
            Column::CpuMinutes => {
                let seconds = ticks / host.ticks_per_second;
                format!("{}:{:02}", seconds / 60, seconds % 60)
            }
            Column::Command => self.command.clone(),
            Column::Name => self.name.clone(),
            Column::Nice => self.field(19).to_string(),
            Column::Threads => self.field(20).to_string(),
        }
    }
}

/// The time of day, the day or the year, whichever tells.
fn start_time(start: &jiff::Zoned, now: &jiff::Zoned) -> String {
    let format = match () {
        () if start.year() != now.year() => "%Y",
        () if start.date() != now.date() => "%b%d",
        () => "%H:%M",
    };
    start.strftime(format).to_string()
}

/// What the rows need to know of the host.
struct Host {
    users: HashMap<u32, String>,
    uptime: f64,
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
        let uptime = text("/proc/uptime").split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(1.0);
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
        assert_eq!(titles("-eo pid,stat,s,time"), ["PID", "STAT", "S", "TIME"]);
        assert_eq!(titles("axo pid,start_time"), ["PID", "START"]);
        assert_eq!(titles("auxww"), titles("aux"));
        assert_eq!(titles("-e -f"), titles(""));
        assert_eq!(titles("-e"), ["PID", "TTY", "TIME", "CMD"]);
        assert_eq!(titles("ax"), ["PID", "TTY", "STAT", "TIME", "COMMAND"]);
        for bad in ["-o comm", "-o nosuch,pid", "--wat", "-ef --sort=-pid", "-l", "-", "aux -f"] {
            assert!(columns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn states_and_times_as_ps_writes_them() {
        let process = |stat: &str, locked| {
            let stat = stat.split_whitespace().map(str::to_owned).collect();
            Process { pid: 7, uid: 0, stat, name: "x".into(), command: "x".into(), locked }
        };
        // From the third field on: state, parent, group, session, terminal, its foreground group, … 14 and 15 the ticks,
        // 19 nice, 20 threads.
        let busy = process("R 1 7 7 34816 7 0 0 0 0 0 366000 100 0 0 20 5 2 0 100", true);
        assert_eq!(busy.state_flags(), "RNLsl+");
        assert_eq!(process("S 1 3 3 0 -1 0 0 0 0 0 0 0 0 0 20 -5 1 0 100", false).state_flags(), "S<");
        let host = Host { users: HashMap::new(), uptime: 10_001.0, boot: 0, memory_kib: 1, ticks_per_second: 100 };
        let show = |column| busy.show(column, &host);
        assert_eq!((show(Column::CpuMinutes), show(Column::CpuTime)), ("61:01".into(), "01:01:01".into()));
        assert_eq!((show(Column::CpuPercent), show(Column::CpuShort)), ("36.6".into(), "36".into()));
        let day = |text: &str| text.parse::<jiff::civil::DateTime>().unwrap().to_zoned(jiff::tz::TimeZone::UTC).unwrap();
        let now = day("2026-11-27T09:00:00");
        for (start, text) in [("2026-11-27T08:01:00", "08:01"), ("2026-11-26T23:00:00", "Nov26"), ("2025-12-31T23:00:00", "2025")] {
            assert_eq!(start_time(&day(start), &now), text);
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
