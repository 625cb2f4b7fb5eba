//! berth from outside: real binaries, a real kernel, a real registry. Needs root.
//!
//! `tests/fixtures/setup.sh` installs what these tests need; the harness starts the registry and makes the images by itself.
//! Every test has an agent of its own (`harness::Node`); what it leaves behind fails it.

mod harness;

mod addressing;
mod advisories;
mod apparmor;
mod attach;
mod binds;
mod boot;
#[cfg(feature = "failpoints")]
mod campaign;
mod cdi;
mod cgroup_driver;
mod changes;
mod cni;
#[cfg(feature = "failpoints")]
mod cni_faults;
mod confined;
mod cp;
mod crowd;
mod ctl;
mod cut;
mod damage;
mod database;
mod doctor;
mod escapes;
mod exec;
mod explain;
mod faults;
mod forward;
mod frames;
mod health;
mod hostile;
mod hosts;
mod images;
mod landlock;
mod layers;
mod lifecycle;
mod limits;
mod log_collectors;
mod log_drivers;
mod logs;
mod look;
mod metrics;
#[cfg(feature = "failpoints")]
mod moments;
mod names;
mod neighbours;
mod network;
#[cfg(feature = "failpoints")]
mod network_faults;
mod networks;
mod permissions;
mod port_addresses;
mod ports;
mod powercut;
mod prune;
mod registry_faults;
mod resources;
mod restart;
mod resume;
mod reuse;
mod roles;
mod run;
mod runtimes;
mod sandbox;
mod selinux;
mod smoke;
#[cfg(feature = "failpoints")]
mod soak;
mod spoof;
mod storage;
mod survive;
mod tls;
mod trace;
#[cfg(feature = "failpoints")]
mod upgrade;
mod usage;
mod userns;
mod userns_config;
mod verbs;
mod visible;
#[cfg(feature = "failpoints")]
mod volume_faults;
mod volume_options;
mod volume_quotas;
mod volume_resume;
mod volume_shares;
mod volumes;
#[cfg(feature = "failpoints")]
mod weakened;
mod world;
