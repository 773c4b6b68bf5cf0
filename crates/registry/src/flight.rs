//! Work that several ask for at the same time is done once: all see its progress and its result. When nobody waits any
//! more, it is given up.

use crate::error::{Error, Result};
use crate::event::Replayed;
use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, Weak};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

/// Pieces of work under way, by what they are.
pub(crate) struct Flights<K, E, R>(Mutex<HashMap<K, Weak<Flight<E, R>>>>);

struct Flight<E, R> {
    news: Arc<News<E>>,
    result: watch::Receiver<Option<Result<R, Arc<Error>>>>,
    task: AbortHandle,
}

impl<E, R> Drop for Flight<E, R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was told so far, and who listens.
pub(crate) struct News<E>(Mutex<(Vec<E>, Vec<mpsc::UnboundedSender<E>>)>);

impl<E: Replayed> News<E> {
    pub fn tell(&self, event: E) {
        let mut news = self.0.lock().expect("nothing panics while it is held");
        let (told, listeners) = &mut *news;
        let same = told.iter().rposition(|known| known.subject().is_some() && known.subject() == event.subject());
        match same {
            Some(at) => told[at] = event.clone(),
            None => told.push(event.clone()),
        }
        listeners.retain(|listener| listener.send(event.clone()).is_ok());
    }

    fn listen(&self) -> mpsc::UnboundedReceiver<E> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut news = self.0.lock().expect("nothing panics while it is held");
        for event in &news.0 {
            // The receiver is right here.
            sender.send(event.clone()).ok();
        }
        news.1.push(sender);
        receiver
    }
}

impl<K: Eq + Hash + Clone, E: Replayed, R: Clone + Send + Sync + 'static> Flights<K, E, R> {
    pub fn new() -> Self {
        Flights(Mutex::new(HashMap::new()))
    }

    /// Joins the work `key`, or starts it.
    pub async fn join<F>(&self, key: &K, what: &'static str, start: impl FnOnce(Arc<News<E>>) -> F, progress: impl Fn(E)) -> Result<R>
    where
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let flight = self.find_or_start(key, start);
        let mut events = flight.news.listen();
        let mut result = flight.result.clone();
        loop {
            tokio::select! {
                biased;
                Some(event) = events.recv() => progress(event),
                ended = result.wait_for(Option::is_some) => {
                    let outcome = ended.map(|outcome| outcome.clone()).ok().flatten();
                    while let Ok(event) = events.try_recv() {
                        progress(event);
                    }
                    return outcome.ok_or(Error::Cancelled(what))?.map_err(Error::Shared);
                }
            }
        }
    }

    fn find_or_start<F>(&self, key: &K, start: impl FnOnce(Arc<News<E>>) -> F) -> Arc<Flight<E, R>>
    where
        F: Future<Output = Result<R>> + Send + 'static,
    {
        let mut flights = self.0.lock().expect("nothing panics while it is held");
        flights.retain(|_, flight| flight.strong_count() > 0);
        let running = flights.get(key).and_then(Weak::upgrade).filter(|flight| flight.result.borrow().is_none());
        if let Some(flight) = running {
            return flight;
        }
        let news = Arc::new(News(Mutex::new((Vec::new(), Vec::new()))));
        let (sender, result) = watch::channel(None);
        let work = start(news.clone());
        let task = tokio::spawn(async move {
            let outcome = work.await.map_err(Arc::new);
            sender.send_replace(Some(outcome));
        });
        let flight = Arc::new(Flight { news, result, task: task.abort_handle() });
        flights.insert(key.clone(), Arc::downgrade(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Clone, PartialEq)]
    struct Step(&'static str, u32);

    impl Replayed for Step {
        fn subject(&self) -> Option<&str> {
            Some(self.0)
        }
    }

    #[tokio::test]
    async fn work_is_done_once_and_late_comers_see_where_it_is() {
        let flights: Arc<Flights<u8, Step, u32>> = Arc::new(Flights::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let (go, gate) = watch::channel(0);
        let join = |seen: mpsc::UnboundedSender<Step>| {
            let (flights, runs, mut gate) = (flights.clone(), runs.clone(), gate.clone());
            async move {
                let start = |news: Arc<News<Step>>| async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    news.tell(Step("a", 1));
                    news.tell(Step("b", 1));
                    news.tell(Step("a", 2));
                    gate.wait_for(|open| *open == 1).await.unwrap();
                    news.tell(Step("a", 3));
                    Ok(7)
                };
                flights.join(&1, "work", start, |step| seen.send(step).unwrap()).await
            }
        };
        let (first_seen, mut first_steps) = mpsc::unbounded_channel();
        let first = tokio::spawn(join(first_seen));
        while first_steps.recv().await != Some(Step("a", 2)) {}
        let (second_seen, mut second_steps) = mpsc::unbounded_channel();
        let second = tokio::spawn(join(second_seen));
        assert_eq!(second_steps.recv().await, Some(Step("a", 2)));
        assert_eq!(second_steps.recv().await, Some(Step("b", 1)));
        go.send_replace(1);
        assert_eq!(first.await.unwrap().unwrap(), 7);
        assert_eq!(second.await.unwrap().unwrap(), 7);
        assert_eq!(second_steps.recv().await, Some(Step("a", 3)));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn work_nobody_waits_for_ends() {
        let flights: Flights<u8, Step, u32> = Flights::new();
        let (alive, mut gone) = watch::channel(());
        let start = |_| async move {
            let _alive = alive;
            std::future::pending::<()>().await;
            Ok(0)
        };
        let join = flights.join(&1, "work", start, |_| ());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), join).await.is_err());
        // The task's values are dropped: it was aborted.
        assert!(gone.changed().await.is_err());
        let failed = flights.join(&1, "work", |_| async { Err(Error::Cancelled("x")) }, |_| ()).await;
        assert!(matches!(failed, Err(Error::Shared(_))));
    }
}
