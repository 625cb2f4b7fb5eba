//! Layer stores and overlay root file systems.
//!
//! A layer comes in as one uncompressed tar ([`LayerStore::writer`]) and is kept by the digest of that tar in one of two forms:
//! - **erofs** (Linux 6.12): the tar as it is, and a small EROFS index of ours beside it ([`erofs`]); mounted from the two files;
//! - **directory**: the tree written out ([`unpack`]), for older kernels.
//!
//! Both are made from one [`tree::Tree`], where all decisions about hostile tars are made, so a layer means the same in both.
//! [`LayerStore::mount`] joins layers with overlayfs into a detached mount that the host's mount table never shows.
//!
//! Nothing here runs by itself but one thread that empties the store's trash; everything else happens in the caller's thread and blocks.
//! Not done here: digests (the caller has checked them), reference counts (the node knows what is in use), user namespaces (lower layers
//! are shared mounts; an idmapped clone of one can be put in their place).
#![forbid(unsafe_code)]

mod changes;
mod erofs;
mod error;
mod overlay;
mod remove;
mod shift;
mod store;
pub use berth_tar as tar;
pub mod tree;
mod unpack;
mod usage;
mod writer;

pub use changes::{Change, ChangeKind, Upper};
pub use erofs::{IndexError, write_index};
pub use error::RootfsError;
pub use overlay::{MAX_LAYERS, MountOptions, RootMount, WritableLayer};
pub use remove::remove_tree;
pub use shift::Shift;
pub use store::{Driver, LayerInfo, LayerStore, Whole};
pub use usage::tree_bytes;
pub use writer::LayerWriter;
