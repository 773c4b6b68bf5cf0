# What a container may do by default, where the kernel has AppArmor: Docker's rules. The kernel takes them compiled:
#
#   apparmor_parser --skip-kernel-load --skip-cache --quiet --stdout \
#     --features-file /etc/apparmor.d/abi/kernel-5.4-vanilla naru-default.profile > naru-default.bin
#
# The features are those of Linux 5.4, so that every later kernel takes it and rules the same way.

@{PROC}=/proc/

profile naru-default flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  # The host's processes stop and kill the container's, and those each other.
  signal (receive) peer=unconfined,
  signal (send,receive) peer=naru-default,
  ptrace (trace,read,tracedby,readby) peer=naru-default,

  # Nothing directly in /proc is written, nor below but for /proc/<pid> and /proc/sys/kernel/shm*.
  deny @{PROC}/* w,
  deny @{PROC}/{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}/** w,
  deny @{PROC}/sys/[^k]** w,
  deny @{PROC}/sys/kernel/{?,??,[^s][^h][^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  deny mount,

  # Of /sys only /sys/fs/cgroup, which the mount decides on.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}
