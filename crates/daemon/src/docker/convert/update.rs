//! `docker update`: what is given replaces, what is zero stays.

use super::super::error::{ApiError, Result};
use super::create::Front;
use super::{host, resources};
use naru_api::models::UpdateRequest;
use naru_engine::container::View;
use naru_engine::spec::ContainerSpec;

/// The change of the specification that `request` asks for.
pub fn change(view: &View, request: &UpdateRequest) -> Result<impl FnOnce(&mut ContainerSpec) + Send + 'static> {
    let mut front: Front = serde_json::from_value(view.spec.front.clone()).unwrap_or_default();
    let host = &mut front.host;
    if request.devices.as_ref().is_some_and(|list| !list.is_empty())
        || request.device_cgroup_rules.as_ref().is_some_and(|list| !list.is_empty())
        || request.device_requests.as_ref().is_some_and(|list| !list.is_empty())
        || request.ulimits.as_ref().is_some_and(|list| !list.is_empty())
    {
        return Err(ApiError::invalid("update cannot change devices or ulimits of a container"));
    }
    macro_rules! take {
        ($($field:ident),*) => {$(
            if request.$field != UpdateRequest::default().$field {
                host.$field = request.$field.clone();
            }
        )*};
    }
    take!(
        cpu_shares,
        memory,
        nano_cpus,
        blkio_weight,
        blkio_weight_device,
        blkio_device_read_bps,
        blkio_device_write_bps,
        blkio_device_read_iops,
        blkio_device_write_iops,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        memory_reservation,
        memory_swap,
        memory_swappiness,
        oom_kill_disable,
        pids_limit
    );
    // A new share of CPUs replaces an old one given in the other form.
    if request.nano_cpus != 0 {
        (host.cpu_period, host.cpu_quota) = (request.cpu_period, request.cpu_quota);
    } else if request.cpu_period != 0 || request.cpu_quota != 0 {
        host.nano_cpus = 0;
    }
    if request.memory > 0 && request.memory_swap == 0 && host.memory_swap > 0 && request.memory > host.memory_swap {
        return Err(ApiError::new(
            naru_types::ErrorKind::Conflict,
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    let mut limits = resources::resources(host)?;
    if limits.pids.is_none() {
        limits.pids = Some(naru_runtime::spec::Pids { limit: Some(resources::default_pids_limit()) });
    }
    let restart = if request.restart_policy.name.is_empty() {
        None
    } else {
        if view.spec.auto_remove && request.restart_policy.name != "no" {
            return Err(ApiError::new(
                naru_types::ErrorKind::Conflict,
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy = request.restart_policy.clone();
        Some(host::restart_policy(&request.restart_policy, false)?)
    };
    let front = serde_json::to_value(front).map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(move |spec: &mut ContainerSpec| {
        spec.resources = limits;
        spec.front = front;
        if let Some(policy) = restart {
            spec.restart = policy;
        }
    })
}
