//! One engine for a name, in each network namespace.

use crate::support::Namespace;
use naru_net::Claim;

#[test]
fn a_name_has_one_engine() {
    let (host, other) = (Namespace::new(), Namespace::new());
    let first = host.run(|| Claim::take("naru-test").unwrap());
    let error = host.run(|| Claim::take("naru-test").unwrap_err()).to_string();
    assert!(error.contains(&format!("(process {})", std::process::id())) && error.contains("--bridge"), "{error}");
    host.run(|| Claim::take("naru-other").unwrap());
    other.run(|| Claim::take("naru-test").unwrap());
    drop(first);
    host.run(|| Claim::take("naru-test").unwrap());
}
