//! ADD, CHECK and DEL of a list of plugins for one interface of one container, and GC and STATUS of the list.

use crate::cache::{Entry, Leftover, Phase};
use crate::conflist::{Conflist, PluginConf, Version};
use crate::plugin::{Call, Verb, kill_marked};
use crate::result::{Outcome, Read, supported, valid};
use crate::{Cni, CniError};
use berth_model::ContainerId;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::PoisonError;

/// What a container asks of a network.
#[derive(Clone, Debug)]
pub struct Wish {
    pub network: String,
    /// The network's list, as text.
    pub conflist: String,
    /// eth0, eth1, …
    pub interface: String,
    /// Told to those plugins that have the capability.
    pub capabilities: Map<String, Value>,
    /// The plugins have to give these, or the ADD has failed.
    pub addresses: Vec<IpAddr>,
    pub mac: Option<String>,
}

/// What the plugins have made.
#[derive(Clone, PartialEq, Debug)]
pub struct Added {
    pub read: Read,
}

impl Cni {
    /// Runs ADD of every plugin in their order. When one fails, or does not give what was asked for, all of them get a DEL, and what they have
    /// given is taken back; what a DEL of these could not take back is known to the disk and tried again by the next ADD or the next agent.
    pub fn add(&self, id: &ContainerId, netns: BorrowedFd<'_>, wish: &Wish) -> Result<Added, CniError> {
        let collecting = self.collecting(&wish.network);
        let _collecting = collecting.read().unwrap_or_else(PoisonError::into_inner);
        let _turn = self.turn(id);
        if let Some(left) = self.entry(id, &wish.interface)? {
            self.take_back(left)?;
        }
        let mut run = [0; 8];
        berth_sys::store::random(&mut run)
            .map_err(|source| CniError::Io { act: "getting random bytes".into(), source })?;
        let mut entry = Entry {
            container: id.clone(),
            interface: wish.interface.clone(),
            run: run.iter().map(|b| format!("{b:02x}")).collect(),
            network: wish.network.clone(),
            conflist: wish.conflist.clone(),
            netns: self.hold(id, netns)?,
            capabilities: wish.capabilities.clone(),
            phase: Phase::Adding,
            result: None,
        };
        self.point("cni.add.before_record")?;
        self.write(&entry, true)?;
        let added = self.point("cni.add.after_record").and_then(|()| self.run_add(&mut entry, wish));
        if added.is_err()
            && let Err(undo) = self.take_back(entry)
        {
            tracing::warn!(container = id.short(), network = wish.network, error = %undo, "taking back what CNI plugins had given");
        }
        added
    }

    fn run_add(&self, entry: &mut Entry, wish: &Wish) -> Result<Added, CniError> {
        let list = entry.conflist()?;
        let mut outcome = None;
        for (n, plugin) in list.plugins.iter().enumerate() {
            if n > 0 {
                self.point("cni.add.between_plugins")?;
            }
            let answer = self.call_for(entry, &list, plugin, Verb::Add)?;
            let given = Outcome::parse(&answer, list.version).map_err(|why| CniError::Failed {
                plugin: plugin.kind.clone(),
                verb: Verb::Add,
                why,
            })?;
            // In the words of the list, whatever version the plugin has answered in.
            entry.result = Some(given.as_version(list.version));
            outcome = Some(given);
            self.write(entry, false)?;
        }
        self.point("cni.add.after_plugins")?;
        let read = outcome.map(|o| o.read(&entry.interface)).unwrap_or_default();
        let not_given = |what: String| CniError::NotGiven { network: wish.network.clone(), what };
        if let Some(address) = wish.addresses.iter().find(|a| !read.all.contains(a)) {
            return Err(not_given(format!("the address {address}")));
        }
        if let Some(mac) = wish.mac.as_ref().filter(|mac| !read.mac.eq_ignore_ascii_case(mac)) {
            return Err(not_given(format!("the MAC address {mac}")));
        }
        entry.phase = Phase::Added;
        self.write(entry, true)?;
        self.point("cni.add.after_result")?;
        Ok(Added { read })
    }

    /// Runs DEL of every plugin, the last one first. Nothing is known of it: fine.
    ///
    /// Every plugin has its turn, also behind one that fails; the first failure is told, and the attachment stays known.
    pub fn delete(&self, id: &ContainerId, interface: &str) -> Result<(), CniError> {
        let _turn = self.turn(id);
        match self.entry(id, interface)? {
            Some(entry) => self.take_back(entry),
            None => Ok(()),
        }
    }

    /// As `delete`, of an attachment that nobody has any more, unless there is another one in its place by now.
    pub fn sweep(&self, left: &Leftover) -> Result<(), CniError> {
        let _turn = self.turn(&left.container);
        match self.entry(&left.container, &left.interface)? {
            Some(entry) if entry.run == left.run => self.take_back(entry),
            _ => Ok(()),
        }
    }

    fn take_back(&self, mut entry: Entry) -> Result<(), CniError> {
        if entry.phase != Phase::Added {
            // An agent that was killed has left plugins at work.
            kill_marked(&self.mark(&entry));
        }
        if entry.phase != Phase::Deleting {
            self.point("cni.del.before_record")?;
            entry.phase = Phase::Deleting;
            self.write(&entry, false)?;
        }
        self.point("cni.del.after_record")?;
        let list = entry.conflist()?;
        let mut result = Ok(());
        for (n, plugin) in list.plugins.iter().rev().enumerate() {
            if n > 0 {
                self.point("cni.del.between_plugins")?;
            }
            result = result.and(self.call_for(&entry, &list, plugin, Verb::Del).map(drop));
        }
        result?;
        self.point("cni.del.after_plugins")?;
        self.forget(&entry.container, &entry.interface)?;
        self.point("cni.del.after_forget")
    }

    /// Runs CHECK of every plugin: whether what they had made is still as they left it. `None`: the list is too old for it or does not want it.
    pub fn check(&self, id: &ContainerId, interface: &str) -> Result<Option<()>, CniError> {
        let _turn = self.turn(id);
        let Some(entry) = self.entry(id, interface)?.filter(|e| e.phase == Phase::Added) else { return Ok(None) };
        let list = entry.conflist()?;
        if !list.version.has_check() || list.disable_check {
            return Ok(None);
        }
        list.plugins.iter().try_for_each(|p| self.call_for(&entry, &list, p, Verb::Check).map(drop))?;
        Ok(Some(()))
    }

    /// Tells the plugins of a list which attachments there are, so that they give back all others (1.1.0). Every plugin has its turn.
    pub fn collect(&self, conflist: &str, network: &str) -> Result<(), CniError> {
        let list = parse(conflist, network)?;
        if !list.version.has_gc() || list.disable_gc {
            return Ok(());
        }
        let collecting = self.collecting(network);
        let _alone = collecting.write().unwrap_or_else(PoisonError::into_inner);
        let stays: Vec<Value> = self
            .entries()?
            .iter()
            .filter(|e| e.network == network)
            .map(|e| valid(e.container.as_str(), &e.interface))
            .collect();
        let mut result = Ok(());
        for plugin in &list.plugins {
            let more =
                [("cni.dev/valid-attachments", stays.clone().into()), ("cni.dev/attachments", stays.clone().into())];
            result = result.and(self.call_alone(&list, plugin, Verb::Gc, more).map(drop));
        }
        result
    }

    /// Whether the plugins of a list could make an attachment now (1.1.0).
    pub fn status(&self, conflist: &str, network: &str) -> Result<(), CniError> {
        let list = parse(conflist, network)?;
        if !list.version.has_gc() {
            return Ok(());
        }
        list.plugins.iter().try_for_each(|p| self.call_alone(&list, p, Verb::Status, []).map(drop))
    }

    /// What keeps a list from working on this host, all of it: where, and why. Plugins are asked for the versions that they know.
    pub fn try_out(&self, list: &Conflist) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        for (n, plugin) in list.plugins.iter().enumerate() {
            let at = format!("plugins[{n}].type");
            match self.versions(plugin) {
                Err(e) => wrong.push((at, e.to_string())),
                Ok(known) if !known.iter().any(|v| v == list.version.text()) => {
                    let known = known.join(", ");
                    let why = format!("{} knows cniVersion {known}, and the list has {}", plugin.kind, list.version);
                    wrong.push((at, why));
                }
                Ok(_) => {}
            }
            let ipam = plugin.conf.get("ipam").and_then(|i| i.get("type")).and_then(Value::as_str).unwrap_or_default();
            if !ipam.is_empty()
                && let Err(e) = self.find(ipam)
            {
                wrong.push((format!("plugins[{n}].ipam.type"), e.to_string()));
            }
        }
        wrong
    }

    fn versions(&self, plugin: &PluginConf) -> Result<Vec<String>, CniError> {
        let config = json!({"cniVersion": Version::V100.text()}).to_string();
        let call = Call {
            verb: Verb::Version,
            kind: &plugin.kind,
            config: config.as_bytes(),
            env: Vec::new(),
            mark: "version",
        };
        let answer = self.call(&call)?;
        supported(&answer).ok_or_else(|| CniError::Failed {
            plugin: plugin.kind.clone(),
            verb: Verb::Version,
            why: "its answer does not say which versions it knows: is it a CNI plugin?".into(),
        })
    }

    /// All calls for one attachment have the same.
    fn mark(&self, entry: &Entry) -> String {
        self.entry_path(&entry.container, &entry.interface).display().to_string()
    }

    fn call_for(&self, entry: &Entry, list: &Conflist, plugin: &PluginConf, verb: Verb) -> Result<Vec<u8>, CniError> {
        let mut config = config(list, plugin);
        let told: Map<String, Value> = entry
            .capabilities
            .iter()
            .filter(|(key, _)| plugin.capabilities.contains(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            config.insert("runtimeConfig".into(), told.into());
        }
        // 0.3.x have no word for it at DEL.
        let chained = verb == Verb::Add || list.version.has_check();
        if let Some(result) = entry.result.as_ref().filter(|_| chained) {
            config.insert("prevResult".into(), result.clone());
        }
        let netns = netns_for(verb, &entry.netns);
        let env = vec![
            ("CNI_CONTAINERID", entry.container.to_string()),
            ("CNI_NETNS", netns),
            ("CNI_IFNAME", entry.interface.clone()),
            ("CNI_ARGS", String::new()),
        ];
        let text = Value::from(config).to_string();
        self.call(&Call { verb, kind: &plugin.kind, config: text.as_bytes(), env, mark: &self.mark(entry) })
    }

    fn call_alone<const N: usize>(
        &self,
        list: &Conflist,
        plugin: &PluginConf,
        verb: Verb,
        more: [(&str, Value); N],
    ) -> Result<Vec<u8>, CniError> {
        let mut config = config(list, plugin);
        config.extend(more.into_iter().map(|(k, v)| (k.to_owned(), v)));
        let text = Value::from(config).to_string();
        let mark = format!("{} of {}", verb.name(), list.name);
        self.call(&Call { verb, kind: &plugin.kind, config: text.as_bytes(), env: Vec::new(), mark: &mark })
    }
}

/// A namespace that is gone, with a reboot or with its container, has no path at DEL.
fn netns_for(verb: Verb, path: &Path) -> String {
    if verb == Verb::Del && !path.exists() { String::new() } else { path.display().to_string() }
}

fn parse(conflist: &str, network: &str) -> Result<Conflist, CniError> {
    Conflist::parse(conflist).map_err(|e| CniError::Conflist { network: network.to_owned(), why: e.to_string() })
}

/// What a plugin is given: its part of the list, with the list's name and version.
fn config(list: &Conflist, plugin: &PluginConf) -> Map<String, Value> {
    let mut config = plugin.conf.clone();
    config.insert("cniVersion".into(), list.version.text().into());
    config.insert("name".into(), list.name.clone().into());
    config
}
