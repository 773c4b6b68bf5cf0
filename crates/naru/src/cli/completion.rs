//! Shell completion: scripts that ask us for candidates, and the candidates.

use naru_api::Query;

use super::context::Cx;
use super::error::{Failure, Result};
use super::registry::{GROUPS, verbs};

const BASH: &str = r#"_naru_complete() {
    local words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null | grep -v '^:' | cut -f1)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o bashdefault -o default -F _naru_complete @PROGRAM@
"#;

const ZSH: &str = r#"#compdef @PROGRAM@
_naru_complete() {
    local -a candidates
    candidates=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null | grep -v '^:' | sed 's/:/\\:/g; s/\t/:/')}")
    _describe 'command' candidates || _files
}
compdef _naru_complete @PROGRAM@
"#;

const FISH: &str = r#"function __naru_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete $words[2..-1] 2>/dev/null | string match -v ':*'
end
complete -c @PROGRAM@ -a '(__naru_complete)'
"#;

const POWERSHELL: &str = r#"Register-ArgumentCompleter -Native -CommandName @PROGRAM@ -ScriptBlock {
    param($word, $ast, $position)
    $words = @($ast.CommandElements | Select-Object -Skip 1 | ForEach-Object { "$_" })
    if (-not $word) { $words += '' }
    & @PROGRAM@ __complete @words 2>$null | Where-Object { $_ -notlike ':*' } | ForEach-Object {
        $name = ($_ -split "`t")[0]
        [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', $name)
    }
}
"#;

/// `completion SHELL`
pub fn script(cx: Cx, args: &[String]) -> Result<()> {
    let shell = args.iter().find(|arg| !arg.starts_with('-'));
    let text = match shell.map(String::as_str) {
        Some("bash") => BASH,
        Some("zsh") => ZSH,
        Some("fish") => FISH,
        Some("powershell") => POWERSHELL,
        None => {
            let text = format!(
                "Usage:  {0} completion COMMAND\n\nGenerate the autocompletion script for the specified shell\n\nCommands:\n  bash        Script for bash\n  fish        Script for fish\n  powershell  Script for powershell\n  zsh         Script for zsh\n",
                cx.program
            );
            return crate::output::write(text.as_bytes());
        }
        Some(other) => {
            return Err(Failure::message(format!("{0}: unknown shell {other:?}: must be bash, fish, powershell or zsh", cx.program)));
        }
    };
    crate::output::write(text.replace("@PROGRAM@", &cx.program).as_bytes())
}

/// `__complete WORD...`: candidates for the last word, one a line, with a description after a tab.
pub fn complete(cx: Cx, words: &[String]) -> Result<()> {
    let Some((partial, before)) = words.split_last() else { return Ok(()) };
    let plain: Vec<&str> = before.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let mut out: Vec<(String, String)> = Vec::new();
    let verb = [2, 1].into_iter().filter(|&length| plain.len() >= length).find_map(|length| {
        let name = plain[..length].join(" ");
        verbs().find(|verb| verb.names.contains(&name.as_str())).map(|verb| (verb, length))
    });
    match (verb, plain.as_slice()) {
        (Some((verb, _)), _) if partial.starts_with('-') => {
            for arg in super::command_of(verb).get_arguments().filter(|arg| !arg.is_hide_set()) {
                if let Some(long) = arg.get_long() {
                    out.push((format!("--{long}"), arg.get_help().map(ToString::to_string).unwrap_or_default()));
                }
            }
        }
        (Some((verb, length)), _) => {
            out.extend(objects(cx, verb.names[0], plain.len() - length).into_iter().map(|name| (name, String::new())))
        }
        (None, []) => {
            out.extend(verbs().flat_map(|verb| {
                verb.names.iter().filter(|name| !name.contains(' ')).map(|name| ((*name).to_owned(), verb.title().to_owned()))
            }));
            out.extend(GROUPS.iter().map(|group| (group.name.to_owned(), group.about.to_owned())));
            out.extend(crate::plugin::list(cx).into_iter().map(|plugin| (plugin.name, plugin.about)));
        }
        (None, [group]) => {
            let prefix = format!("{group} ");
            out.extend(verbs().flat_map(|verb| {
                verb.names
                    .iter()
                    .filter_map(|name| name.strip_prefix(prefix.as_str()))
                    .map(|name| (name.to_owned(), verb.title().to_owned()))
            }));
        }
        _ => {}
    }
    out.retain(|(name, _)| name.starts_with(partial.as_str()));
    out.sort();
    out.dedup();
    let text: String =
        out.into_iter().map(|(name, about)| if about.is_empty() { format!("{name}\n") } else { format!("{name}\t{about}\n") }).collect();
    crate::output::write(text.as_bytes())
}

/// Names of what a command takes; an engine that does not answer offers nothing.
fn objects(cx: Cx, verb: &str, given: usize) -> Vec<String> {
    let (group, name) = verb.split_once(' ').unwrap_or(("", verb));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let outcome: Result<Vec<String>> = runtime.block_on(async {
        let client = cx.client()?;
        let mut all = Query::new();
        all.push("all", "1");
        let images = async {
            let images = client.image_list(&Query::new()).await?;
            Ok(images.into_iter().flat_map(|image| image.repo_tags.unwrap_or_default()).collect())
        };
        match (group, name) {
            ("container", "run" | "create") if given > 0 => Ok(Vec::new()),
            ("container", "run" | "create") | ("image", _) => images.await,
            ("container", "exec" | "top" | "cp") if given > 0 => Ok(Vec::new()),
            ("container", _) | ("", "inspect") => {
                let containers = client.container_list(&all).await?;
                Ok(containers.into_iter().flat_map(|c| c.names).map(|name| name.trim_start_matches('/').to_owned()).collect())
            }
            ("network", "create") | ("volume", "create") => Ok(Vec::new()),
            ("network", _) => Ok(client.network_list(&Query::new()).await?.into_iter().map(|network| network.name).collect()),
            ("volume", _) => Ok(client.volume_list(&Query::new()).await?.volumes.into_iter().map(|volume| volume.name).collect()),
            _ => Ok(Vec::new()),
        }
    });
    outcome.unwrap_or_default()
}
