//! `system dial-stdio`: the engine's socket on stdin and stdout, for clients that come by ssh.

use std::io::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cli::context::Cx;
use crate::cli::error::{Failure, Result};
use crate::cli::verb::{Arguments, Names, Verb, verb};

pub const VERB: Verb = verb!(Names, run, ["system dial-stdio"], "", "Proxy the stdio stream to the daemon connection", Arguments::None, "");

async fn run(cx: Cx, _: Names) -> Result<i32> {
    let connection = cx
        .client()?
        .endpoint()
        .connect()
        .await
        .map_err(|error| Failure::message(format!("failed to open the raw stream connection: {error}")))?;
    let (mut from, mut to) = tokio::io::split(connection);
    let mut input = crate::stream::pump::read_stdin();
    tokio::task::spawn_local(async move {
        while let Some(chunk) = input.recv().await {
            if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
        std::future::pending::<()>().await;
    });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(0);
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&buffer[..length]).and_then(|()| out.flush()).map_err(Failure::from_stdout)?;
    }
}
