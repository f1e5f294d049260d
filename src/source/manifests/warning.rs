//! Problems of manifests that do not prevent serving.

use std::fmt;
use std::path::PathBuf;

use crate::cluster::model::{Kind, ObjectKey};
use crate::source::convert::Invalid;

/// The maximum size of a file in MiB. The dumps of the largest clusters have some tens of MiB.
pub const MAX_FILE_MIB: u64 = 256;

/// A problem in a file. Its text has the place, the problem and its consequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Warning {
    /// The file, or the folder that cannot be read.
    pub file: PathBuf,
    /// The object, if there is one: kind, namespace and name as far as they are known.
    pub object: Option<(Kind, ObjectKey)>,
    /// The problem.
    pub problem: Problem,
    /// Whether the previous state of the file continues to be served.
    pub serves_previous: bool,
}

/// A problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The path is neither a file nor a folder, for instance a pipe.
    #[error("neither a file nor a folder")]
    NotAFile,
    /// The folder has no file that could be a manifest.
    #[error("no file in it is a manifest (*.yaml, *.yml or *.json)")]
    NoFile,
    /// There is no object of a relevant kind.
    #[error("no Namespace, Service, EndpointSlice or Pod")]
    NoObject,
    /// The file is too large.
    #[error("{mib} MiB are more than the limit of {MAX_FILE_MIB} MiB")]
    TooLarge {
        /// The size in MiB.
        mib: u64,
    },
    /// The file is not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// The file changed repeatedly while it was read.
    #[error("changed while it was read; it is read again soon")]
    Unsettled,
    /// The text is neither YAML nor JSON.
    #[error("{reason}")]
    Syntax {
        /// The line, from 1.
        line: Option<u64>,
        /// The message of the parser.
        reason: String,
    },
    /// A document is a list or a scalar.
    #[error("a document that is not a map is not an object of the API")]
    NotAnObject,
    /// A document without kind.
    #[error("a document without kind is not an object of the API")]
    NoKind,
    /// The object is skipped.
    #[error("{0}; the object is skipped")]
    Invalid(Invalid),
    /// A value of the object is ignored.
    #[error("{0}; the value is ignored")]
    Ignored(Invalid),
    /// Further values are ignored.
    #[error("{0} more values are ignored")]
    MoreIgnored(usize),
    /// A Service without an address. The API server would allocate one.
    #[error("spec.clusterIP is missing; the name has no address")]
    NoClusterIp,
    /// The object is in an earlier file, too.
    #[error("is also in {}; this one is served", .first.display())]
    Duplicate {
        /// The earlier file.
        first: PathBuf,
    },
    /// Manifests that list Namespaces must list all of them.
    #[error("no manifest has this Namespace, although some list others; names in it do not exist")]
    NoSuchNamespace,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Problem::Syntax { line: Some(line), .. } = &self.problem {
            write!(f, ":{line}")?;
        }
        if let Some((kind, ObjectKey { ns, name })) = &self.object {
            let name = if name.is_empty() { "(no name)" } else { name };
            let slash = if ns.is_empty() { "" } else { "/" };
            write!(f, ": {} {ns}{slash}{name}", kind.name())?;
        }
        write!(f, ": {}", self.problem)?;
        if self.serves_previous { f.write_str("; its last good state is served") } else { Ok(()) }
    }
}
