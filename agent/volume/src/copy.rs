//! Trees of files from one folder to another: owners, modes, attributes, hard links and holes as they were. What is copied may be
//! changed meanwhile by those who use it; nobody leads out of either folder by that.

use crate::{Act, VolumeError};
use berth_tar::{ExtractError, Extracted, Extractor, Owner, Packer, Packing, Rules, Top};
use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

/// Writes a tar into `base`, the root of a volume, whose own entry counts too. Device nodes are left out.
pub fn extractor(base: OwnedFd) -> Extractor {
    let rules =
        Rules { owner: Owner::Kept, top: Top::AsIs, skip_devices: true, keep_top: true, follow: None, ids: None };
    Extractor::new(base, rules)
}

/// Between a packer and an extractor: no tar is ever whole in memory.
struct Joint<'a> {
    into: &'a RefCell<Extractor>,
    problem: &'a RefCell<Option<ExtractError>>,
}

impl Write for Joint<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.into.borrow_mut().push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) => {
                *self.problem.borrow_mut() = Some(e);
                Err(io::Error::other("the other side of the copy failed"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies what is in the folder `from`, and the folder's own owner, mode and time, into the empty folder `to`. `check` is asked again and
/// again; its error ends the copy. Sockets and device nodes are left out, and mounts below `from` come empty.
///
/// # Errors
/// `Extract`: writing; `Io`: reading.
pub fn copy_tree(
    from: BorrowedFd<'_>,
    to: OwnedFd,
    check: &dyn Fn() -> io::Result<()>,
) -> Result<Extracted, VolumeError> {
    let (into, problem) = (RefCell::new(extractor(to)), RefCell::new(None));
    let packing = Packing { one_file_system: true, ..Packing::default() };
    let mut packer = Packer::new(Joint { into: &into, problem: &problem }, packing, check);
    let packed = packer.add(from, b".").and_then(|()| packer.finish().map(drop));
    if let Some(e) = problem.take() {
        return Err(e.into());
    }
    packed.act(|| "copying files".into())?;
    Ok(into.into_inner().finish()?)
}
