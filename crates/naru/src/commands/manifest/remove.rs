//! `manifest rm`

use super::store::{Lists, no_such};
use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(
    Names,
    run,
    ["manifest rm"],
    "MANIFEST_LIST [MANIFEST_LIST...]",
    "Remove local lists that were not pushed, or were without --purge",
    Arguments::AtLeast(1),
    "{} manifest rm reg.example/web:2"
);

async fn run(cx: Cx, options: Names) -> Result<i32> {
    let lists = Lists::new(cx);
    let mut refused: Vec<String> = Vec::new();
    for text in &options.args {
        let list = match super::reference(text) {
            Ok(list) => list,
            Err(error) => {
                refused.push(error);
                continue;
            }
        };
        match lists.all(&list)? {
            Some(_) => lists.remove(&list)?,
            None => refused.push(no_such(&list)),
        }
    }
    if refused.is_empty() { Ok(0) } else { Err(Failure::message(refused.join("\n"))) }
}
