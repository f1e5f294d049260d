//! What a directive is to the rest of the program: a comparable configuration that builds its plugin.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::builder::BlockBuilder;
use super::index_request::IndexRequest;
use super::options::BlockOptions;
use crate::corefile::Diagnostics;
use crate::net::{Address, Interface};
use crate::wire::NameBuf;

/// The configuration of a directive, as read from the lines of one server block.
pub trait Setting: Comparable + fmt::Debug + Send + Sync {
    /// Changes how the block's listeners and the process are run.
    fn configure(&self, _options: &mut BlockOptions) {}

    /// Returns the addresses that the block listens on, if the directive restricts them. Addresses that this machine
    /// does not have are errors.
    fn addresses(&self, _interfaces: &[Interface], _diagnostics: &mut Diagnostics) -> Option<Vec<Address>> {
        None
    }

    /// Returns the cluster's objects that the plugin answers from.
    fn index_request(&self) -> Option<IndexRequest> {
        None
    }

    /// Returns the zones in which the plugin answers from a state that changes at any time, so that a cache in front of
    /// it must not.
    fn live_zones(&self) -> Vec<LiveZone> {
        Vec::new()
    }

    /// Returns the zones in which the plugin answers every query, so that no plugin after it gets one.
    fn ended_zones(&self) -> Vec<NameBuf> {
        Vec::new()
    }

    /// Returns the errors that [`Setting::build`] would report because of what only this machine has, such as files.
    fn check(&self) -> Vec<BuildError> {
        Vec::new()
    }

    /// Builds the plugin, and registers whatever else the directive contributes.
    fn build(&self, _block: &mut BlockBuilder<'_>) -> Result<(), BuildError> {
        Ok(())
    }
}

/// The equality of settings of any type: a reload keeps what is built from equal settings.
pub trait Comparable: Any {
    /// Returns whether this is equal to another setting.
    fn is_equal(&self, other: &dyn Any) -> bool;
}

impl<T: Any + PartialEq> Comparable for T {
    fn is_equal(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>().is_some_and(|other| self == other)
    }
}

/// A directive of a server block, read.
#[derive(Clone, Debug)]
pub struct ReadDirective {
    /// Its name.
    pub name: &'static str,
    setting: Arc<dyn Setting>,
}

impl ReadDirective {
    /// Creates a directive from its configuration.
    pub fn new(name: &'static str, setting: Arc<dyn Setting>) -> ReadDirective {
        ReadDirective { name, setting }
    }
}

impl Deref for ReadDirective {
    type Target = dyn Setting;

    fn deref(&self) -> &Self::Target {
        &*self.setting
    }
}

impl PartialEq for ReadDirective {
    fn eq(&self, other: &ReadDirective) -> bool {
        let other_setting: &dyn Any = &*other.setting;
        self.name == other.name && self.setting.is_equal(other_setting)
    }
}

/// A zone of which some answers are live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveZone {
    /// The zone.
    pub zone: NameBuf,
    /// Every name in the zone is answered live; otherwise only names that the plugin claims
    /// ([`crate::chain::Plugin::claims`]).
    pub is_whole: bool,
}

/// An error that only the machine shows, such as a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

impl From<String> for BuildError {
    fn from(message: String) -> BuildError {
        BuildError(message)
    }
}
