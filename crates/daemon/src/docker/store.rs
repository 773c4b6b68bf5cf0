//! Naru's own endpoint: is the image store as it should be?

use super::Call;
use super::body::{self, Response};
use super::error::Result;
use super::registry;
use naru_api::models;

/// `POST /store/check?deep=&repair=`: what is damaged, and what became of it. `X-Registry-Config` has the credentials with
/// which blobs are fetched again, by registry.
pub async fn check(call: &Call) -> Result<Response> {
    let credentials = registry::credentials_by_registry(call.request.headers());
    let repair = call.query.boolean("repair").then_some(credentials);
    let found = call.app.engine.check_store(call.query.boolean("deep"), repair).await?;
    let damages = found
        .into_iter()
        .map(|finding| models::StoreDamage {
            damage: finding.damage,
            repaired: finding.unrepaired.is_none(),
            reason: finding.unrepaired.unwrap_or_default(),
        })
        .collect();
    Ok(body::ok(&models::StoreCheckReport { damages }))
}
