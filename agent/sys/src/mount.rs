//! Mounts as file descriptors: fsopen, fsmount, move_mount, mount_setattr.
