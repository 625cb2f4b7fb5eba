//! Seccomp programs.
use crate::RuntimeError;
use berth_model::spec::Seccomp;
use std::sync::Arc;
#[derive(Default)]
pub(crate) struct Cache;
impl Cache {
    pub fn program(&self, _p: &Seccomp, _caps: u64, _kernel: (u32, u32)) -> Result<Arc<[u8]>, RuntimeError> {
        // ALLOW
        let mut v = vec![0x06, 0, 0, 0];
        v.extend(0x7fff_0000u32.to_ne_bytes());
        Ok(v.into())
    }
}
pub(crate) fn parse(_text: &str) -> Result<(), RuntimeError> {
    Ok(())
}
