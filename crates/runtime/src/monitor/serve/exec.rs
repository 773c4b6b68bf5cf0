//! Further processes in the container: an exec from its request to its program.

use super::{Backend, Monitor, Token};
use crate::error::{FailureReason, StartFailure, ignore};
use crate::exec::clone_exec;
use crate::handshake::Word;
use crate::launch::died;
use crate::monitor::process::{self as streams, Ends, MAIN, Phase, Process};
use crate::monitor::protocol::{ExecRequest, Response};
use crate::monitor::sink::{Role, Subscription};
use crate::plan::ProcessPlan;
use crate::seccomp::Program;
use naru_sys::process::{self, Ended};
use rustix::event::epoll::{self, EventFlags};
use std::os::fd::AsFd;

impl Monitor {
    pub(super) fn exec(&mut self, index: usize, request: &ExecRequest) {
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        let early = match std::mem::replace(&mut client.role, Role::Closing) {
            Role::Requests(early) => early,
            _ => Vec::new(),
        };
        match self.begin_exec(index, request) {
            Ok(process) => {
                let Some(Some(client)) = self.clients.get_mut(index) else { return };
                if !request.detach {
                    let raw = request.tty;
                    let (stdin, stdout, stderr) = (request.stdin, request.stdout, request.stderr);
                    client.role = Role::Stream(Subscription { process, stdin, stdout, stderr, raw });
                    self.early_input(index, process, early);
                } else {
                    client.role = Role::Stream(Subscription { process, stdin: false, stdout: false, stderr: false, raw: true });
                }
                if matches!(self.backend, Backend::External(_)) {
                    self.exec_started(process);
                }
            }
            Err(failure) => {
                if let Some(Some(client)) = self.clients.get_mut(index) {
                    client.respond(&failure.into());
                }
            }
        }
    }

    fn begin_exec(&mut self, client: usize, request: &ExecRequest) -> Result<usize, StartFailure> {
        if self.find(Some(&request.id)).is_ok() {
            return Err(StartFailure { reason: FailureReason::Invalid, message: format!("exec {} exists", request.id) });
        }
        let running = self.processes[MAIN].as_ref().filter(|main| matches!(main.phase, Phase::Running));
        let Some(main) = running else {
            return Err(StartFailure { reason: FailureReason::NotRunning, message: format!("container {} is not running", self.id) });
        };
        let streams = |wanted: bool| wanted && !request.detach;
        let (stdio, ends) = if request.tty {
            (None, Ends::default())
        } else {
            let (stdio, ends) = streams::pipes(streams(request.stdin), streams(request.stdout), streams(request.stderr))?;
            (Some(stdio), ends)
        };
        let (pid, pidfd, phase, terminal, ends) = match &self.backend {
            Backend::Native { cgroup, seccomp, namespaces, .. } => {
                let filter = if request.privileged { Program::default() } else { seccomp.clone() };
                let mut plan = ProcessPlan::new(&request.process, filter, request.tty)?;
                if plan.console_size.is_none() {
                    plan.console_size = request.console_size;
                }
                let (channel, pid, pidfd) = clone_exec(self.threads, plan, stdio, cgroup, main.pidfd.as_fd(), *namespaces)?;
                (pid, pidfd, Phase::Starting { channel: Some(channel), announced: false, client, detach: request.detach }, None, ends)
            }
            Backend::External(handle) => {
                let begun = handle.exec(request, stdio)?;
                let ends = match &begun.terminal {
                    Some(terminal) => streams::terminal_ends(terminal, true)?,
                    None => ends,
                };
                let phase = Phase::Starting { channel: None, announced: true, client, detach: request.detach };
                (begun.pid, begun.pidfd, phase, begun.terminal, ends)
            }
        };
        let process = Process {
            exec: Some(request.id.clone()),
            pid,
            pidfd,
            tty: request.tty,
            terminal,
            held: ends.held,
            input: ends.input,
            input_once: true,
            outputs: ends.outputs,
            phase,
        };
        let index = match self.processes.iter().skip(1).position(Option::is_none) {
            Some(free) => free + 1,
            None => {
                self.processes.push(None);
                self.processes.len() - 1
            }
        };
        if let Phase::Starting { channel: Some(channel), .. } = &process.phase {
            self.add(channel.as_fd(), Token::Channel(index), EventFlags::IN);
        }
        self.processes[index] = Some(process);
        Ok(index)
    }

    pub(super) fn channel_ready(&mut self, index: usize) {
        let Some(Some(process)) = self.processes.get_mut(index) else { return };
        let Phase::Starting { channel: Some(channel), announced, .. } = &mut process.phase else { return };
        match channel.hear() {
            Ok(Word::Exec) => *announced = true,
            Ok(Word::Terminal(terminal)) => match streams::terminal_ends(&terminal, true) {
                Ok(ends) => {
                    (process.input, process.outputs, process.held) = (ends.input, ends.outputs, ends.held);
                    process.terminal = Some(terminal);
                }
                Err(error) => self.exec_failed(index, Some(error.into())),
            },
            Ok(Word::Gone) if *announced => self.exec_started(index),
            Ok(Word::Failed(failure)) => self.exec_failed(index, Some(failure)),
            Ok(Word::Gone) => self.exec_failed(index, None),
            Ok(_) | Err(_) => self.exec_failed(index, Some(StartFailure::other("the exec's process is not understood"))),
        }
    }

    /// The pidfd of an exec that was still starting: only registered once it runs, so this cannot be.
    pub(super) fn starting_ended(&mut self, index: usize, ended: Ended) {
        self.exec_failed(index, Some(died(Ok(Some((0, ended))))));
    }

    fn exec_started(&mut self, index: usize) {
        let Some(Some(process)) = self.processes.get_mut(index) else { return };
        let Phase::Starting { channel, client, detach, .. } = std::mem::replace(&mut process.phase, Phase::Running) else { return };
        if let Some(channel) = channel {
            ignore(epoll::delete(&self.epoll, &channel));
        }
        process.write_input();
        let pid = process.pid;
        ignore(epoll::add(&self.epoll, &process.pidfd, Token::Pidfd(index).pack(), EventFlags::IN));
        if let Some(Some(client)) = self.clients.get_mut(client) {
            client.respond(&Response::ExecStarted { pid });
            if detach {
                client.role = Role::Closing;
            }
        }
    }

    fn exec_failed(&mut self, index: usize, failure: Option<StartFailure>) {
        let Some(process) = self.processes.get_mut(index).and_then(Option::take) else { return };
        let Phase::Starting { channel, client, .. } = process.phase else { return };
        if let Some(channel) = channel {
            ignore(epoll::delete(&self.epoll, &channel));
        }
        ignore(process::pidfd_signal(process.pidfd.as_fd(), libc::SIGKILL));
        let ended = process::wait_child(process.pid, true);
        if let Some(Some(client)) = self.clients.get_mut(client) {
            client.respond(&failure.unwrap_or_else(|| died(ended)).into());
            client.role = Role::Closing;
        }
    }
}
