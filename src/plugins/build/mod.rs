//! What a directive is to the rest of the program, and how its plugin is built.
//!
//! ```text
//! Setting (a directive's configuration, comparable) ─┬ configure ─► BlockOptions: listeners, process
//!                                                    ├ addresses, index_request, check
//!                                                    └ build ─► BlockBuilder: plugins, pages, periodic work
//! ```
//!
//! The program knows directives only through [`Setting`], so that a directive is one file or folder and one row of the
//! table.

mod block;
mod builder;
mod index_request;
mod options;
mod resources;
mod setting;

pub use block::{ServerBlock, ZoneKey};
pub use builder::{
    ApplyTask, BlockBuilder, BlockContext, BoundTask, BuiltBlock, Chore, Hook, ListenerInfo, PageRequest, PageTask,
};
pub use index_request::{ApiAddress, ApiConfig, IndexRequest};
pub use options::{BlockOptions, ListenerLimits, ReloadTiming, TimeoutOptions};
pub use resources::{ActivePlugin, ActivePlugins, CarriedOver, ConfigurationState, Lifecycle, Phase, Resources};
pub use setting::{BuildError, Comparable, LiveZone, ReadDirective, Setting};
