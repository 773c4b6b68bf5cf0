//! A container is removed: by a user, or with its end.

use super::Actor;
use crate::error::Result;
use crate::launch;
use crate::phase::{Effect, Input, Phase};

impl Actor {
    pub(super) async fn remove(&mut self, force: bool, volumes: bool) -> Result<()> {
        let policy = self.view.spec.restart;
        let (state, effects) = self.view.state.apply(Input::Remove { force }, &policy, false).map_err(|denied| self.denied(denied))?;
        let before = std::mem::replace(&mut self.view.state, state);
        self.publish_view();
        self.restart_at = None;
        if effects.contains(&Effect::KillAll)
            && let Err(error) = self.kill_all(before.is_paused()).await
        {
            self.view.state = before;
            self.publish_view();
            return Err(error);
        }
        self.release().await;
        self.delete(volumes || self.view.spec.auto_remove).await
    }

    /// Deletes every trace of a container that does not run. What fails can be tried again: the container stays, ended.
    pub(super) async fn delete(&mut self, volumes: bool) -> Result<()> {
        let deleted = self.delete_all(volumes).await;
        if deleted.is_err() {
            self.view.state.phase = self.view.state.last_exit.clone().map_or(Phase::Created, Phase::Exited);
            self.save_state();
            self.publish_view();
        }
        deleted
    }

    async fn delete_all(&mut self, volumes: bool) -> Result<()> {
        if let Some(task) = self.health_task.take() {
            task.abort();
        }
        self.waiting_attach.clear();
        let (files, id) = (launch::delete(&self.engine, &self.view, volumes), self.view.id.as_str());
        if self.view.spec.auto_remove {
            files.await?;
            // Whose row is still there after a crash does not run, and goes with that.
            self.engine.db.forget_container(id);
        } else {
            // At the same time: files without a row have no owner after a crash, and a row whose files stay is put back.
            let (files, row) = tokio::join!(files, self.engine.db.delete_container(id));
            if let (Err(_), Ok(())) = (&files, &row) {
                self.store_again().await?;
            }
            files.and(row)?;
        }
        self.engine.forget(&self.view.id, &self.view.name);
        self.emit("destroy", &[]);
        self.view.removed = true;
        self.publish_view();
        launch::delete_rest(&self.engine, &self.view.id);
        for waiter in self.stop_waiters.drain(..) {
            waiter.send(Ok(())).ok();
        }
        Ok(())
    }

    async fn store_again(&self) -> Result<()> {
        let spec = serde_json::to_string(&*self.view.spec).expect("specifications are plain data");
        let state = serde_json::to_string(&self.view.state).expect("states are plain data");
        let created = i64::try_from(self.view.created.as_nanosecond()).unwrap_or(i64::MAX);
        self.engine.db.put_container(self.view.id.as_str(), created, spec, state).await
    }
}
