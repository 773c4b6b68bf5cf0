//! The engine's state on disk: `naru.db`, SQLite in WAL mode, one writer thread.
//!
//! ```text
//! meta(key, value)                        format version
//! containers(id, created, spec, state, run)   JSON documents; `run` is what a live run needs to be taken up again
//! volumes(name, record)
//! networks(id, record)
//! ```
//! Writes are queued to one thread that commits all that wait in one transaction. `synchronous=NORMAL`: a commit
//! survives a killed daemon at once and a power cut at the next checkpoint, and costs no fsync on the start path.
//! Requests that promise an object to the user (create, rename, volume create) wait for their commit.

use crate::error::{EngineError, Result};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The format this program writes.
const FORMAT: i64 = 2;

/// A change of the database.
enum Write {
    PutContainer { id: String, created: i64, spec: String, state: String },
    PutSpec { id: String, spec: String },
    PutState { id: String, state: String, run: Option<String> },
    DeleteContainer { id: String },
    PutVolume { name: String, record: String },
    DeleteVolume { name: String },
    PutNetwork { id: String, record: String },
    DeleteNetwork { id: String },
}

impl Write {
    /// Whether it tells what has happened or frees space: such writes may use the reserve.
    fn is_due(&self) -> bool {
        !matches!(self, Write::PutContainer { .. } | Write::PutSpec { .. } | Write::PutVolume { .. } | Write::PutNetwork { .. })
    }
}

/// Space kept for the time when a container has filled the disk: what ends must still be recorded and removed then.
struct Reserve(PathBuf);

impl Reserve {
    const SIZE: u64 = 1 << 20;

    /// Takes the space, or as much as there is.
    fn fill(&self) {
        let held = std::fs::metadata(&self.0).map_or(0, |status| status.len());
        if held >= Self::SIZE {
            return;
        }
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.0);
        let take = |size: u64| match &file {
            Ok(file) => rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size).is_ok(),
            Err(_) => false,
        };
        let sizes = std::iter::successors(Some(Self::SIZE), |size| Some(size / 2)).take_while(|size| *size > held.max(4096));
        if !sizes.into_iter().any(take) {
            tracing::debug!(held, "no space for the whole reserve");
        }
    }

    /// Gives the space back; whether there was any.
    fn release(&self) -> bool {
        std::fs::remove_file(&self.0).is_ok()
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

struct Job {
    write: Write,
    done: Option<oneshot::Sender<Result<()>>>,
    /// Something else tells the same after a crash, so that it can wait for others.
    lazy: bool,
}

/// Writes in one transaction.
const MAX_JOBS: usize = 256;
/// How long a lazy write waits for company.
const LAZY: Duration = Duration::from_millis(20);

/// A container as stored.
pub struct ContainerRow {
    /// Its id.
    pub id: String,
    /// Nanoseconds since 1970.
    pub created: i64,
    /// JSON of the specification.
    pub spec: String,
    /// JSON of the state.
    pub state: String,
    /// JSON of the live run.
    pub run: Option<String>,
}

/// Handle to the writer thread.
#[derive(Clone)]
pub struct Db {
    jobs: mpsc::Sender<Job>,
}

/// What the database held when it was opened.
pub struct Loaded {
    /// All containers.
    pub containers: Vec<ContainerRow>,
    /// All volumes: name and JSON.
    pub volumes: Vec<(String, String)>,
    /// All networks: id and JSON.
    pub networks: Vec<(String, String)>,
}

impl Db {
    /// Opens or makes the database and reads it whole.
    pub fn open(path: &Path) -> Result<(Db, Loaded)> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS containers(id TEXT PRIMARY KEY, created INTEGER NOT NULL, spec TEXT NOT NULL, state TEXT NOT NULL, run TEXT);
             CREATE TABLE IF NOT EXISTS volumes(name TEXT PRIMARY KEY, record TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS networks(id TEXT PRIMARY KEY, record TEXT NOT NULL);",
        )?;
        connection.execute("INSERT OR IGNORE INTO meta VALUES('format', ?1)", [FORMAT])?;
        let found: i64 = connection.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0))?;
        if found > FORMAT {
            return Err(EngineError::NewerFormat { path: path.to_owned(), found, known: FORMAT });
        }
        if found < FORMAT {
            migrate(&connection)?;
        }
        let loaded = Loaded {
            containers: read_containers(&connection)?,
            volumes: read_pairs(&connection, "SELECT name, record FROM volumes")?,
            networks: read_pairs(&connection, "SELECT id, record FROM networks")?,
        };
        let reserve = Reserve(path.with_extension("reserve"));
        reserve.fill();
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("naru-db".into())
            .stack_size(256 << 10)
            .spawn(move || write_all(connection, &reserve, &queue))
            .map_err(EngineError::io("start the thread that writes", path))?;
        Ok((Db { jobs }, loaded))
    }

    fn queue(&self, write: Write, lazy: bool) {
        // The writer only ends with the process.
        self.jobs.send(Job { write, done: None, lazy }).ok();
    }

    async fn commit(&self, write: Write) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job { write, done: Some(done), lazy: false }).map_err(|_| EngineError::Gone("the state database"))?;
        answer.await.map_err(|_| EngineError::Gone("the state database"))?
    }

    /// Stores a new container; committed when this returns.
    pub async fn put_container(&self, id: &str, created: i64, spec: String, state: String) -> Result<()> {
        self.commit(Write::PutContainer { id: id.to_owned(), created, spec, state }).await
    }

    /// Stores a changed specification; committed when this returns.
    pub async fn put_spec(&self, id: &str, spec: String) -> Result<()> {
        self.commit(Write::PutSpec { id: id.to_owned(), spec }).await
    }

    /// Queues a changed state; a `lazy` one is also told by a live monitor.
    pub fn put_state(&self, id: &str, state: String, run: Option<String>, lazy: bool) {
        self.queue(Write::PutState { id: id.to_owned(), state, run }, lazy);
    }

    /// Forgets a container; committed when this returns.
    pub async fn delete_container(&self, id: &str) -> Result<()> {
        self.commit(Write::DeleteContainer { id: id.to_owned() }).await
    }

    /// Queues that a container is forgotten which the next start of a daemon would forget as well.
    pub fn forget_container(&self, id: &str) {
        self.queue(Write::DeleteContainer { id: id.to_owned() }, true);
    }

    /// Stores a volume; committed when this returns.
    pub async fn put_volume(&self, name: &str, record: String) -> Result<()> {
        self.commit(Write::PutVolume { name: name.to_owned(), record }).await
    }

    /// Stores a network; committed when this returns.
    pub async fn put_network(&self, id: &str, record: String) -> Result<()> {
        self.commit(Write::PutNetwork { id: id.to_owned(), record }).await
    }

    /// Forgets a network; committed when this returns.
    pub async fn delete_network(&self, id: &str) -> Result<()> {
        self.commit(Write::DeleteNetwork { id: id.to_owned() }).await
    }

    /// Forgets a volume; committed when this returns.
    pub async fn delete_volume(&self, name: &str) -> Result<()> {
        self.commit(Write::DeleteVolume { name: name.to_owned() }).await
    }
}

/// Brings a database of format 1 to today's, in one transaction.
fn migrate(connection: &Connection) -> Result<()> {
    let rewrite = |text: &str, change: fn(&mut serde_json::Value)| match serde_json::from_str(text) {
        Ok(mut value) => {
            change(&mut value);
            value.to_string()
        }
        // What cannot be read stays as it is; the recovery names it.
        Err(_) => text.to_owned(),
    };
    let transaction = connection.unchecked_transaction()?;
    for row in read_containers(&transaction)? {
        let (spec, run) =
            (rewrite(&row.spec, crate::migrate::spec_of_1), row.run.as_deref().map(|run| rewrite(run, crate::migrate::run_of_1)));
        transaction.execute("UPDATE containers SET spec = ?2, run = ?3 WHERE id = ?1", params![row.id, spec, run])?;
    }
    transaction.execute("UPDATE meta SET value = ?1 WHERE key = 'format'", [FORMAT])?;
    transaction.commit()?;
    Ok(())
}

fn read_containers(connection: &Connection) -> Result<Vec<ContainerRow>> {
    let mut statement = connection.prepare("SELECT id, created, spec, state, run FROM containers ORDER BY created")?;
    let rows = statement.query_map([], |row| {
        Ok(ContainerRow { id: row.get(0)?, created: row.get(1)?, spec: row.get(2)?, state: row.get(3)?, run: row.get(4)? })
    })?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

fn read_pairs(connection: &Connection, query: &str) -> Result<Vec<(String, String)>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<std::result::Result<_, _>>()?)
}

/// The writer thread: everything that waits goes into one transaction.
fn write_all(mut connection: Connection, reserve: &Reserve, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        let until = Instant::now() + LAZY;
        while jobs.iter().all(|job| job.lazy) && jobs.len() < MAX_JOBS {
            match queue.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(job) => jobs.push(job),
                Err(_) => break,
            }
        }
        jobs.extend(queue.try_iter().take(MAX_JOBS - jobs.len()));
        let mut result = transact(&mut connection, &jobs);
        let full = result.as_ref().is_err_and(is_full);
        if full && jobs.iter().any(|job| job.write.is_due()) && reserve.release() {
            tracing::warn!("the disk of the data root is full; using the reserve");
            result = transact(&mut connection, &jobs);
            // The log is then written from its start again and needs no more space.
            if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())) {
                tracing::debug!(%error, "cannot write the log back");
            }
        }
        if result.is_ok() || full {
            reserve.fill();
        }
        if let Err(error) = &result {
            tracing::error!(%error, "cannot write the state database");
        }
        for job in jobs {
            if let Some(done) = job.done {
                let answer = match &result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(EngineError::Io {
                        what: "write the state database",
                        path: connection.path().unwrap_or_default().into(),
                        source: std::io::Error::other(error.to_string()),
                    }),
                };
                // The asker may have gone.
                done.send(answer).ok();
            }
        }
    }
}

fn transact(connection: &mut Connection, jobs: &[Job]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (at, job) in jobs.iter().enumerate() {
        match &job.write {
            Write::PutState { id, .. } if is_deleted(id, &jobs[at..]) => 0,
            Write::PutContainer { id, created, spec, state } => transaction
                .prepare_cached("INSERT OR REPLACE INTO containers VALUES(?1, ?2, ?3, ?4, NULL)")?
                .execute(params![id, created, spec, state])?,
            Write::PutSpec { id, spec } => {
                transaction.prepare_cached("UPDATE containers SET spec = ?2 WHERE id = ?1")?.execute(params![id, spec])?
            }
            Write::PutState { id, state, run } => {
                transaction.prepare_cached("UPDATE containers SET state = ?2, run = ?3 WHERE id = ?1")?.execute(params![id, state, run])?
            }
            Write::DeleteContainer { id } => transaction.prepare_cached("DELETE FROM containers WHERE id = ?1")?.execute(params![id])?,
            Write::PutVolume { name, record } => {
                transaction.prepare_cached("INSERT OR REPLACE INTO volumes VALUES(?1, ?2)")?.execute(params![name, record])?
            }
            Write::PutNetwork { id, record } => {
                transaction.prepare_cached("INSERT OR REPLACE INTO networks VALUES(?1, ?2)")?.execute(params![id, record])?
            }
            Write::DeleteNetwork { id } => transaction.prepare_cached("DELETE FROM networks WHERE id = ?1")?.execute(params![id])?,
            Write::DeleteVolume { name } => transaction.prepare_cached("DELETE FROM volumes WHERE name = ?1")?.execute(params![name])?,
        };
    }
    transaction.commit()
}

/// Whether a container's row goes in these writes: its state until then is not worth a page.
fn is_deleted(container: &str, jobs: &[Job]) -> bool {
    jobs.iter().any(|job| matches!(&job.write, Write::DeleteContainer { id } if id == container))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.db");
        let (db, loaded) = Db::open(&path).unwrap();
        assert!(loaded.containers.is_empty());
        db.put_container("a", 1, "spec".into(), "s0".into()).await.unwrap();
        db.put_container("b", 2, "spec".into(), "s0".into()).await.unwrap();
        db.put_state("a", "s0.5".into(), None, true);
        db.put_state("a", "s1".into(), Some("run".into()), false);
        db.delete_container("b").await.unwrap();
        db.put_container("c", 3, "spec".into(), "s0".into()).await.unwrap();
        db.put_state("c", "s1".into(), None, true);
        db.forget_container("c");
        db.put_volume("v", "{}".into()).await.unwrap();
        let (_, loaded) = Db::open(&path).unwrap();
        let [row] = &loaded.containers[..] else { panic!("one container") };
        assert_eq!((row.id.as_str(), row.state.as_str(), row.run.as_deref()), ("a", "s1", Some("run")));
        assert_eq!(loaded.volumes, [("v".to_owned(), "{}".to_owned())]);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("naru.db");
        drop(Db::open(&path).unwrap());
        Connection::open(&path).unwrap().execute("UPDATE meta SET value = 99", []).unwrap();
        assert!(matches!(Db::open(&path), Err(EngineError::NewerFormat { found: 99, .. })));
    }
}
